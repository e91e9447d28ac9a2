"""How the image moves around matched points: one 2x2 matrix per match, image 0 pixels to image 1 pixels.

Where matches agree with a homography it is that homography's derivative; elsewhere, as the scene need not be one
plane, the affine map that the neighbouring matches agree on. K matches; points are [K,2] px.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

NEIGHBOURS = 10
ROUNDS = 5  # of reweighting
NOISE_PX = 1.0  # residuals beyond this lose weight
LEAST_SUPPORT = 5.0  # neighbours, by weight, that must agree
NEAR_PX = 80.0  # neighbours farther away say nothing of the place
ZOOM = (0.2, 5.0)  # beyond, no patch looks like the other
STRETCH = 4.0  # largest ratio of the two singular values


def project(points: Array, H: Array) -> tuple[Array, Array]:
    """Points of image 0 in image 1 by H [3,3], [K,2] px, and the derivative there [K,2,2]; NaN beyond the horizon."""
    mapped = points @ H[:, :2].T + H[:, 2]
    depth = np.where(mapped[:, 2:] > 1e-9, mapped[:, 2:], np.nan)
    places = mapped[:, :2] / depth
    return places, (H[None, :2, :2] - places[:, :, None] * H[None, 2:, :2]) / depth[:, :, None]


def local_motions(points0: Array, points1: Array, H: Array | None, tolerance_px: float) -> tuple[Array, Bools, Bools]:
    """Motions [K,2,2] around matches, which of them are known [K], and which of these by H, else by the neighbours.

    H: [3,3], image 0 to image 1, or None. tolerance_px: as in `homography_motions`.
    """
    motions, agreeing = homography_motions(points0, points1, H, tolerance_px)
    known, rest = agreeing.copy(), np.flatnonzero(~agreeing)
    if len(rest):
        motions[rest], known[rest] = neighbour_motions(points0, points1, rest)
    return motions, known, agreeing


def homography_motions(points0: Array, points1: Array, H: Array | None, tolerance_px: float) -> tuple[Array, Bools]:
    """Motions [K,2,2] by H, and the matches [K] that agree with it.

    tolerance_px: how far off they may be, in pixels of the coarser image.
    """
    if H is None:
        return np.tile(np.eye(2), (len(points0), 1, 1)), np.zeros(len(points0), bool)
    places, slopes = project(points0, H)
    apart = ((places - points1) ** 2).sum(1)
    known = _usable(slopes) & (apart <= (tolerance_px * np.maximum(1, zoom(slopes))) ** 2)
    return np.where(known[:, None, None], slopes, np.eye(2)), known


def neighbour_motions(points0: Array, points1: Array, which: NDArray[np.intp]) -> tuple[Array, Bools]:
    """Motions [R,2,2] around the matches `which` [R] by their nearest neighbours, and where these agree [R].

    A robust affine fit: wrong matches among the neighbours lose their weight, and a match that its neighbours
    contradict has no motion.
    """
    count = min(NEIGHBOURS + 1, len(points0))
    if count <= LEAST_SUPPORT:
        return np.tile(np.eye(2), (len(which), 1, 1)), np.zeros(len(which), bool)
    squared = ((points0[which, None] - points0[None]) ** 2).sum(2)
    nearest = np.argpartition(squared, count - 1, axis=1)[:, :count]
    from0 = points0[nearest] - points0[which, None]
    from1 = points1[nearest] - points1[which, None]
    design = np.concatenate([from0, np.ones((*from0.shape[:2], 1))], axis=2)
    weights = start = (np.take_along_axis(squared, nearest, 1) < NEAR_PX**2).astype(np.float64)
    for _ in range(ROUNDS):
        affine = _weighted_affine(design, from1, weights)
        residual = ((design @ affine - from1) ** 2).sum(2)
        spread = np.maximum(NOISE_PX**2, np.median(residual, axis=1))[:, None]
        weights = start / (1 + residual / spread) ** 2
    motions = affine[:, :2].transpose(0, 2, 1)
    own = np.linalg.norm(affine[:, 2], axis=1)  # how far off the match itself is
    support = (start * (residual < (3 * NOISE_PX) ** 2)).sum(1)
    return motions, _usable(motions) & (own < 2 * NOISE_PX) & (support > LEAST_SUPPORT)


def zoom(motions: Array) -> Array:
    """Linear magnification [K] of motions [K,2,2]."""
    return np.sqrt(np.abs(motions[:, 0, 0] * motions[:, 1, 1] - motions[:, 0, 1] * motions[:, 1, 0]))


def _weighted_affine(design: Array, target: Array, weights: Array) -> Array:
    """Affine maps [R,3,2] by weighted least squares; neighbours on a line leave a singular one, kept harmless."""
    weighted = (design * weights[:, :, None]).transpose(0, 2, 1)
    normal = weighted @ design + 1e-6 * np.eye(3)
    return np.linalg.solve(normal, weighted @ target)


def _usable(motions: Array) -> Bools:
    """Whether patches can be compared under such a motion: no mirror, no extreme zoom or stretch."""
    finite = np.isfinite(motions).all((1, 2))
    a, b, c, d = np.where(finite[:, None, None], motions, 0.0).reshape(-1, 4).T
    area = a * d - b * c
    stretch = (a * a + b * b + c * c + d * d) / np.maximum(2 * np.abs(area), 1e-12)  # (s + 1/s) / 2 of the ratio s
    within = (area > ZOOM[0] ** 2) & (area < ZOOM[1] ** 2)
    return finite & within & (stretch < (STRETCH + 1 / STRETCH) / 2)
