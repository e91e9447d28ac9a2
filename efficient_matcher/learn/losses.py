"""What SuperPoint is trained on: where keypoints are, to a fraction of a pixel, and what they look like.

Shapes: logits [B,65,h,w] for images of 8h x 8w pixels; points [B,N,2] x right, y down, pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from efficient_matcher.learn.keypoints import inside
from efficient_matcher.learn.pair_motion import PairMotion
from efficient_matcher.learn.superpoint import CELL


def draw_points(points: Tensor, view: Tensor, weight: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Spread points [n,2] of views [n] bilinearly over pixels, as cell locations [B,64,h,w].

    shape: (B, H, W). Mass beyond one in a cell is scaled down to one, so that with the dustbin it is
    a distribution.
    """
    batch, height, width = shape
    canvas = weight.new_zeros(batch * height * width)
    base = points.floor().long()
    fraction = points - base
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = base[:, 0] + dx, base[:, 1] + dy
            share = (1 - (fraction[:, 0] - dx).abs()) * (1 - (fraction[:, 1] - dy).abs())
            ok = (x >= 0) & (y >= 0) & (x < width) & (y < height)
            canvas.index_add_(0, ((view * height + y) * width + x)[ok], (weight * share)[ok])
    mass = F.pixel_unshuffle(canvas.view(batch, 1, height, width), CELL)
    return mass / mass.sum(1, keepdim=True).clamp(min=1)


def draw_labels(labels: Sequence[NDArray[np.float32]], shape: tuple[int, int, int],
                device: torch.device = torch.device("cpu")) -> Tensor:
    """Label arrays [N,3] (x, y, share), one per view, as cell locations [B,64,h,w] on the device."""
    joined = torch.from_numpy(np.concatenate(labels)).to(device)
    view = torch.repeat_interleave(torch.arange(len(labels)), torch.tensor([len(p) for p in labels])).to(device)
    return draw_points(joined[:, :2], view, joined[:, 2], shape)


def detector_loss(logits: Tensor, mass: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross entropy over 65 (SuperPoint, equation 2) with soft targets; weight [B,h,w] per cell."""
    target = torch.cat([mass, 1 - mass.sum(1, keepdim=True)], dim=1)
    per_cell = -(target * logits.log_softmax(1)).sum(1)
    if weight is None:
        return per_cell.mean()
    return (per_cell * weight).sum() / weight.sum().clamp(min=1)


def location_loss(logits: Tensor, mass: Tensor) -> Tensor:
    """Cross entropy over the 64 locations, given that the cell holds a point."""
    return -(mass * logits[:, :-1].log_softmax(1)).sum() / mass.sum().clamp(min=1)


def repeated_peaks(
    points0: Tensor, points1: Tensor, found0: Tensor, found1: Tensor, motion: PairMotion, size: tuple[int, int],
    tolerance_px: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Which peaks of the two views are one place: mutual nearest under the motion within tolerance_px.

    Returns the partner in view 1 of each peak 0 [B,N] (-1: none) and the peaks that the other view
    shows, [B,N] and [B,M]. size is (width, height). No gradient.
    """
    with torch.no_grad():
        warped = motion.ahead(points0)
        visible0 = found0 & inside(warped, *size)
        visible1 = found1 & inside(motion.back(points1), *size)
        distance = torch.cdist(warped, points1)
        distance = distance.masked_fill(~(visible0[:, :, None] & visible1[:, None, :]), 1e6)
        nearest, partner = distance.min(2)
        back = distance.argmin(1)
        mutual = back.gather(1, partner) == torch.arange(partner.shape[1], device=partner.device)
        return torch.where(mutual & (nearest < tolerance_px), partner, -1), visible0, visible1


def reprojection_loss(points0: Tensor, points1: Tensor, partner: Tensor, motion: PairMotion) -> Tensor:
    """Mean distance in px, both ways, between repeated sub-pixel peaks; the gradient moves both."""
    batch, index = torch.nonzero(partner >= 0, as_tuple=True)
    if len(batch) == 0:
        return points0.sum() * 0
    ahead = motion.ahead(points0)[batch, index]
    chosen1 = partner[batch, index]
    backward = motion.back(points1)[batch, chosen1]
    return 0.5 * (_distance(ahead, points1[batch, chosen1]) + _distance(backward, points0[batch, index]))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b).square().sum(-1) + 1e-4).sqrt().mean()


def self_labels(
    points0: Tensor, points1: Tensor, partner: Tensor, visible0: Tensor, visible1: Tensor, motion: PairMotion,
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Targets the network sets itself: repeated peaks stay, at their averaged position; visible but
    unrepeated ones become dustbin; all else is left alone.

    Returns mass [2B,64,h,w] and the cells that count [2B,h,w]; views 0 first, then views 1.
    """
    with torch.no_grad():
        pairs = len(points0)
        batch, index = torch.nonzero(partner >= 0, as_tuple=True)
        chosen1 = partner[batch, index]
        in0, in1 = points0[batch, index], points1[batch, chosen1]
        mean0 = (in0 + motion.back(points1)[batch, chosen1]) / 2
        mean1 = (in1 + motion.ahead(points0)[batch, index]) / 2
        shape = (2 * pairs, size[1], size[0])
        view = torch.cat([batch, batch + pairs])
        mass = draw_points(torch.cat([mean0, mean1]), view, mean0.new_ones(2 * len(batch)), shape)
        counts = torch.cat([_cells_of(points0, visible0, size), _cells_of(points1, visible1, size)])
        return mass, torch.maximum(counts, mass.sum(1).clamp(max=1))


def _cells_of(points: Tensor, chosen: Tensor, size: tuple[int, int]) -> Tensor:
    columns, rows = size[0] // CELL, size[1] // CELL
    cells = (points / CELL).long()
    flat = (cells[..., 1].clamp(0, rows - 1) * columns + cells[..., 0].clamp(0, columns - 1))
    marked = torch.zeros(len(points), rows * columns, device=points.device)
    marked.scatter_reduce_(1, flat, chosen.float(), "amax")
    return marked.view(-1, rows, columns)


def descriptor_loss(
    descriptors0: Tensor, descriptors1: Tensor, points1: Tensor, valid: Tensor, scale: Tensor, exclude_px: float = 6.0
) -> Tensor:
    """InfoNCE both ways between N correspondences; scale is the learned inverse temperature.

    descriptors [B,N,D] unit rows, points1 [B,N,2] the places in view 1, valid [B,N]. Other
    correspondences within exclude_px are no negatives.
    """
    similarity = descriptors0 @ descriptors1.transpose(1, 2) * scale
    count = similarity.shape[1]
    own = torch.eye(count, dtype=torch.bool, device=similarity.device)
    near = (torch.cdist(points1, points1) < exclude_px) & ~own
    hidden = near | ~valid[:, None, :] | ~valid[:, :, None]
    similarity = similarity.masked_fill(hidden & ~own, -1e4)
    gain = similarity.log_softmax(2) + similarity.log_softmax(1)
    hits = torch.diagonal(gain, dim1=1, dim2=2) * valid
    return -hits.sum() / (2 * valid.sum().clamp(min=1))
