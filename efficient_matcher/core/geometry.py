"""Matched points -> homography with inliers, RMSE and corner covariance; warping points.

Conventions: points are [K,2] in input-image pixels, x right, y down, centres at integers; H maps
image 0 to image 1 and has h22 = 1.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import GeometryConfig
from efficient_matcher.core import native
from efficient_matcher.core.least_squares import (
    HORIZON, MINIMUM_POINTS, constants, covariance_at, determined, linearized, normalised, polish, with_points_ahead)
from efficient_matcher.records import Features, Homography, Matches

TINY = float(np.finfo(float).tiny)

Array = NDArray[np.float64]
Spreads = tuple[NDArray[np.floating], NDArray[np.floating]]


def fit_homography(points0: NDArray[np.floating], points1: NDArray[np.floating], image_size0: tuple[int, int],
                   config: GeometryConfig, spreads: Spreads | None = None) -> Homography:
    """Robust homography from matched points0 to points1, both [K,2] px.

    RANSAC with a seeded generator and MSAC's score, then reweighted least squares. The same points give the same
    result. spreads: of points 0 and of points 1, [K] each, above 0: what their standard deviations are proportional to,
    in px of their images; points that are known to be placed better then count for more. image_size0: (width, height)
    of image 0, whose corners the covariance is of; it is a first-order estimate from the residuals, taken as
    independent, and NaN where a corner lies beyond the horizon.

    The matrix is None when the points do not determine one: fewer than 4, or than
    config.min_inliers, agree; the inliers lie, up to their noise, on a line or a line and one point,
    or too close together; or the pixel (0, 0) is beyond the horizon.
    """
    points0, points1 = np.asarray(points0, np.float64).reshape(-1, 2), np.asarray(points1, np.float64).reshape(-1, 2)
    usable = slice(None)
    if not math.isfinite(points0.sum() + points1.sum()):
        usable = np.isfinite(points0).all(1) & np.isfinite(points1).all(1)
    inliers = np.zeros(len(points0), bool)
    known = None if spreads is None else tuple(np.asarray(spread, np.float64)[usable] for spread in spreads)
    fitted = _fit(points0[usable], points1[usable], image_size0, config, known)
    if fitted is None:
        return Homography(None, inliers, np.full((8, 8), np.nan), float("nan"))
    H, errors, covariance = fitted
    agreeing = errors < config.threshold_px
    inliers[usable], close = agreeing, errors[agreeing]
    return Homography(H, inliers, covariance, math.sqrt(close @ close / len(close)))


def fit_matches(features0: Features, features1: Features, matches: Matches, config: GeometryConfig) -> Homography:
    """Robust homography of matches, each of which counts for as much as is known of how well it is placed."""
    return fit_homography(*matches.positions(features0, features1), features0.image_size, config,
                          matches.spreads(features0, features1))


def rough_homography(points0: NDArray[np.floating], points1: NDArray[np.floating],
                     config: GeometryConfig) -> Array | None:
    """The robust homography that `fit_homography` starts from, [3,3] with h22 = 1, at a tenth of its cost, or None.

    points0, points1: finite, [K,2] px.
    """
    points0, points1 = np.asarray(points0, np.float64).reshape(-1, 2), np.asarray(points1, np.float64).reshape(-1, 2)
    start = _robust_start(points0, points1, config)
    if start is None:
        return None
    start = with_points_ahead(start, points0)
    return start / start[2, 2] if start[2, 2] > HORIZON else None


def usac_params(threshold: float, config: GeometryConfig) -> cv2.UsacParams:
    """How OpenCV's robust estimators are to search, `threshold` in the points' own unit: as USAC's own presets are
    made, but with a seed."""
    params = cv2.UsacParams()
    params.score = cv2.SCORE_METHOD_MSAC  # MAGSAC's takes twice as long, and after the polish ends in the same place
    params.threshold = threshold
    params.maxIterations = config.max_iterations
    params.confidence = config.confidence
    params.randomGeneratorState = config.seed
    params.isParallel = False  # threads would race for the best model
    return params


def warp_points(points: NDArray[np.floating], H: Array) -> Array:
    """Map points [N,2] px of image 0 to image 1 pixels [N,2] by H [3,3]; NaN beyond the horizon."""
    x, y, depth = H[:, :2] @ np.asarray(points, np.float64).reshape(-1, 2).T + H[:, 2:]
    if not (depth > HORIZON).all():
        depth = np.where(depth > HORIZON, depth, np.nan)
    return np.stack([x / depth, y / depth], axis=1)


def image_corners(size: tuple[int, int]) -> Array:
    """Centres of the corner pixels of an image of size (width, height), [4,2] px, from top left clockwise."""
    right, bottom = size[0] - 1.0, size[1] - 1.0
    return np.array([[0.0, 0.0], [right, 0.0], [right, bottom], [0.0, bottom]])


def corner_error(H_est: Array | None, H_true: Array, size: tuple[int, int]) -> float:
    """Mean distance, px, of the corners of image 0 (width, height) under estimate and truth.

    Infinite without an estimate, or where a corner lies beyond the horizon.
    """
    if H_est is None:
        return float("inf")
    corners = image_corners(size)
    error = float(np.mean(np.linalg.norm(warp_points(corners, H_est) - warp_points(corners, H_true), axis=1)))
    return error if np.isfinite(error) else float("inf")


def _fit(points0: Array, points1: Array, image_size0: tuple[int, int], config: GeometryConfig,
         spreads: tuple[Array, Array] | None) -> tuple[Array, Array, Array] | None:
    """H, reprojection errors [K] px (huge beyond the horizon), corner covariance; None if undetermined."""
    start = _robust_start(points0, points1, config)
    if start is None:
        return None
    if native.available():
        return native.homography(points0, points1, start, spreads, image_corners(image_size0),
                                 constants(config.threshold_px, config.min_inliers))
    problem = normalised(points0, points1, start, config.threshold_px, spreads)
    if problem is None:
        return None
    G = polish(problem, problem.to_unit1 @ start @ np.linalg.inv(problem.to_unit0))
    if G is None:
        return None
    H, fit = np.linalg.inv(problem.to_unit1) @ G @ problem.to_unit0, linearized(problem, G)
    inliers = fit.squared < problem.threshold**2
    too_few = np.count_nonzero(inliers) < max(config.min_inliers, MINIMUM_POINTS)
    if too_few or H[2, 2] <= HORIZON or not determined(problem, fit, inliers):
        return None
    corners = warp_points(image_corners(image_size0), problem.to_unit0)
    return H / H[2, 2], np.sqrt(fit.squared) / problem.scale1, covariance_at(corners, problem, G, fit)


def _robust_start(points0: Array, points1: Array, config: GeometryConfig) -> Array | None:
    if len(points0) < max(config.min_inliers, MINIMUM_POINTS):
        return None
    try:
        H, mask = cv2.findHomography(points0, points1, usac_params(config.threshold_px, config))
    except cv2.error:
        return None  # some versions raise on degenerate points where others return nothing
    if H is None or H.shape != (3, 3) or not np.isfinite(H).all():
        return None
    (a, b, c), (d, e, f), (g, h, i) = H.tolist()
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return H if abs(determinant) > TINY else None
