"""Codebooks: the weights of a layer share a few values, placed where the weights are (Han et al., Deep Compression).

Zeros of pruned layers stay exact and count as no value of the codebook. Meant for folded networks (`fold.py`): there a
layer's codebook is that of the deployed tensor. Scalars, such as the dustbin of the optimal matching layer, are a
codebook of one value, which finetuning moves as it does the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from efficient_matcher.learn.prune import fitting_layers, weight_layers
from efficient_matcher.learn.recipe import setting

FEWEST_BITS, MOST_BITS = 2, 8


@dataclass(frozen=True)
class Codebooks:
    """How many values a layer's weights may have.

    bits: 2 ** bits values. layers: bits of layers by name or pattern (`gnn.layers.*.mlp.*`), the last that fits
    counts. placement: where centroids begin: `density` (equally many weights each), `linear` (from the least to the
    largest weight). biases: `half` rounds them to half precision, `float` leaves them.
    """

    bits: int = setting(4, minimum=FEWEST_BITS, maximum=MOST_BITS)
    layers: dict[str, int] = setting(dict, minimum=FEWEST_BITS, maximum=MOST_BITS)
    placement: Literal["density", "linear"] = "density"
    biases: Literal["half", "float"] = "half"


@dataclass(frozen=True)
class CodebookRecipe:
    """Recipe of `quantize --method kmeans`."""

    superpoint: Codebooks = Codebooks()
    superglue: Codebooks = Codebooks()


@dataclass(frozen=True)
class LayerCodebook:
    """What became of a layer: weights that are not zero, values they have now, root mean square change over that of
    the weights."""

    bits: int
    weights: int
    nonzero: int
    values: int
    relative_error: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for reports."""
        return asdict(self)


def cluster(network: nn.Module, recipe: Codebooks) -> dict[str, LayerCodebook]:
    """Give the weights of each layer at most 2 ** bits values besides zero, in place; what became of each layer.

    Raises RecipeError naming a layer that is not there.
    """
    layers = weight_layers(network)
    bits = layer_bits(layers, recipe)
    result = {}
    with torch.no_grad():
        for name, layer in layers.items():
            result[name] = cluster_weight(layer.weight, bits[name], recipe.placement)
    round_biases(network, recipe)
    return result


def layer_bits(layers: Mapping[str, nn.Module], recipe: Codebooks) -> dict[str, int]:
    """Bits of each layer. Raises RecipeError naming a layer that is not there."""
    bits = dict.fromkeys(layers, recipe.bits)
    for pattern, own in recipe.layers.items():
        bits.update(dict.fromkeys(fitting_layers(layers, pattern), own))
    return bits


@torch.no_grad()
def round_biases(network: nn.Module, recipe: Codebooks) -> None:
    """Round biases to half precision, if the recipe says so."""
    if recipe.biases == "half":
        for layer in weight_layers(network).values():
            layer.bias.copy_(layer.bias.half())


def centroids(values: NDArray[np.floating], count: int, placement: str = "density", rounds: int = 200,
              ) -> NDArray[np.float64]:
    """K-means in one dimension: `count` centroids, or fewer where `values` [n] has fewer distinct ones, ascending.

    Values are sorted once; each round is a search for the borders between centroids and differences of running sums,
    so that a round takes microseconds whatever n is. Ends when nothing moves.
    """
    known = np.unique(values)
    if len(known) <= count:
        return known.astype(np.float64)
    ordered = np.sort(values).astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    if placement == "linear":
        centres = np.linspace(ordered[0], ordered[-1], count)
    else:
        centres = ordered[((np.arange(count) + 0.5) / count * len(ordered)).astype(int)]
    borders = None
    for _ in range(rounds):
        found = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        if borders is not None and np.array_equal(found, borders):
            break
        borders = found
        ends = np.concatenate([[0], borders, [len(ordered)]])
        sizes = np.diff(ends)
        centres = np.where(sizes, np.diff(sums[ends]) / np.maximum(sizes, 1), centres)
    return np.unique(centres)


class SharedValues:
    """Keeps the clusters of a network together while it is finetuned.

    A hook on each weight tensor sums the gradients over each cluster, as the paper's centroid finetuning does; zeros
    get none. Every optimizer that treats elements alike then moves a cluster as one value; `hold` takes away what
    rounding may have moved apart, and copies the clusters to an averaged network.
    """

    def __init__(self, network: nn.Module) -> None:
        self._weights = {name: layer.weight for name, layer in weight_layers(network).items()}
        self._members: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        for name, weight in self._weights.items():
            values, members = torch.unique(weight.detach().reshape(-1), return_inverse=True)
            self._members[name], self._counts[name] = members, torch.bincount(members)
            moves = (values != 0).to(weight.dtype)
            weight.register_hook(lambda gradient, name=name, moves=moves: self._summed(name, gradient, moves))

    @torch.no_grad()
    def hold(self, network: nn.Module | None = None) -> None:
        """Make each cluster one value, its mean, in the network itself or in another of the same build."""
        layers = {name: layer.weight for name, layer in weight_layers(network).items()} if network else self._weights
        for name, weight in layers.items():
            sums = self._sums(name, weight.double())
            weight.copy_((sums / self._counts[name])[self._members[name]].view(weight.shape))

    def _sums(self, name: str, values: Tensor) -> Tensor:
        empty = values.new_zeros(len(self._counts[name]))
        return empty.index_add_(0, self._members[name], values.reshape(-1))

    def _summed(self, name: str, gradient: Tensor, moves: Tensor) -> Tensor:
        return (self._sums(name, gradient) * moves)[self._members[name]].view(gradient.shape)


@torch.no_grad()
def cluster_weight(weight: Tensor, bits: int, placement: str = "density") -> LayerCodebook:
    """Give one weight tensor at most 2 ** bits values besides zero, in place."""
    values = weight.detach().reshape(-1).numpy().copy()
    kept = np.flatnonzero(values)
    if not len(kept):
        return LayerCodebook(bits, len(values), 0, 0, 0.0)
    before = values[kept]
    centres = centroids(before, 2 ** bits, placement)
    after = centres[np.searchsorted((centres[1:] + centres[:-1]) / 2, before)].astype(np.float32)
    after[after == 0] = np.finfo(np.float32).tiny  # a zero would be taken for a pruned weight
    values[kept] = after
    weight.copy_(torch.from_numpy(values).view(weight.shape))
    error = float(np.sqrt(np.mean((after - before) ** 2.0) / np.mean(before ** 2.0)))
    return LayerCodebook(bits, len(values), len(kept), len(np.unique(after)), error)
