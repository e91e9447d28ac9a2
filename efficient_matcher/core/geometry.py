"""Matched points -> homography with inliers, RMSE and corner covariance; warping points.

Conventions: points are [K,2] in input-image pixels, x right, y down, centres at integers; H maps
image 0 to image 1 and has h22 = 1. Inside the fit all is solved in coordinates centred on the points
and scaled to unit spread (Hartley, "In defense of the eight-point algorithm"), else the normal
equations would lose half the digits; G is H in those.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import GeometryConfig
from efficient_matcher.records import Homography

Array = NDArray[np.float64]

MINIMUM_POINTS = 4
HORIZON = 1e-9  # relative depths below this are behind the camera, or as good as
# Keypoint errors are heavy-tailed: many good to a third of a pixel, some off by two. Weights of a t
# distribution use the good ones; plain least squares and MAGSAC's own weights let the bad ones rule.
DEGREES_OF_FREEDOM = 3.0
REACH = 2.0  # thresholds; the weights fade points out softly up to here, a hard cut at one would bias them
POLISH_STEPS = 5
CONVERGED = 4e-5  # step in normalised coordinates; what is left is a third of it, a few thousandths of a pixel
SMALLEST_NOISE_PX = 0.1  # taken for the noise of points that fit better, so that exact input has no special case
LARGEST_UNCERTAINTY = 0.1  # of any parameter, in spreads of the points
LEAST_SIGNAL_TO_NOISE = 2.0  # per point, in the direction of parameters where it is weakest


@dataclass(frozen=True)
class _Problem:
    """Points in normalised coordinates; pixels = coordinates / scale."""

    points0: Array
    points1: Array
    to_unit0: Array
    to_unit1: Array

    @property
    def scale1(self) -> float:
        return float(self.to_unit1[0, 0])


def fit_homography(points0: NDArray[np.floating], points1: NDArray[np.floating], image_size0: tuple[int, int],
                   config: GeometryConfig) -> Homography:
    """Robust homography from matched points0 to points1, both [K,2] px.

    RANSAC with a seeded generator and MSAC's score, then reweighted least squares. The same points give the same
    result. image_size0: (width, height) of image 0, whose corners the covariance is of; it is a
    first-order estimate from the residuals, taken as independent, and NaN where a corner lies
    beyond the horizon.

    The matrix is None when the points do not determine one: fewer than 4, or than
    config.min_inliers, agree; the inliers lie, up to their noise, on a line or a line and one point,
    or too close together; or the pixel (0, 0) is beyond the horizon.
    """
    points0, points1 = np.asarray(points0, np.float64).reshape(-1, 2), np.asarray(points1, np.float64).reshape(-1, 2)
    usable = np.flatnonzero(np.isfinite(points0).all(1) & np.isfinite(points1).all(1))
    fitted = _fit(points0[usable], points1[usable], image_size0, config)
    inliers = np.zeros(len(points0), bool)
    if fitted is None:
        return Homography(None, inliers, np.full((8, 8), np.nan), float("nan"))
    H, errors, covariance = fitted
    agreeing = errors < config.threshold_px
    inliers[usable] = agreeing
    return Homography(H, inliers, covariance, float(np.sqrt(np.mean(errors[agreeing] ** 2))))


def rough_homography(points0: NDArray[np.floating], points1: NDArray[np.floating],
                     config: GeometryConfig) -> Array | None:
    """The robust homography that `fit_homography` starts from, [3,3] with h22 = 1, at a tenth of its cost, or None.

    points0, points1: finite, [K,2] px.
    """
    points0, points1 = np.asarray(points0, np.float64).reshape(-1, 2), np.asarray(points1, np.float64).reshape(-1, 2)
    start = _robust_start(points0, points1, config)
    if start is None:
        return None
    start = _upright(start, points0)
    return start / start[2, 2] if start[2, 2] > HORIZON else None


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


def _fit(points0: Array, points1: Array, image_size0: tuple[int, int],
         config: GeometryConfig) -> tuple[Array, Array, Array] | None:
    """H, reprojection errors [K] px (NaN beyond the horizon), corner covariance; None if undetermined."""
    start = _robust_start(points0, points1, config)
    if start is None:
        return None
    problem = _normalised(points0, points1, start, config)
    if problem is None:
        return None
    G = _polish(problem, problem.to_unit1 @ start @ np.linalg.inv(problem.to_unit0), config)
    if G is None:
        return None
    H = np.linalg.inv(problem.to_unit1) @ G @ problem.to_unit0
    residuals = problem.points1 - warp_points(problem.points0, G)
    errors = np.linalg.norm(residuals, axis=1) / problem.scale1
    inliers = errors < config.threshold_px
    too_few = np.count_nonzero(inliers) < max(config.min_inliers, MINIMUM_POINTS)
    if too_few or H[2, 2] <= HORIZON or not _determined(problem, G, residuals, inliers):
        return None
    return H / H[2, 2], errors, _corner_covariance(problem, G, residuals, image_size0, config)


def _robust_start(points0: Array, points1: Array, config: GeometryConfig) -> Array | None:
    if len(points0) < max(config.min_inliers, MINIMUM_POINTS):
        return None
    params = cv2.UsacParams()  # as USAC's own presets are made, but with a seed
    params.score = cv2.SCORE_METHOD_MSAC  # MAGSAC's takes twice as long, and after the polish ends in the same place
    params.threshold = config.threshold_px
    params.maxIterations = config.max_iterations
    params.confidence = config.confidence
    params.randomGeneratorState = config.seed
    params.isParallel = False  # threads would race for the best model
    try:
        H, mask = cv2.findHomography(points0, points1, params)
    except cv2.error:
        return None  # some versions raise on degenerate points where others return nothing
    if H is None or H.shape != (3, 3) or not np.isfinite(H).all():
        return None
    return H if abs(np.linalg.det(H)) > np.finfo(float).tiny else None


def _normalised(points0: Array, points1: Array, start: Array, config: GeometryConfig) -> _Problem | None:
    """All points, centred and scaled by those that agree with the start; None when hardly any do."""
    agreeing = np.linalg.norm(warp_points(points0, _upright(start, points0)) - points1, axis=1) < config.threshold_px
    if np.count_nonzero(agreeing) < MINIMUM_POINTS:
        return None
    to_unit0, to_unit1 = _to_unit(points0[agreeing]), _to_unit(points1[agreeing])
    return _Problem(warp_points(points0, to_unit0), warp_points(points1, to_unit1), to_unit0, to_unit1)


def _upright(H: Array, points: Array) -> Array:
    """H with the sign that puts most points before the horizon."""
    return H if 2 * np.count_nonzero(points @ H[2, :2] + H[2, 2] > 0) > len(points) else -H


def _to_unit(points: Array) -> Array:
    centre = points.mean(0)
    spread = np.linalg.norm(points - centre, axis=1).mean() / np.sqrt(2)
    scale = 1 / spread if spread > 1e-6 else 1.0  # points all in one place are rejected later
    return np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1.0]])


def _polish(problem: _Problem, G: Array, config: GeometryConfig) -> Array | None:
    """Gauss-Newton steps on the weighted reprojection errors, from G and to G with G22 = 1."""
    for _ in range(POLISH_STEPS):
        if not abs(G[2, 2]) > HORIZON:
            return None
        G = G / G[2, 2]
        residuals = problem.points1 - warp_points(problem.points0, G)
        weighting = _weighting(residuals, problem.scale1 * config.threshold_px)
        if weighting is None:
            return None
        near, weights, _ = weighting
        try:
            step = np.linalg.solve(*_normal_equations(problem.points0[near], G, residuals[near], weights))
        except np.linalg.LinAlgError:
            return None
        G = G + np.append(step, 0.0).reshape(3, 3)
        if np.abs(step).max() < CONVERGED:
            break
    return G


def _normal_equations(points0: Array, G: Array, residuals: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """J^T W J [8,8] and J^T W r [8] of the projections by the first 8 elements of G; weights [K], 1 where None.

    The Jacobian of a point is (ray, 0, -x ray') and (0, ray, -y ray'), so that all products of its entries are among
    those of nine numbers, and J itself [2K,8] is never laid out. No point may lie beyond the horizon.
    """
    rows = np.empty((9, len(points0)))  # in rows, so that each of the nine is one run of memory
    rows[2] = 1 / (points0 @ G[2, :2] + G[2, 2])
    np.multiply(points0.T, rows[2], out=rows[:2])
    places = G[:2] @ rows[:3]
    np.multiply(places[0], rows[:2], out=rows[3:5])
    np.multiply(places[1], rows[:2], out=rows[5:7])
    rows[7:] = residuals.T
    products = (rows if weights is None else rows * weights) @ rows.T
    ray, x, y = slice(0, 3), slice(3, 5), slice(5, 7)
    normal = np.zeros((8, 8))
    normal[0:3, 0:3] = normal[3:6, 3:6] = products[ray, ray]
    normal[0:3, 6:8], normal[3:6, 6:8] = -products[ray, x], -products[ray, y]
    normal[6:8, 0:6] = normal[0:6, 6:8].T
    normal[6:8, 6:8] = products[x, x] + products[y, y]
    right = np.concatenate([products[ray, 7], products[ray, 8], -products[x, 7] - products[y, 8]])
    return normal, right


def _design(points0: Array, G: Array) -> Array:
    """Derivatives of the projections x0 y0 x1 y1 ... by the first 8 elements of G, [2K,8]; NaN beyond the horizon."""
    depth = points0 @ G[2, :2] + G[2, 2]
    ray = np.column_stack([points0, np.ones(len(points0))]) / np.where(depth > HORIZON, depth, np.nan)[:, None]
    design = np.zeros((len(points0), 2, 8))
    design[:, 0, 0:3] = ray
    design[:, 1, 3:6] = ray
    design[:, :, 6:8] = -(ray @ G[:2].T)[:, :, None] * ray[:, None, :2]
    return design.reshape(-1, 8)


def _weighting(residuals: Array, threshold: float) -> tuple[NDArray[np.bool_], Array, float] | None:
    """Which points take part [K], the weights of these, the noise of one coordinate; None when too few agree."""
    errors = np.sqrt(np.einsum("kd,kd->k", residuals, residuals))
    agreeing = errors[errors < threshold]
    if len(agreeing) < MINIMUM_POINTS:
        return None
    near = errors < REACH * threshold
    median_of_unit_noise = np.sqrt(2 * np.log(2))
    median = np.partition(agreeing, len(agreeing) // 2)[len(agreeing) // 2]
    noise = max(float(median) / median_of_unit_noise, 1e-9 * threshold)
    weights = (DEGREES_OF_FREEDOM + 2) / (DEGREES_OF_FREEDOM + (errors[near] / noise) ** 2)
    return near, weights, noise


def _determined(problem: _Problem, G: Array, residuals: Array, inliers: NDArray[np.bool_]) -> bool:
    """Whether the inliers say more of every parameter than their noise does.

    Counting the uncertainty that noise leaves is not enough: scatter about a line, given enough
    points, looks like a little information on what is off the line, and is none.
    """
    normal, _ = _normal_equations(problem.points0[inliers], G, residuals[inliers])
    noise = max(float(np.sqrt(np.mean(residuals[inliers] ** 2))), SMALLEST_NOISE_PX * problem.scale1)
    weakest = float(np.linalg.eigvalsh(normal)[0])
    least = max(LARGEST_UNCERTAINTY**-2, np.count_nonzero(inliers) * LEAST_SIGNAL_TO_NOISE**2)
    return weakest > least * noise**2


def _corner_covariance(problem: _Problem, G: Array, residuals: Array, image_size0: tuple[int, int],
                       config: GeometryConfig) -> Array:
    """Covariance [8,8] px^2 of the warped corners of image 0: (J^T J)^-1 times the variance of a weighted residual.

    The variance is that of an M-estimate, E[psi^2] / E[psi']^2 (Huber, "Robust Statistics", 6.3), psi = weight x
    residual; for Gaussian residuals and equal weights it is their variance.
    """
    unknown = np.full((8, 8), np.nan)
    weighting = _weighting(residuals, problem.scale1 * config.threshold_px)
    at_corners = _design(warp_points(image_corners(image_size0), problem.to_unit0), G)
    if weighting is None or not np.isfinite(at_corners).all():
        return unknown
    near, weights, noise = weighting
    count = len(weights)
    if count <= MINIMUM_POINTS:
        return unknown  # as many unknowns as residuals: nothing is left to see the noise by
    squares = (residuals[near] ** 2).sum(1)
    slope = np.mean(weights - weights**2 * squares / noise**2 / (DEGREES_OF_FREEDOM + 2))
    variance = np.mean(weights**2 * squares) / 2 / slope**2 * count / (count - MINIMUM_POINTS)
    normal, _ = _normal_equations(problem.points0[near], G, residuals[near])
    return at_corners @ np.linalg.solve(normal, at_corners.T) * variance / problem.scale1**2
