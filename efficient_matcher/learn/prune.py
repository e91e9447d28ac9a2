"""Fine-grained pruning: the weights of least magnitude become zero, and stay zero while finetuning.

The mask is the exact zeros of a weight tensor; the weight file's note `pruned` names the layers where they are meant.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrize import is_parametrized

from efficient_matcher.errors import RecipeError
from efficient_matcher.learn.recipe import setting
from efficient_matcher.learn.superglue import TokenLinear

SPROUT = 1e-6  # of a weight that was zero and begins again


@dataclass(frozen=True)
class MagnitudePruning:
    """Which share of the weights goes.

    layers: shares of layers by name or pattern (`gnn.layers.*.mlp.*`), the last that fits counts; with scope `global`
    a layer named here keeps to its own share, and the rest share `ratio` among them.
    """

    ratio: float = setting(0.0, minimum=0.0, below=1.0)
    scope: Literal["layer", "global"] = "layer"
    layers: dict[str, float] = setting(dict, minimum=0.0, below=1.0)


@dataclass(frozen=True)
class Ramp(MagnitudePruning):
    """Pruning while finetuning, by steps of the run.

    cubic: the share rises as 1 - (1 - t)^3; rounds: `rounds` equal steps, prune-finetune-prune.
    """

    schedule: Literal["cubic", "rounds"] = "cubic"
    start: float = setting(0.0, minimum=0.0, below=1.0)  # share of the run
    end: float = setting(0.6, minimum=0.0, below=1.0)
    every: int = setting(25, minimum=1)  # cubic: steps between prunings
    rounds: int = setting(4, minimum=1)

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise ValueError(f"end {self.end} must be after start {self.start}")

    def share(self, step: int, steps: int) -> float:
        """Part in [0,1] of the final ratios that holds from `step` of `steps` on."""
        if self.schedule == "cubic" and step < self.end * steps:
            step -= step % self.every
        time = (step / steps - self.start) / (self.end - self.start)
        if self.schedule == "rounds":
            return min(self.rounds, int(time * self.rounds) + 1) / self.rounds if time >= 0 else 0.0
        return 1 - (1 - min(1.0, max(0.0, time))) ** 3


@dataclass(frozen=True)
class Regrowth:
    """Zeros that change places while finetuning (Evci et al., "Rigging the lottery", 2020; by gradients summed over
    many steps, as a single step's say little in small batches)."""

    share: float = setting(0.2, minimum=0.0, below=1.0)  # of the weights left, at first; falls as a cosine
    every: int = setting(100, minimum=1)  # steps
    until: float = setting(0.7, minimum=0.0, below=1.0)  # share of the run
    more: float = setting(0.0, minimum=0.0)  # zeros that return the first time and none for them, per weight left

    def share_at(self, step: int, steps: int) -> float:
        """Of the weights left, those that change places before `step` of `steps`; mostly none."""
        if not step or step % self.every or step > self.until * steps:
            return 0.0
        return self.share * 0.5 * (1 + math.cos(math.pi * step / (self.until * steps)))

    def more_at(self, step: int) -> float:
        """Zeros that return before `step` beyond those that change places, per weight left."""
        return self.more if step == self.every else 0.0


def weight_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Layers whose weights can be pruned, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, (nn.Conv2d, TokenLinear))}


def stored_weight(layer: nn.Module) -> Tensor:
    """The weight as the optimizer moves it, where the layer computes with another made of it."""
    return layer.parametrizations.weight.original if is_parametrized(layer, "weight") else layer.weight


def fitting_layers(layers: Collection[str], pattern: str) -> list[str]:
    """Names that fit a name or pattern; none for the branch of SuperPoint that the published network does not have.

    Raises RecipeError naming the pattern, if it fits nothing else.
    """
    named = [name for name in layers if fnmatchcase(name, pattern)]
    if not named and not (pattern.startswith("location") and "convPb" in layers):
        raise RecipeError(f"layers: unknown layer '{pattern}' (known: {', '.join(layers)})")
    return named


def prune_magnitude(network: nn.Module, recipe: MagnitudePruning, share: float = 1.0) -> dict[str, float]:
    """Set weights to zero in place; returns the share that is zero of each layer.

    share: part of the recipe's ratios, for schedules. Raises RecipeError naming the layer: unknown, or emptied.
    """
    layers = weight_layers(network)
    own, common = _ratios(layers, recipe)
    with torch.no_grad():
        masks = {name: _mask(stored_weight(layers[name]), ratio * share) for name, ratio in own.items()}
        masks.update(_common_masks({name: stored_weight(layers[name]) for name in common}, recipe.ratio * share))
        for name, mask in masks.items():
            if not mask.any():
                raise RecipeError(f"{name}: all its {mask.numel()} weights would go; lower its ratio")
        for name, mask in masks.items():
            stored_weight(layers[name]).mul_(mask)
    return sparsity(network)


def sparsity(network: nn.Module) -> dict[str, float]:
    """Share of zero weights of each layer."""
    return {name: float((layer.weight == 0).float().mean()) for name, layer in weight_layers(network).items()}


def nonzero_parameters(network: nn.Module) -> int:
    """Parameters that are not zero."""
    return sum(int(torch.count_nonzero(parameter)) for parameter in network.parameters())


class Masks:
    """Keeps zeros of a network's weights zero through an optimizer's steps; or lets them change places.

    Gradients of masked weights are to be zeroed by `mask_gradients`; `hold` does the same to the weights, which matters
    after a new pruning, where the optimizer's momentum would move them.
    """

    def __init__(self, network: nn.Module, collect: bool = False) -> None:
        """collect: sum the gradients up, which `regrow` asks."""
        self._weights = [stored_weight(layer) for layer in weight_layers(network).values()]
        self._masks: list[Tensor] = []
        self.wanted = [torch.zeros_like(weight) for weight in self._weights] if collect else []  # summed gradients
        self.renew()

    def renew(self) -> None:
        """Take the zeros of now as the masks."""
        self._masks = [(weight.detach() != 0).to(weight.dtype) for weight in self._weights]

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set gradients of masked weights to zero, once they are the same in all processes."""
        for index, (weight, mask) in enumerate(zip(self._weights, self._masks)):
            if weight.grad is None:
                continue
            if self.wanted:
                self.wanted[index] += weight.grad
            weight.grad.mul_(mask)

    @torch.no_grad()
    def hold(self) -> None:
        """Set masked weights to zero."""
        for weight, mask in zip(self._weights, self._masks):
            weight.mul_(mask)

    @torch.no_grad()
    def regrow(self, share: float, more: float = 0.0) -> None:
        """In each layer, `share` of the weights that are left become zero, the least; as many zeros return, and `more`,
        those whose gradients since the last time add up to the most. They begin so small that nothing changes, but for
        not being zero, which is what tells them from pruned ones."""
        for index, (weight, wanted) in enumerate(zip(self._weights, self.wanted)):
            flat, left = weight.flatten().clone(), self._masks[index].flatten() != 0
            there, zeros = int(left.sum()), int((~left).sum())
            least = torch.where(left, flat.abs(), torch.inf).topk(min(round(share * there), zeros), largest=False).indices
            returning = min(round(share * there) + round(more * there), zeros)
            most = torch.where(left, -1.0, wanted.flatten().abs()).topk(returning).indices
            flat[least] = 0
            flat[most] = torch.where(wanted.flatten()[most] > 0, -SPROUT, SPROUT)
            weight.copy_(flat.view_as(weight))
            wanted.zero_()
        self.renew()


def _ratios(layers: dict[str, nn.Module], recipe: MagnitudePruning) -> tuple[dict[str, float], list[str]]:
    """Layers with a ratio of their own, and those that share one."""
    own: dict[str, float] = {}
    for pattern, ratio in recipe.layers.items():
        own.update(dict.fromkeys(fitting_layers(layers, pattern), ratio))
    rest = [name for name in layers if name not in own]
    if recipe.scope == "layer":
        return {**own, **dict.fromkeys(rest, recipe.ratio)}, []
    return own, rest


def _mask(weight: Tensor, ratio: float) -> Tensor:
    flat = weight.reshape(-1)  # the library cannot do this itself to weights that are laid out channels last
    mask = prune.L1Unstructured(round(ratio * weight.numel())).compute_mask(flat, torch.ones_like(flat))
    return mask.view(weight.shape)


def _common_masks(weights: dict[str, Tensor], ratio: float) -> dict[str, Tensor]:
    if not weights:
        return {}
    mask = _mask(torch.cat([weight.flatten() for weight in weights.values()]), ratio)
    parts = mask.split([weight.numel() for weight in weights.values()])
    return {name: part.view_as(weight) for (name, weight), part in zip(weights.items(), parts)}
