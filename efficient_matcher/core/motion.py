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
    nearest = _nearest(points0, which, count)
    from0 = np.stack([axis[nearest] - axis[which] for axis in points0.T])
    from1 = np.stack([axis[nearest] - axis[which] for axis in points1.T])
    weights = start = ((from0**2).sum(0) < NEAR_PX**2).astype(np.float64)
    for _ in range(ROUNDS):
        linear, own = _weighted_affine(from0, from1, weights)
        missed = from1 - own[:, None] - linear[:, 0, None] * from0[0] - linear[:, 1, None] * from0[1]
        residual = (missed**2).sum(0)
        spread = np.maximum(NOISE_PX**2, np.partition(residual, count // 2, axis=0)[count // 2])
        weights = start / (1 + residual / spread) ** 2
    motions = np.ascontiguousarray(linear.transpose(2, 0, 1))
    support = (start * (residual < (3 * NOISE_PX) ** 2)).sum(0)
    return motions, _usable(motions) & (np.hypot(*own) < 2 * NOISE_PX) & (support > LEAST_SUPPORT)


def zoom(motions: Array) -> Array:
    """Linear magnification [K] of motions [K,2,2]."""
    return np.sqrt(np.abs(motions[:, 0, 0] * motions[:, 1, 1] - motions[:, 0, 1] * motions[:, 1, 0]))


def _nearest(points: Array, which: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Indices [count,R] of the points nearest to some of them, themselves included, in no order."""
    x, y = points.T.astype(np.float32)  # twice as fast, and a tie decided otherwise does no harm
    squared = np.subtract.outer(x[which], x) ** 2
    squared += np.subtract.outer(y[which], y) ** 2
    return np.ascontiguousarray(np.argpartition(squared, count - 1, axis=1)[:, :count].T)


def _weighted_affine(from0: Array, from1: Array, weights: Array) -> tuple[Array, Array]:
    """Affine maps, [2,2,R] and [2,R], by least squares from [2,C,R] to [2,C,R] with weights [C,R].

    Neighbours on a line, or none of any weight, leave a singular one, kept harmless.
    """
    share = weights / np.maximum(weights.sum(0), 1e-6)
    mean0, mean1 = (share * from0).sum(1), (share * from1).sum(1)
    centred = from0 - mean0[:, None]
    x, y = share * centred
    (xx, xy), yy = (x * centred).sum(1), (y * centred[1]).sum(0)
    xx, yy = xx + SINGULAR, yy + SINGULAR
    along_x, along_y = (x * from1).sum(1), (y * from1).sum(1)
    linear = np.stack([yy * along_x - xy * along_y, xx * along_y - xy * along_x], axis=1) / (xx * yy - xy * xy)
    return linear, mean1 - linear[:, 0] * mean0[0] - linear[:, 1] * mean0[1]


def _usable(motions: Array) -> Bools:
    """Whether patches can be compared under such a motion: no mirror, no extreme zoom or stretch."""
    finite = np.isfinite(motions).all((1, 2))
    a, b, c, d = np.where(finite[:, None, None], motions, 0.0).reshape(-1, 4).T
    area = a * d - b * c
    stretch = (a * a + b * b + c * c + d * d) / np.maximum(2 * np.abs(area), 1e-12)  # (s + 1/s) / 2 of the ratio s
    within = (area > ZOOM[0] ** 2) & (area < ZOOM[1] ** 2)
    return finite & within & (stretch < (STRETCH + 1 / STRETCH) / 2)
