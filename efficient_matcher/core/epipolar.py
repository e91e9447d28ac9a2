"""Two calibrated views and their epipolar geometry: how far matches are from a pose, and the pose they agree on best.

Sampson's distance (Hartley and Zisserman, "Multiple View Geometry", 11.4.3), each point by its own noise, under
reweighted least squares. K matches; rays are [3,K], one column a match, third row 1. A pose is R [3,3] and t [3] of
length 1: X1 = R X0 + s t.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core.least_squares import DEGREES_OF_FREEDOM, LEAST_NOISE_PX, MOST_UNEVEN, SMALLEST_NOISE_PX

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Pose = tuple[Array, Array]

INLIER_PX = 1.0  # from the epipolar line: an error along it costs nothing, so that less is allowed than of a homography
COUNTED_PX = 1.5  # where a match's cost ends: beyond, it is wrong, however far off
REACH_PX = 2.0  # of the noise's estimate, and half as far again of the weights, which fade points out
MEDIAN_OF_UNIT_NOISE = 0.455  # of its square in one dimension
MINIMUM_POINTS = 6
CONVERGED = 3e-5  # rad
DAMPING = 1e-6
TELLING_PX = 2.0  # parallax that tells whether a point is before the cameras
TINY = 1e-15
_IN_IMAGE = np.array([[1.0], [1.0], [0.0]])  # of a line's three numbers, those a point of the image is moved along


@dataclass(frozen=True)
class View:
    """Rays of both images, the relative variance of each point about its place, in squares of 1 / focal, and the
    pixels of a unit of rays."""

    rays0: Array
    rays1: Array
    variance0: Array
    variance1: Array
    focal_px: float


@dataclass(frozen=True)
class _Epipolar:
    """Of a pose: rays 0 turned into camera 1, x1 x t, epipolar lines in images 0 and 1, and Sampson's distance [K] with
    what divides the algebraic one [K], px."""

    turned: Array
    across: Array
    lines0: Array
    lines1: Array
    distance: Array
    scale: Array


def view_of(points0: Array, points1: Array, K0: Array, K1: Array, spreads: tuple[Array, Array] | None) -> View:
    """Of matched points [K,2] px, intrinsics [3,3], and what the points' standard deviations are proportional to [K]."""
    rays0, rays1 = (np.linalg.inv(K) @ np.vstack([points.T, np.ones(len(points))])
                    for points, K in ((points0, K0), (points1, K1)))
    focal0, focal1 = (float(K[0, 0] + K[1, 1]) / 2 for K in (K0, K1))
    focal = (focal0 + focal1) / 2
    return View(rays0, rays1, *_variances(len(points0), spreads, (focal / focal0, focal / focal1)), focal)


def _variances(count: int, spreads: tuple[Array, Array] | None, zooms: tuple[float, float]) -> tuple[Array, Array]:
    if spreads is None:
        return tuple(np.full(count, zoom * zoom) for zoom in zooms)
    squares = np.concatenate(spreads) ** 2
    known = (squares > 0) & (squares < np.inf)  # NaN is not
    if not known.any():
        return _variances(count, None, zooms)
    relative = np.clip(np.where(known, squares / np.median(squares[known]), 1.0), 1 / MOST_UNEVEN, MOST_UNEVEN)
    return relative[:count] * zooms[0] ** 2, relative[count:] * zooms[1] ** 2


def _epipolar(view: View, pose: Pose) -> _Epipolar:
    R, t = pose
    turned = R @ view.rays0
    across, lines1 = _cross(view.rays1, t[:, None]), _cross(t[:, None], turned)
    lines0 = R.T @ across
    square = view.variance1 * (lines1[0] ** 2 + lines1[1] ** 2) + view.variance0 * (lines0[0] ** 2 + lines0[1] ** 2)
    scale = np.sqrt(square + TINY) / view.focal_px
    return _Epipolar(turned, across, lines0, lines1, np.einsum("dk,dk->k", view.rays1, lines1) / scale, scale)


def polish(view: View, pose: Pose, steps: int) -> Pose:
    """Gauss-Newton steps on weighted distances, and the sign of t that puts points before the cameras."""
    R, t = pose
    for _ in range(steps):
        fit = _epipolar(view, (R, t))
        weights = _weights(fit.distance)
        if weights is None:
            break
        slopes, tangents = _slopes(view, fit, (R, t))
        normal = (slopes * weights[0]) @ slopes.T
        normal[np.diag_indices(5)] *= 1 + DAMPING
        try:
            step = np.linalg.solve(normal, -slopes @ (weights[0] * fit.distance))
        except np.linalg.LinAlgError:
            break
        if not np.isfinite(step).all():
            break
        R, t = cv2.Rodrigues(step[:3])[0] @ R, t + tangents @ step[3:]
        t = t / np.linalg.norm(t)
        if np.abs(step).max() < CONVERGED:
            break
    behind, behind_back = _behind(view, _epipolar(view, (R, t)))
    return R, -t if behind_back.sum() < behind.sum() else t


def _slopes(view: View, fit: _Epipolar, pose: Pose) -> tuple[Array, Array]:
    """Derivatives [5,K] of the distances by a turn of camera 1 (a rotation vector on the left of R) and by the
    translation along two tangents [3,2] of its sphere.

    Those of what divides the distance are of second order, and left out they bend the estimate where it is weak.
    """
    (R, t), tangents = pose, np.linalg.svd(pose[1][None])[2][1:].T
    away1 = view.variance1 * fit.lines1 * _IN_IMAGE
    away0 = R @ (view.variance0 * fit.lines0 * _IN_IMAGE)
    share = fit.distance / (fit.scale * view.focal_px**2)
    by_turn = _cross(fit.turned, fit.across - share * _cross(away1, t[:, None])) + share * _cross(fit.across, away0)
    by_way = _cross(fit.turned, view.rays1 - share * away1) - share * _cross(away0, view.rays1)
    return np.concatenate([by_turn, tangents.T @ by_way]) / fit.scale, tangents


def _weights(distance: Array) -> tuple[Array, float] | None:
    """Weights [K] of a t distribution, 0 out of reach, and the variance of a distance; None when too few agree."""
    squared = distance * distance
    chosen = squared[squared < REACH_PX**2]
    if len(chosen) < MINIMUM_POINTS:
        return None
    median = float(np.partition(chosen, len(chosen) // 2)[len(chosen) // 2])
    variance = max(median / MEDIAN_OF_UNIT_NOISE, SMALLEST_NOISE_PX**2)
    weights = (DEGREES_OF_FREEDOM + 1) / (DEGREES_OF_FREEDOM + squared / variance)
    return weights * (squared < (1.5 * REACH_PX) ** 2), variance


def msac_cost(view: View, pose: Pose) -> tuple[float, Bools]:
    """MSAC's cost, px^2, with points behind a camera counted as wrong, for the better sign of t; and the inliers [K]."""
    fit = _epipolar(view, pose)
    behind = min(_behind(view, fit), key=np.count_nonzero)
    squared = np.where(behind, np.inf, fit.distance * fit.distance)
    return float(np.minimum(squared, COUNTED_PX**2).sum()), squared < INLIER_PX**2


def _behind(view: View, fit: _Epipolar) -> tuple[Bools, Bools]:
    """Which points [K] lie behind a camera by more parallax than noise makes, or were turned away from it; and which do if
    t is the other way."""
    normal = _cross(fit.turned, view.rays1)
    depth0, depth1 = np.einsum("dk,dk->k", fit.across, normal), -np.einsum("dk,dk->k", fit.lines1, normal)
    telling = np.einsum("dk,dk->k", normal, normal) * view.focal_px**2 > TELLING_PX**2
    away = np.einsum("dk,dk->k", fit.turned, view.rays1) < 0  # else the other end of a ray would do as well
    return away | telling & ((depth0 < 0) | (depth1 < 0)), away | telling & ((depth0 > 0) | (depth1 > 0))


def parallax_px(view: View, R: Array, inliers: Bools) -> float:
    """Median of how far points are in image 1 from where they would be had the camera only turned."""
    turned = R @ view.rays0[:, inliers]
    ahead = turned[2] > TINY
    apart = turned[:2, ahead] / turned[2, ahead] - view.rays1[:2, inliers][:, ahead]
    return float(np.median(np.hypot(*apart))) * view.focal_px if ahead.any() else float("nan")


def covariance(view: View, pose: Pose) -> Array:
    """[6,6] of the rotation vector (rad) and the direction t, from the residuals taken as independent: see
    `least_squares.covariance_at`. NaN where they do not determine the pose."""
    fit = _epipolar(view, pose)
    weighting = _weights(fit.distance)
    near = np.abs(fit.distance) < 1.5 * REACH_PX
    if weighting is None or np.count_nonzero(near) <= MINIMUM_POINTS:
        return np.full((6, 6), np.nan)
    weights, noise = weighting
    psi_squared = weights**2 * fit.distance**2
    count = np.count_nonzero(near)
    slope = (weights.sum() - 2 * psi_squared.sum() / noise / (DEGREES_OF_FREEDOM + 1)) / count
    variance = max(psi_squared.sum() / slope**2 / (count - 5), LEAST_NOISE_PX**2)
    slopes, tangents = _slopes(view, fit, pose)
    to_six = np.zeros((6, 5))
    to_six[:3, :3], to_six[3:, 3:] = np.eye(3), tangents
    try:
        return to_six @ np.linalg.solve((slopes * near) @ slopes.T, to_six.T) * variance
    except np.linalg.LinAlgError:
        return np.full((6, 6), np.nan)


def _cross(a: Array, b: Array) -> Array:
    """Of columns [3,K]; the library's own takes several times as long."""
    return np.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])
