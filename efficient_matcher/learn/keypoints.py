"""Differentiable keypoints: peaks of a score map, moved to the centroid of their surroundings.

The same centroid is what `core/features.py` computes at run time, so that what is trained is what
is deployed.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from efficient_matcher.core.features import CANDIDATES, LEAST_SPREAD

REACH = 2  # the centroid is taken over 5x5 pixels


def find_peaks(scores: Tensor, count: int, radius: int = 4, border: int = 4) -> tuple[Tensor, Tensor]:
    """The best `count` local maxima of score maps [B,H,W]: integer positions [B,count,2], mask [B,count].

    Missing peaks are (border, border) with a False mask. No gradient.
    """
    if not scores.is_cpu:
        return pooled_peaks(scores, count, radius, border)
    maps = scores.detach().numpy()
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    positions = np.full((len(maps), count, 2), border, np.int64)
    found = np.zeros((len(maps), count), bool)
    for b, score in enumerate(maps):
        peaks = score == cv2.dilate(score, kernel)
        inner = np.zeros_like(peaks)
        inner[border:-border, border:-border] = peaks[border:-border, border:-border]
        y, x = np.nonzero(inner)
        best = np.argsort(-score[y, x], kind="stable")[:count]
        positions[b, : len(best)] = np.column_stack([x[best], y[best]])
        found[b, : len(best)] = True
    return torch.from_numpy(positions), torch.from_numpy(found)


@torch.no_grad()
def pooled_peaks(scores: Tensor, count: int, radius: int = 4, border: int = 4) -> tuple[Tensor, Tensor]:
    """`find_peaks` without leaving the scores' device; equal peaks may come in another order."""
    width = scores.shape[2]
    highest = F.max_pool2d(scores[:, None], 2 * radius + 1, stride=1, padding=radius)[:, 0]
    inner = torch.zeros_like(scores, dtype=torch.bool)
    inner[:, border:-border, border:-border] = True
    best = scores.masked_fill(~(inner & (scores == highest)), -1.0).flatten(1).topk(count)
    found = best.values >= 0
    positions = torch.stack([best.indices % width, best.indices // width], dim=-1)
    return positions.masked_fill(~found[..., None], border), found


@torch.no_grad()
def sharp_peaks(scores: Tensor, count: int, radius: int = 4, border: int = 4) -> tuple[Tensor, Tensor]:
    """`find_peaks` as the run time chooses and orders them (`core.features.detect`): sharp ones before blurred ones."""
    peaks, found = find_peaks(scores, int(CANDIDATES * count), radius, border)
    windows = _windows(scores, peaks)
    sharpness = windows.at_peak / windows.variance.clamp(min=float(LEAST_SPREAD))
    order = sharpness.masked_fill(~found, -1.0).argsort(dim=1, descending=True, stable=True)[:, :count]
    return peaks.gather(1, order[..., None].expand(-1, -1, 2)), found.gather(1, order)


def centroids(scores: Tensor, peaks: Tensor) -> Tensor:
    """Sub-pixel positions [B,N,2]: centroid of the scores [B,H,W] in 5x5 pixels around peaks [B,N,2]."""
    return peaks + _windows(scores, peaks).offsets


class _Windows(NamedTuple):
    """Of the 5x5 pixels around each peak: its own score [B,N]; of all scores the centroid from it [B,N,2], and their
    variance about that [B,N] px^2."""

    at_peak: Tensor
    offsets: Tensor
    variance: Tensor


def _windows(scores: Tensor, peaks: Tensor) -> _Windows:
    batch, height, width = scores.shape
    steps = torch.arange(-REACH, REACH + 1, device=peaks.device)
    dy, dx = (g.reshape(-1) for g in torch.meshgrid(steps, steps, indexing="ij"))
    x = (peaks[..., :1] + dx).clamp(0, width - 1)
    y = (peaks[..., 1:] + dy).clamp(0, height - 1)
    patches = scores.reshape(batch, -1).gather(1, (y * width + x).reshape(batch, -1)).reshape(x.shape)
    weights = patches / (patches.sum(-1, keepdim=True) + 1e-12)
    offsets = torch.stack([(weights * dx).sum(-1), (weights * dy).sum(-1)], dim=-1)
    variance = (weights * (dx * dx + dy * dy)).sum(-1) - offsets.square().sum(-1)
    return _Windows(patches[..., len(steps) ** 2 // 2], offsets, variance)


def warp_points(points: Tensor, H: Tensor) -> Tensor:
    """Map points [B,N,2] by H [B,3,3]; behind the horizon they land far outside."""
    mapped = points @ H[:, :, :2].transpose(1, 2) + H[:, None, :, 2]
    depth = torch.where(mapped[..., 2:] > 1e-6, mapped[..., 2:], torch.full_like(mapped[..., 2:], 1e-6))
    return mapped[..., :2] / depth


def inside(points: Tensor, width: int, height: int, border: float = 4.0) -> Tensor:
    """Mask [B,N] of the points [B,N,2] at least `border` px from the edge."""
    x, y = points[..., 0], points[..., 1]
    return (x >= border) & (y >= border) & (x <= width - 1 - border) & (y <= height - 1 - border)
