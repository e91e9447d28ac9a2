"""How the image moves around matched points: one 2x2 matrix per match, image 0 pixels to image 1 pixels.

Where matches agree with a homography it is that homography's derivative; elsewhere, as the scene need not be one
plane, the affine map that the neighbouring matches agree on. K matches; points are [K,2] px.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core import native

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

NEIGHBOURS = 10
ROUNDS = 4  # of reweighting
NOISE_PX = 1.0  # residuals beyond this lose weight
LEAST_SUPPORT = 5.0  # neighbours, by weight, that must agree
SINGULAR = 1e-6  # px^2, added to the spread of the neighbours
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
    x, y = (places - points1).T
    known = _usable(slopes) & (x * x + y * y <= (tolerance_px * np.maximum(1, zoom(slopes))) ** 2)
    slopes[~known] = np.eye(2)
    return slopes, known


def neighbour_motions(points0: Array, points1: Array, which: NDArray[np.intp]) -> tuple[Array, Bools]:
    """Motions [R,2,2] around the matches `which` [R] by their nearest neighbours, and where these agree [R].

    A robust affine fit: wrong matches among the neighbours lose their weight, and a match that its neighbours
    contradict has no motion.
    """
    count = min(NEIGHBOURS + 1, len(points0))
    if count <= LEAST_SUPPORT:
        return np.tile(np.eye(2), (len(which), 1, 1)), np.zeros(len(which), bool)
    if native.available():
        affine, support = native.neighbour_motions(points0, points1, which, count, ROUNDS, NEAR_PX, NOISE_PX, SINGULAR)
        motions = np.ascontiguousarray(affine[:, :, 1:])
        return motions, _usable(motions) & (np.hypot(*affine[:, :, 0].T) < 2 * NOISE_PX) & (support > LEAST_SUPPORT)
    nearest = _nearest(points0, which, count)
    design, target = np.ones((3, *nearest.shape)), np.empty((2, *nearest.shape))
    for axis in range(2):
        design[1 + axis] = points0[nearest, axis] - points0[which, axis]
        target[axis] = points1[nearest, axis] - points1[which, axis]
    weights = start = ((design[1:] ** 2).sum(0) < NEAR_PX**2).astype(np.float64)
    for _ in range(ROUNDS):
        affine = _weighted_affine(design, target, weights)
        missed = target - np.einsum("oir,icr->ocr", affine, design)
        residual = np.einsum("ocr,ocr->cr", missed, missed)
        spread = np.maximum(NOISE_PX**2, np.partition(residual, count // 2, axis=0)[count // 2])
        weights = start / (1 + residual / spread) ** 2
    own, motions = np.hypot(*affine[:, 0]), np.ascontiguousarray(affine[:, 1:].transpose(2, 0, 1))
    support = (start * (residual < (3 * NOISE_PX) ** 2)).sum(0)
    return motions, _usable(motions) & (own < 2 * NOISE_PX) & (support > LEAST_SUPPORT)


def zoom(motions: Array) -> Array:
    """Linear magnification [K] of motions [K,2,2]."""
    return np.sqrt(np.abs(motions[:, 0, 0] * motions[:, 1, 1] - motions[:, 0, 1] * motions[:, 1, 0]))


def _nearest(points: Array, which: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Indices [count,R] of the points nearest to some of them, themselves included, in no order."""
    x, y = points.T.astype(np.float32)  # twice as fast, and a tie decided otherwise does no harm
    squared = np.subtract.outer(x[which], x) ** 2
    squared += np.subtract.outer(y[which], y) ** 2
    return np.ascontiguousarray(np.argpartition(squared, count - 1, axis=1)[:, :count].T)


def _weighted_affine(design: Array, target: Array, weights: Array) -> Array:
    """Affine maps [2,3,R], x and y from 1, x, y, by least squares: design [3,C,R] to target [2,C,R], weights [C,R].

    Written out, as a call for each of so small systems costs more than solving it. Neighbours on a line, or none of
    any weight, leave a singular one, kept harmless.
    """
    (total, x, y), (_, xx, xy), (_, _, yy) = np.einsum("cr,icr,jcr->ijr", weights, design, design)
    along_one, along_x, along_y = np.einsum("cr,icr,ocr->ior", weights, design, target)
    total = np.maximum(total, 1e-6)
    xx, xy, yy = xx - x * x / total + SINGULAR, xy - x * y / total, yy - y * y / total + SINGULAR
    mean = along_one / total
    along_x, along_y = along_x - x * mean, along_y - y * mean
    determinant = xx * yy - xy * xy
    by_x, by_y = (yy * along_x - xy * along_y) / determinant, (xx * along_y - xy * along_x) / determinant
    return np.stack([mean - (by_x * x + by_y * y) / total, by_x, by_y], axis=1)


def _usable(motions: Array) -> Bools:
    """Whether patches can be compared under such a motion: no mirror, no extreme zoom or stretch."""
    a, b, c, d = motions.reshape(-1, 4).T
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is within no bounds
        area = a * d - b * c
        stretch = (a * a + b * b + c * c + d * d) / np.maximum(2 * np.abs(area), 1e-12)  # (s + 1/s) / 2 of the ratio s
        within = (area > ZOOM[0] ** 2) & (area < ZOOM[1] ** 2)
        return within & (stretch < (STRETCH + 1 / STRETCH) / 2)
