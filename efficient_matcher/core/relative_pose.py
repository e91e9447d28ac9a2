"""Matched points of calibrated cameras -> relative pose, with what is known of it.

Where to begin: at the essential matrix of a RANSAC, and at the poses that the homography of a plane stands for, since
a plane leaves two that hardly differ in how well they explain the matches. Each is polished by reweighted least squares
on Sampson's distance (Hartley and Zisserman, "Multiple View Geometry", 11.4.3), and the best one is kept.

Camera coordinates are x right, y down, z ahead; a point X0 of camera 0 is X1 = R X0 + s t in camera 1, where the length s
of the translation cannot be known. K matches; rays are [3,K], one column a match, third row 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import GeometryConfig
from efficient_matcher.core.geometry import Spreads, rough_homography
from efficient_matcher.core.least_squares import DEGREES_OF_FREEDOM, MOST_UNEVEN, SMALLEST_NOISE_PX
from efficient_matcher.errors import MatcherError
from efficient_matcher.records import RelativePose

Array = NDArray[np.float64]
Pose = tuple[Array, Array]  # R [3,3], t [3]

INLIER_PX = 1.0  # from the epipolar line: an error along it costs nothing, so that less is allowed than of a homography
COUNTED_PX = 1.5  # where a match's cost ends: beyond, it is wrong, however far off
REACH_PX = 2.0  # of the noise's estimate, and half as far again of the weights, which fade points out
MEDIAN_OF_UNIT_NOISE = 0.455  # of its square in one dimension
MINIMUM_POINTS = 6
FIRST_STEPS, LAST_STEPS = 4, 12  # of least squares, from every start, and from the best one and its rival
CONVERGED = 3e-5  # rad
DAMPING = 1e-6
TELLING_PX = 2.0  # parallax that tells whether a point is before the cameras
OTHER_DEG = 5.0  # poses farther apart than this are two
TINY = 1e-15
_IN_IMAGE = np.array([[1.0], [1.0], [0.0]])  # of a line's three numbers, those a point of the image is moved along


@dataclass(frozen=True)
class _View:
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


def fit_relative_pose(points0: NDArray[np.floating], points1: NDArray[np.floating], K0: Array, K1: Array,
                      config: GeometryConfig = GeometryConfig(), spreads: Spreads | None = None) -> RelativePose:
    """Relative pose of two cameras from matched points, both [K,2] px of undistorted images.

    K0, K1: intrinsics [3,3]. config: iterations, confidence and seed of the robust start, and how many inliers a pose
    needs; threshold_px is the homography's. spreads: as in `fit_homography`. The same points give the same result.
    Raises MatcherError for intrinsics that are none.
    """
    K0, K1 = _intrinsics(K0, "K0"), _intrinsics(K1, "K1")
    points0, points1 = np.asarray(points0, np.float64).reshape(-1, 2), np.asarray(points1, np.float64).reshape(-1, 2)
    usable = np.isfinite(points0).all(1) & np.isfinite(points1).all(1)
    inliers = np.zeros(len(points0), bool)
    if np.count_nonzero(usable) < max(config.min_inliers, MINIMUM_POINTS):
        return no_pose(len(inliers))
    known = None if spreads is None else tuple(np.asarray(spread, np.float64)[usable] for spread in spreads)
    view = _view(points0[usable], points1[usable], K0, K1, known)
    starts = [*_essential_poses(view, config), *_planar_poses(points0[usable], points1[usable], K0, K1, config)]
    near = _ranked(view, [_polish(view, start, FIRST_STEPS) for start in starts])
    found = _ranked(view, [_polish(view, pose, LAST_STEPS) for _, _, pose in near[:2]])
    if not found or np.count_nonzero(found[0][1]) < max(config.min_inliers, MINIMUM_POINTS):
        return no_pose(len(inliers))
    cost, inliers[usable], (R, t) = found[0]
    margin = found[1][0] / max(cost, TINY) if len(found) > 1 else float("inf")
    return RelativePose(R, t, inliers, _covariance(view, (R, t)), float(margin), _parallax_px(view, R, found[0][1]))


def fit_pose_of_rays(rays0: NDArray[np.floating], rays1: NDArray[np.floating], focal_px: float,
                     config: GeometryConfig = GeometryConfig(), spreads: Spreads | None = None) -> RelativePose:
    """The same from viewing rays [K,3] at z = 1, whatever camera they are of; where one is NaN, the match has no say.

    focal_px: pixels to a unit of rays, by which errors are judged.
    """
    camera = np.diag([focal_px, focal_px, 1.0])
    return fit_relative_pose(rays0[:, :2] * focal_px, rays1[:, :2] * focal_px, camera, camera, config, spreads)


def no_pose(count: int) -> RelativePose:
    """What is said of `count` matches that determine none."""
    return RelativePose(None, None, np.zeros(count, bool), np.full((6, 6), np.nan), float("nan"), float("nan"))


def pose_difference_deg(pose: Pose, other: Pose) -> tuple[float, float]:
    """Angles, degrees, of the rotation and of the translation's direction between two poses R [3,3], t [3]."""
    (R, t), (R_other, t_other) = pose, other
    angle = np.arccos(np.clip((np.trace(R.T @ R_other) - 1) / 2, -1, 1))
    return float(np.degrees(angle)), float(np.degrees(np.arctan2(np.linalg.norm(np.cross(t, t_other)), t @ t_other)))


def _ranked(view: _View, poses: list[Pose]) -> list[tuple[float, NDArray[np.bool_], Pose]]:
    """Cost, inliers and pose, the best first, without those that are nearly one before."""
    kept: list[tuple[float, NDArray[np.bool_], Pose]] = []
    for entry in sorted(((*_cost(view, pose), pose) for pose in poses), key=lambda entry: entry[0]):
        if all(max(pose_difference_deg(entry[2], pose)) > OTHER_DEG for _, _, pose in kept):
            kept.append(entry)
    return kept


def _intrinsics(K: Array, name: str) -> Array:
    K = np.asarray(K, np.float64)
    if K.shape != (3, 3) or not np.isfinite(K).all() or min(K[0, 0], K[1, 1]) <= 0 or not np.array_equal(K[2], (0, 0, 1)):
        raise MatcherError(f"{name} must be intrinsics [3,3] with focal lengths above 0 and (0, 0, 1) below, got "
                           f"{' '.join(str(K.tolist()).split())}")
    return K


def _view(points0: Array, points1: Array, K0: Array, K1: Array, spreads: tuple[Array, Array] | None) -> _View:
    rays0, rays1 = (np.linalg.inv(K) @ np.vstack([points.T, np.ones(len(points))])
                    for points, K in ((points0, K0), (points1, K1)))
    focal0, focal1 = (float(K[0, 0] + K[1, 1]) / 2 for K in (K0, K1))
    focal = (focal0 + focal1) / 2
    return _View(rays0, rays1, *_variances(len(points0), spreads, (focal / focal0, focal / focal1)), focal)


def _variances(count: int, spreads: tuple[Array, Array] | None, zooms: tuple[float, float]) -> tuple[Array, Array]:
    if spreads is None:
        return tuple(np.full(count, zoom * zoom) for zoom in zooms)
    squares = np.concatenate(spreads) ** 2
    known = (squares > 0) & (squares < np.inf)  # NaN is not
    if not known.any():
        return _variances(count, None, zooms)
    relative = np.clip(np.where(known, squares / np.median(squares[known]), 1.0), 1 / MOST_UNEVEN, MOST_UNEVEN)
    return relative[:count] * zooms[0] ** 2, relative[count:] * zooms[1] ** 2


def _essential_poses(view: _View, config: GeometryConfig) -> list[Pose]:
    """Of the four poses an essential matrix stands for, the one with most points before both cameras."""
    params = cv2.UsacParams()
    params.score = cv2.SCORE_METHOD_MSAC
    params.threshold = INLIER_PX / view.focal_px
    params.maxIterations = config.max_iterations
    params.confidence = config.confidence
    params.randomGeneratorState = config.seed
    params.isParallel = False  # threads would race for the best model
    points = [np.ascontiguousarray(rays[:2].T) for rays in (view.rays0, view.rays1)]
    try:
        E, _ = cv2.findEssentialMat(*points, np.eye(3), np.eye(3), np.zeros(4), np.zeros(4), params)
    except cv2.error:
        return []  # some versions raise on degenerate points where others return nothing
    if E is None or E.shape != (3, 3) or not np.isfinite(E).all():
        return []
    R, R_other, t = cv2.decomposeEssentialMat(E)
    return [min(((turn, t[:, 0]) for turn in (R, R_other)), key=lambda pose: _cost(view, pose)[0])]


def _planar_poses(points0: Array, points1: Array, K0: Array, K1: Array, config: GeometryConfig) -> list[Pose]:
    """The poses under which some plane moves as the homography of the matches says, up to the sign of t."""
    H = rough_homography(points0, points1, config)
    if H is None:
        return []
    _, turns, ways, _ = cv2.decomposeHomographyMat(np.linalg.inv(K1) @ H @ K0, np.eye(3))
    poses: list[Pose] = []
    for R, t in zip(turns, (way[:, 0] for way in ways)):
        length = np.linalg.norm(t)
        if np.isfinite(R).all() and np.linalg.det(R) > 0 and not any(np.allclose(R, other) for other, _ in poses):
            left, _, right = np.linalg.svd(R)  # of no motion at all, what comes is not quite a rotation
            poses.append((left @ right, t / length if length > 1e-9 else np.array([0.0, 0.0, 1.0])))  # any, if it only turned
    return poses


def _epipolar(view: _View, pose: Pose) -> _Epipolar:
    R, t = pose
    turned = R @ view.rays0
    across, lines1 = _cross(view.rays1, t[:, None]), _cross(t[:, None], turned)
    lines0 = R.T @ across
    square = view.variance1 * (lines1[0] ** 2 + lines1[1] ** 2) + view.variance0 * (lines0[0] ** 2 + lines0[1] ** 2)
    scale = np.sqrt(square + TINY) / view.focal_px
    return _Epipolar(turned, across, lines0, lines1, np.einsum("dk,dk->k", view.rays1, lines1) / scale, scale)


def _polish(view: _View, pose: Pose, steps: int) -> Pose:
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


def _slopes(view: _View, fit: _Epipolar, pose: Pose) -> tuple[Array, Array]:
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


def _cost(view: _View, pose: Pose) -> tuple[float, NDArray[np.bool_]]:
    """MSAC's cost, px^2, with points behind a camera counted as wrong, for the better sign of t; and the inliers [K]."""
    fit = _epipolar(view, pose)
    behind = min(_behind(view, fit), key=np.count_nonzero)
    squared = np.where(behind, np.inf, fit.distance * fit.distance)
    return float(np.minimum(squared, COUNTED_PX**2).sum()), squared < INLIER_PX**2


def _behind(view: _View, fit: _Epipolar) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which points [K] lie behind a camera by more parallax than noise makes; and which do if t is the other way."""
    normal = _cross(fit.turned, view.rays1)
    depth0, depth1 = np.einsum("dk,dk->k", fit.across, normal), -np.einsum("dk,dk->k", fit.lines1, normal)
    telling = np.einsum("dk,dk->k", normal, normal) * view.focal_px**2 > TELLING_PX**2
    return telling & ((depth0 < 0) | (depth1 < 0)), telling & ((depth0 > 0) | (depth1 > 0))


def _parallax_px(view: _View, R: Array, inliers: NDArray[np.bool_]) -> float:
    """Median of how far points are in image 1 from where they would be had the camera only turned."""
    turned = R @ view.rays0[:, inliers]
    ahead = turned[2] > TINY
    apart = turned[:2, ahead] / turned[2, ahead] - view.rays1[:2, inliers][:, ahead]
    return float(np.median(np.hypot(*apart))) * view.focal_px if ahead.any() else float("nan")


def _covariance(view: _View, pose: Pose) -> Array:
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
    variance = psi_squared.sum() / slope**2 / (count - 5)
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
