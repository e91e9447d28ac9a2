"""A SuperPoint without a full-resolution map, begun with what fits of a trained one.

At full resolution a CPU spends a third of the extractor's time on two layers of few channels, most of it moving
memory. The half stem reads 6x6 pixels at a stride of 2 instead; the location branch then finds the pixel from the map
at half resolution, which has four times the channels to tell it.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from efficient_matcher.learn.superpoint import SuperPoint


def with_half_stem(network: SuperPoint, seed: int = 0, width: int = 0) -> SuperPoint:
    """A network with `half_stem`, to be trained: what fits is copied, the rest is new.

    width: of 1a and 1b, in place of three layers as wide as they were; 0 keeps all widths. The 8-bit kernels take
    hardly longer for 32 outputs than for 16, so two wide layers before 2b see more and cost less than three narrow.
    """
    torch.manual_seed(seed)
    widths = (width, width, 0, *network.config.widths[3:]) if width else network.config.widths
    student = SuperPoint(replace(network.config, widths=widths, half_stem=True))
    own = student.state_dict()
    known = {name: value for name, value in network.state_dict().items()
             if name in own and value.shape == own[name].shape}
    student.load_state_dict({**own, **known})
    return student
