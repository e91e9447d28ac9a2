"""What an extractor says of an image, averaged over the image's mirror images.

Each answer errs by itself in where it puts a keypoint, by where that lies in its cell of 8x8 pixels and by what the network makes of
noise; the mean of four errs less. A network can learn that mean as its teacher's answer.

Images are [B,1,H,W], logits [B,65,h,w], coarse descriptors [B,D,h,w].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from efficient_matcher.learn.superpoint import CELL, SuperPoint

MIRRORS = ((3,), (2,), (2, 3))  # axes that are turned round, beside the image itself
LEAST_PROBABILITY = 1e-9


@torch.no_grad()
def mirrored_answers(teacher: SuperPoint, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the mean probability over the image and its MIRRORS, and the descriptors of the image itself, which has
    the others' nowhere: a mirrored pattern is another one."""
    logits, descriptors = _asked(teacher, images)
    total = logits.float().softmax(1)
    for axes in MIRRORS:
        total = total + mirrored(_asked(teacher, images.flip(axes))[0].float().softmax(1), axes)
    return (total / (1 + len(MIRRORS))).clamp(min=LEAST_PROBABILITY).log(), descriptors


def mirrored(probabilities: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Of a mirrored image, laid out as of the image: cells change places, and places within the cells."""
    places = F.pixel_unshuffle(F.pixel_shuffle(probabilities[:, :-1], CELL).flip(axes), CELL)
    return torch.cat([places, probabilities[:, -1:].flip(axes)], dim=1)


def _asked(teacher: SuperPoint, images: Tensor) -> tuple[Tensor, Tensor]:
    return teacher.eval()(images.contiguous(memory_format=torch.channels_last))
