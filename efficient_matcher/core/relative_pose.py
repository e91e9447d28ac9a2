"""Matched points of calibrated cameras -> relative pose, with what is known of it.

Where to begin: at the essential matrix of a RANSAC, and at the poses that the homography of a plane stands for, since
a plane leaves two that hardly differ in how well they explain the matches. Each is polished (`epipolar.py`), and the
one that explains the matches best is kept.

Camera coordinates are x right, y down, z ahead; a point X0 of camera 0 is X1 = R X0 + s t in camera 1, where the length s
of the translation cannot be known. K matches.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import GeometryConfig
from efficient_matcher.core.epipolar import (
    INLIER_PX, MINIMUM_POINTS, TINY, Pose, View, covariance, msac_cost, parallax_px, polish, view_of)
from efficient_matcher.core.geometry import Spreads, rough_homography, usac_params
from efficient_matcher.errors import MatcherError
from efficient_matcher.records import RelativePose

Array = NDArray[np.float64]

FIRST_STEPS, LAST_STEPS = 4, 12  # of least squares, from every start, and from the best one and its rival
RIVAL = 2.0  # times the best one's cost, up to which another start is followed to its end
OTHER_DEG = 5.0  # poses farther apart than this are two
LEAST_BREADTH_PX = 3.0  # standard deviation of the inliers across the line along which they lie


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
    view = view_of(points0[usable], points1[usable], K0, K1, known)
    starts = [*_essential_poses(view, config), *_planar_poses(points0[usable], points1[usable], K0, K1, config)]
    near = _ranked(view, [polish(view, start, FIRST_STEPS) for start in starts])
    found = _ranked(view, [polish(view, pose, LAST_STEPS) for cost, _, pose in near[:2] if cost <= RIVAL * near[0][0]])
    if not found or np.count_nonzero(found[0][1]) < max(config.min_inliers, MINIMUM_POINTS):
        return no_pose(len(inliers))
    if any(_is_a_line(points[usable][found[0][1]]) for points in (points0, points1)):
        return no_pose(len(inliers))
    cost, inliers[usable], (R, t) = found[0]
    others = [rival for rival, _, pose in (*found[1:], *near[1:]) if max(pose_difference_deg(pose, (R, t))) > OTHER_DEG]
    margin = min(others, default=np.inf) / max(cost, TINY)
    return RelativePose(R, t, inliers, covariance(view, (R, t)), float(margin), parallax_px(view, R, found[0][1]))


def fit_pose_of_rays(rays0: NDArray[np.floating], rays1: NDArray[np.floating], focals_px: tuple[float, float],
                     config: GeometryConfig = GeometryConfig(), spreads: Spreads | None = None) -> RelativePose:
    """The same from viewing rays [K,3] at z = 1, whatever camera they are of; where one is NaN, the match has no say.

    focals_px: of either camera, pixels to a unit of rays, by which errors are judged.
    """
    cameras = [np.diag([focal, focal, 1.0]) for focal in focals_px]
    points = [rays[:, :2] * focal for rays, focal in zip((rays0, rays1), focals_px)]
    return fit_relative_pose(*points, *cameras, config, spreads)


def no_pose(count: int) -> RelativePose:
    """What is said of `count` matches that determine none."""
    return RelativePose(None, None, np.zeros(count, bool), np.full((6, 6), np.nan), float("nan"), float("nan"))


def rotation_angle_deg(R: Array) -> float:
    """Angle of a rotation matrix [3,3], degrees, also where it is tiny."""
    sine = np.linalg.norm([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]]) / 2
    return float(np.degrees(np.arctan2(sine, (np.trace(R) - 1) / 2)))


def pose_difference_deg(pose: Pose, other: Pose) -> tuple[float, float]:
    """Angles, degrees, of the rotation and of the translation's direction between two poses R [3,3], t [3]."""
    (R, t), (R_other, t_other) = pose, other
    return rotation_angle_deg(R.T @ R_other), float(np.degrees(np.arctan2(np.linalg.norm(np.cross(t, t_other)), t @ t_other)))


def _is_a_line(points: Array) -> bool:
    """Whether points [K,2] px lie so near a line that many a wrong pose explains them as well."""
    return float(np.linalg.eigvalsh(np.cov(points.T))[0]) < LEAST_BREADTH_PX**2


def _ranked(view: View, poses: list[Pose]) -> list[tuple[float, NDArray[np.bool_], Pose]]:
    """Cost, inliers and pose, the best first, without those that are nearly one before."""
    kept: list[tuple[float, NDArray[np.bool_], Pose]] = []
    for entry in sorted(((*msac_cost(view, pose), pose) for pose in poses), key=lambda entry: entry[0]):
        if all(max(pose_difference_deg(entry[2], pose)) > OTHER_DEG for _, _, pose in kept):
            kept.append(entry)
    return kept


def _intrinsics(K: Array, name: str) -> Array:
    K = np.asarray(K, np.float64)
    if K.shape != (3, 3) or not np.isfinite(K).all() or min(K[0, 0], K[1, 1]) <= 0 or not np.array_equal(K[2], (0, 0, 1)):
        raise MatcherError(f"{name} must be intrinsics [3,3] with focal lengths above 0 and (0, 0, 1) below, got "
                           f"{' '.join(str(K.tolist()).split())}")
    return K


def _essential_poses(view: View, config: GeometryConfig) -> list[Pose]:
    """Of the four poses an essential matrix stands for, the one with most points before both cameras."""
    params = usac_params(INLIER_PX / view.focal_px, config)
    points = [np.ascontiguousarray(rays[:2].T) for rays in (view.rays0, view.rays1)]
    try:
        E, _ = cv2.findEssentialMat(*points, np.eye(3), np.eye(3), np.zeros(4), np.zeros(4), params)
    except cv2.error:
        return []  # some versions raise on degenerate points where others return nothing
    if E is None or E.shape != (3, 3) or not np.isfinite(E).all():
        return []
    R, R_other, t = cv2.decomposeEssentialMat(E)
    return [min(((turn, t[:, 0]) for turn in (R, R_other)), key=lambda pose: msac_cost(view, pose)[0])]


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
