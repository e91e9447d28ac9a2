"""A SuperPoint of fewer layers, begun with what fits of a trained one.

At full resolution a CPU spends a third of the extractor's time on two layers of few channels, most of it moving
memory. The half stem reads 6x6 pixels at a stride of 2 instead; the location branch then finds the pixel from the map
at half resolution, which has four times the channels to tell it. What is left at 1/2 and 1/4 can go without a layer
more, and the location branch without its hidden one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from efficient_matcher.learn.superpoint import ENCODER, SuperPoint, SuperPointConfig
from efficient_matcher.learn.weights import take_what_fits


def with_half_stem(network: SuperPoint, seed: int = 0, width: int = 0) -> SuperPoint:
    """A network with `half_stem`, to be trained: what fits is copied, the rest is new.

    width: of 1a and 1b, in place of three layers as wide as they were; 0 keeps all widths. The 8-bit kernels take
    hardly longer for 32 outputs than for 16, so two wide layers before 2b see more and cost less than three narrow.
    """
    widths = (width, width, 0, *network.config.widths[3:]) if width else network.config.widths
    return _begun(network, replace(network.config, widths=widths, half_stem=True), seed)


def with_fewer_layers(network: SuperPoint, without: Collection[str] = (), direct_location: bool = False,
                      seed: int = 0) -> SuperPoint:
    """A network without the named encoder layers, to be trained: what fits is copied, the rest is new.

    direct_location: its location branch becomes a `DirectLocation`. Raises ValueError for a network without a half
    stem, or a layer that cannot be left out.
    """
    widths = tuple(0 if name in without else width for name, width in zip(ENCODER, network.config.widths))
    direct = {"location_width": 0, "direct_location": True} if direct_location else {}
    return _begun(network, replace(network.config, widths=widths, **direct), seed)


def _begun(network: SuperPoint, config: SuperPointConfig, seed: int) -> SuperPoint:
    torch.manual_seed(seed)
    student = SuperPoint(config)
    take_what_fits(student, network)
    return student
