"""Structured pruning: whole channels, heads and layers leave, and a smaller network of the same class comes back.

What can be made narrower has a name, as recipes use it:
- SuperPoint: `1a` .. `4b`, `Pa`, `Da` (outputs of those convolutions), `location` (width of the location branch);
- SuperGlue: `gnn.<i>.hidden` (of a layer's MLP), `gnn.<i>.heads`, `kenc.<i>` (keypoint encoder), `pairs` (of one
  self and one cross layer), `keys` (keypoints of an image that attention reads, the best ones; no weight leaves);
- both at once, `narrow_pair`: the width of the descriptors.
Which tensors go together is torch-pruning's dependency graph; the criteria are its own too.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from efficient_matcher.errors import MatcherError
from efficient_matcher.learn.matcher_sketch import MatcherSketch, network_of_sketch
from efficient_matcher.learn.superglue import SuperGlue
from efficient_matcher.learn.superpoint import ENCODER, SuperPoint

Criterion = Literal["frobenius", "taylor", "random"]
Network = SuperPoint | SuperGlue
PAIRS, KEYS = "pairs", "keys"


class PruneError(MatcherError):
    """An unknown layer, a size that cannot be, or a network that would be left without one of its parts."""


@dataclass(frozen=True)
class _Dimension:
    """Outputs of module `layer`; each of the `size` units is the channels unit, unit + size, unit + 2 size .."""

    layer: str
    size: int


def sizes(network: Network) -> dict[str, int]:
    """What `narrow` can change, and how large it is now."""
    found = {name: dimension.size for name, dimension in _dimensions(network).items()}
    return {**found, PAIRS: network.config.layers} if isinstance(network, SuperGlue) else found


def limits(network: Network) -> dict[str, int]:
    """The largest size of all that `narrow` takes: `sizes`, and the keys that a SuperGlue's attention reads."""
    own = {KEYS: network.config.keys or sys.maxsize} if isinstance(network, SuperGlue) else {}
    return {**sizes(network), **own}


def narrow(network: Network, targets: Mapping[str, int], criterion: Criterion = "frobenius", seed: int = 0) -> Network:
    """A copy with the named sizes, the least important units gone; the network itself is left alone.

    criterion: frobenius (norm of all weights that would go), taylor (first order change of the loss; needs the
    gradients of a backward pass on `network`), random (with `seed`). Raises PruneError.
    """
    check_targets(network, targets)
    if isinstance(network, SuperGlue) and KEYS in targets:
        network = _with_keys(network, targets[KEYS])
        targets = {name: size for name, size in targets.items() if name != KEYS}
    if all(size == sizes(network)[name] for name, size in targets.items()):
        return _copied(network)
    _check_gradients(network, criterion)
    network = _copied(network)
    if targets.get(PAIRS, 0):
        network = _without_pairs(network, targets[PAIRS], criterion, seed)
    model = _Model(network)
    for name, size in targets.items():
        if name != PAIRS and name in model.dimensions:  # layers of a pair that is gone are gone
            model.narrow(name, size, criterion, seed)
    return model.network()


def importances(network: Network, criterion: Criterion = "frobenius", seed: int = 0) -> dict[str, Tensor]:
    """Importance of each unit of each dimension but `pairs`, by `narrow`'s criteria; only its order has a meaning.

    Raises PruneError as `narrow` does.
    """
    _check_unfolded(network)
    _check_gradients(network, criterion)
    model = _Model(_copied(network))
    return {name: model.unit_importance(name, criterion, seed) for name in model.dimensions}


def narrow_pair(superpoint: SuperPoint, superglue: SuperGlue, descriptor_dim: int, criterion: Criterion = "frobenius",
                seed: int = 0) -> tuple[SuperPoint, SuperGlue]:
    """Copies of both with narrower descriptors: the same channels leave both. Raises PruneError."""
    check_descriptors(superpoint, superglue, descriptor_dim)
    current = superglue.config.descriptor_dim
    models = _Model(_copied(superpoint)), _Model(_copied(superglue))
    layers = "convDb", "final_proj"
    scores = sum(model.importance(layer, criterion, seed) for model, layer in zip(models, layers))
    for model, layer in zip(models, layers):
        model.remove(layer, scores.argsort()[: current - descriptor_dim].tolist())
    return models[0].network(), models[1].network()


def check_descriptors(superpoint: SuperPoint, superglue: SuperGlue, descriptor_dim: int) -> None:
    """Raise PruneError for a pair whose descriptors cannot be made so narrow."""
    _check_unfolded(superglue)
    current = superglue.config.descriptor_dim
    if superpoint.config.descriptor_dim != current:
        raise PruneError(f"SuperPoint describes in {superpoint.config.descriptor_dim} dimensions, SuperGlue reads "
                         f"{current}")
    if not 0 < descriptor_dim <= current:
        raise PruneError(f"descriptor width {descriptor_dim} is not from 1 to {current}")


def check_targets(network: Network, targets: Mapping[str, int]) -> None:
    """Raise PruneError naming the first part that is unknown or a size that cannot be; also for a folded network."""
    if set(targets) - {KEYS}:
        _check_unfolded(network)
    known = limits(network)
    for name, size in targets.items():
        if name not in known:
            raise PruneError(f"unknown layer '{name}' (known: {', '.join(known)})")
        if size < 1:
            raise PruneError(f"{name}: {size} would leave it empty")
        if size > known[name]:
            raise PruneError(f"{name}: {size} is more than the {known[name]} there are")


def _check_unfolded(network: Network) -> None:
    if isinstance(network, SuperGlue) and network.config.folded:
        raise PruneError("a folded SuperGlue cannot be narrowed, its layers have become one; prune channels before "
                         "single weights")


def _check_gradients(network: Network, criterion: Criterion) -> None:
    if criterion == "taylor" and all(parameter.grad is None for parameter in network.parameters()):
        raise PruneError("criterion taylor needs gradients: run a loss backwards through the network first")


def _dimensions(network: Network) -> dict[str, _Dimension]:
    config = network.config
    if isinstance(network, SuperPoint):
        widths = dict(config.encoder, Pa=config.detector_width, Da=config.descriptor_width)
        found = {name: _Dimension(f"conv{name}", width) for name, width in widths.items()}
        return {**found, "location": _Dimension("location.fuse", config.location_width)} if config.location_width else found
    found = {f"kenc.{i}": _Dimension(f"kenc.encoder.{3 * i}", width) for i, width in enumerate(config.keypoint_encoder)}
    for i, layer in enumerate(network.gnn.layers):
        found[f"gnn.{i}.hidden"] = _Dimension(f"gnn.layers.{i}.mlp.0", layer.mlp[0].bias.numel())
        found[f"gnn.{i}.heads"] = _Dimension(f"gnn.layers.{i}.attn.proj.0", layer.attn.heads)
    return found


class _Model:
    """A network in the form torch-pruning understands, its dependency graph, and the way back."""

    def __init__(self, network: Network) -> None:
        import torch_pruning as tp
        self._tp = tp
        self.dimensions = _dimensions(network)
        self._original = network
        self._heads = [layer.attn.heads for layer in network.gnn.layers] if isinstance(network, SuperGlue) else []
        self._model = network if isinstance(network, SuperPoint) else MatcherSketch(network)
        apart = [] if not isinstance(network, SuperPoint) or network.locator is None else list(network.locator.parameters())
        with torch.enable_grad():  # the library follows the tape
            self._graph = tp.DependencyGraph().build_dependency(self._model, _example(network), ignored_params=apart,
                                                                  verbose=not apart)

    def narrow(self, name: str, size: int, criterion: Criterion, seed: int) -> None:
        """Bring one named dimension to `size` units."""
        dimension = self.dimensions[name]
        gone = self.unit_importance(name, criterion, seed).argsort()[: dimension.size - size]
        channels = (gone[:, None] + dimension.size * torch.arange(self._width(dimension.layer) // dimension.size))
        self.remove(dimension.layer, sorted(channels.flatten().tolist()))
        if name.endswith(".heads"):
            self._heads[int(name.split(".")[1])] = size

    def unit_importance(self, name: str, criterion: Criterion, seed: int) -> Tensor:
        """One value per unit of a named dimension [size]."""
        dimension = self.dimensions[name]
        return self.importance(dimension.layer, criterion, seed).view(-1, dimension.size).sum(0)

    def importance(self, layer: str, criterion: Criterion, seed: int) -> Tensor:
        """One value per output channel of a layer [C], of all weights that would leave with it."""
        return _criterion(self._tp, criterion, seed)(self._group(layer, list(range(self._width(layer)))))

    def remove(self, layer: str, channels: list[int]) -> None:
        """Take output channels of a layer away, with everything that depends on them."""
        if channels:
            self._group(layer, channels).prune()

    def network(self) -> Network:
        """The narrower network, its configuration read off the tensors."""
        if isinstance(self._original, SuperGlue):
            return network_of_sketch(self._original.config, self._model, tuple(self._heads))
        network = SuperPoint(_superpoint_config(self._model)).to(dtype=next(self._model.parameters()).dtype)
        network.load_state_dict(self._model.state_dict())
        return network.eval()

    def _group(self, layer: str, channels: list[int]) -> Any:
        # `location.fuse` is the one layer named by what it reads: three layers together write that
        module = self._model.get_submodule(layer)
        inputs = layer == "location.fuse"
        prune = self._tp.prune_linear_out_channels if isinstance(module, nn.Linear) else (
            self._tp.prune_conv_in_channels if inputs else self._tp.prune_conv_out_channels)
        return self._graph.get_pruning_group(module, prune, idxs=channels)

    def _width(self, layer: str) -> int:
        module = self._model.get_submodule(layer)
        return module.out_features if isinstance(module, nn.Linear) else (
            module.in_channels if layer == "location.fuse" else module.out_channels)


def _criterion(tp: Any, criterion: Criterion, seed: int) -> Any:
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        return lambda group: torch.rand(len(group[0].idxs), generator=generator)
    if criterion == "frobenius":
        return tp.importance.GroupMagnitudeImportance(p=2)
    return tp.importance.GroupTaylorImportance()


def _example(network: Network) -> Any:
    if isinstance(network, SuperPoint):
        return torch.rand(1, 1, 32, 32)
    return torch.rand(5, 3), torch.rand(5, network.config.descriptor_dim)


def _superpoint_config(network: SuperPoint) -> Any:
    def width(layer: str) -> int:
        return network.get_submodule(layer).weight.shape[0]
    encoder = network.config.encoder
    return replace(network.config, widths=tuple(width(f"conv{name}") if name in encoder else 0 for name in ENCODER),
                   detector_width=width("convPa"), descriptor_width=width("convDa"), descriptor_dim=width("convDb"),
                   location_width=width("location.lateral2") if network.config.location_width else 0)


def _copied(network: Network) -> Network:
    twin = copy.deepcopy(network).eval()
    for own, other in zip(twin.parameters(), network.parameters()):  # without one, the loss does not depend on it
        own.grad = torch.zeros_like(own) if other.grad is None else other.grad.clone()
    return twin


def _with_keys(network: SuperGlue, count: int) -> SuperGlue:
    """A copy whose attention reads the first `count` keypoints alone."""
    network = _copied(network)
    network.config = replace(network.config, keys=count)
    for layer in network.gnn.layers:
        layer.attn.keys = count
    return network


def _without_pairs(network: SuperGlue, count: int, criterion: Criterion, seed: int) -> SuperGlue:
    """Keep `count` pairs of layers, in their order: those whose last layers' weights matter most."""
    pairs = [nn.ModuleList(network.gnn.layers[2 * i:2 * i + 2]) for i in range(network.config.layers)]
    scores = torch.tensor([_pair_score(pair, criterion) for pair in pairs])
    if criterion == "random":
        scores = torch.rand(len(pairs), generator=torch.Generator().manual_seed(seed))
    kept = sorted(scores.argsort(descending=True)[:count].tolist())
    network.gnn.layers = nn.ModuleList(layer for i in kept for layer in pairs[i])
    config = network.config

    def of_kept(values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(value for i in kept for value in values[2 * i:2 * i + 2])
    network.config = replace(config, layers=count, layer_heads=of_kept(config.layer_heads),
                             layer_hidden=of_kept(config.layer_hidden))
    return network


def _pair_score(pair: nn.ModuleList, criterion: Criterion) -> float:
    weights = [layer.mlp[-1].weight for layer in pair]  # what a layer adds to the tokens passes through these
    if criterion == "taylor":
        return float(sum((weight * weight.grad).sum().abs() for weight in weights))
    return float(sum(weight.detach().square().sum() for weight in weights))


