"""The locator: a small network that says where a keypoint lies, from the pixels around it.

What detectors find at a coarse scale is placed by a second look at the image's own pixels, as a learned step between
the two (compare Kim et al., "Learning to make keypoints sub-pixel accurate", 2024). Two layers over one patch are
enough where the patch is normalised and the network knows what the score map says of the place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from efficient_matcher.learn.superglue import TokenLinear

HINTS = 3  # x and y in the pixel, spread
MOST_MOVE_PX = 3.0
LOG_SPREADS = (-4.0, 4.0)  # of the answers; beyond, nothing is gained
FIRST_WEIGHTS = 1e-3  # of the last layer, at most
LEAST_CONTRAST = 4.0  # grey levels that are added to a patch's standard deviation: noise is not blown up


class Locator(nn.Module):
    """Patches [N,S*S] of grey levels and hints [N,3] -> moves [N,2] px and spreads [N]; see `core.locate`.

    widths: of the hidden layers. reach_px: of a patch, whose side S is 2 reach_px + 1. Begins as what changes next to
    nothing; not with zeros, which would be taken for pruned weights.
    """

    def __init__(self, widths: tuple[int, ...], reach_px: int) -> None:
        super().__init__()
        self.reach_px = reach_px
        sizes = ((2 * reach_px + 1) ** 2 + HINTS, *widths, 3)
        self.layers = nn.ModuleList(TokenLinear(inputs, outputs) for inputs, outputs in zip(sizes[:-1], sizes[1:]))
        nn.init.uniform_(self.layers[-1].weight, -FIRST_WEIGHTS, FIRST_WEIGHTS)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, patches: Tensor, hints: Tensor) -> tuple[Tensor, Tensor]:
        """Moves [N,2], at most MOST_MOVE_PX along an axis, and spreads [N] above 0."""
        x = torch.cat([normalised(patches), hints], 1)
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        x = self.layers[-1](x)
        return x[:, :2].clamp(-MOST_MOVE_PX, MOST_MOVE_PX), x[:, 2].clamp(*LOG_SPREADS).exp()


def normalised(patches: Tensor) -> Tensor:
    """Patches [N,S*S] of mean 0 and standard deviation 1, or less where there is little to see."""
    centred = patches.float() - patches.float().mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True).sqrt() + LEAST_CONTRAST)
