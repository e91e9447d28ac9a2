"""One layer of a network made coarser while all others stay as they are: what a sensitivity scan measures."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from efficient_matcher.errors import ConfigError
from efficient_matcher.learn.cluster import FEWEST_BITS, MOST_BITS, cluster_weight
from efficient_matcher.learn.prune import MagnitudePruning, prune_magnitude, weight_layers
from efficient_matcher.learn.superglue import SuperGlue
from efficient_matcher.learn.superpoint import SuperPoint

METHODS = ("magnitude", "kmeans", "linear")


def check_level(method: str, level: float) -> None:
    """Raise ConfigError where a method has no such level: a share of zeros for magnitude, else bits."""
    if method not in METHODS:
        raise ConfigError(f"unknown method '{method}', known: {', '.join(METHODS)}")
    if method == "magnitude":
        if not 0 <= level < 1:
            raise ConfigError(f"ratio {level:g} is outside [0,1)")
    elif not (FEWEST_BITS <= level <= MOST_BITS and level == int(level)):
        raise ConfigError(f"{level:g} bits; {method} takes whole numbers from {FEWEST_BITS} to {MOST_BITS}")


def coarser(network: SuperPoint | SuperGlue, layer: str, method: str, level: float) -> SuperPoint | SuperGlue:
    """A copy of a network with one layer's weights pruned or rounded. Raises ConfigError, and RecipeError for a layer
    that is not there or would be emptied."""
    check_level(method, level)
    network = copy.deepcopy(network)
    if method == "magnitude":
        prune_magnitude(network, MagnitudePruning(0.0, layers={layer: level}))
        return network
    layers = weight_layers(network)
    if layer not in layers:
        raise ConfigError(f"unknown layer '{layer}' (known: {', '.join(layers)})")
    change = cluster_weight if method == "kmeans" else round_linearly
    change(layers[layer].weight, int(level))
    return network


@torch.no_grad()
def round_linearly(weight: Tensor, bits: int) -> None:
    """Round a weight tensor [out,...] in place to 2 ** bits - 1 equal steps per output channel, zero being one."""
    rows = weight.reshape(len(weight), -1)
    step = rows.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
    step[step == 0] = 1
    weight.copy_(((rows / step).round() * step).view(weight.shape))
