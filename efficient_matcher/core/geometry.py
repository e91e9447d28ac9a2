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
FAR = 1e12  # squared distance, in whatever unit, of a point without a projection; a number that 0 times is 0
# Keypoint errors are heavy-tailed: many good to a third of a pixel, some off by two. Weights of a t
# distribution use the good ones; plain least squares and MAGSAC's own weights let the bad ones rule.
DEGREES_OF_FREEDOM = 3.0
MEDIAN_OF_UNIT_NOISE = 2 * float(np.log(2))  # of its squared length in two dimensions
REACH = 2.0  # thresholds; the weights fade points out softly up to here, a hard cut at one would bias them
POLISH_STEPS = 5
CONVERGED = 4e-5  # step in normalised coordinates; what is left is a third of it, a few thousandths of a pixel
SMALLEST_NOISE_PX = 0.1  # taken for the noise of points that fit better, so that exact input has no special case
LARGEST_UNCERTAINTY = 0.1  # of any parameter, in spreads of the points
LEAST_SIGNAL_TO_NOISE = 2.0  # per point, in the direction of parameters where it is weakest


@dataclass(frozen=True)
class _Problem:
    """Points in normalised coordinates, one column each, so that all sums run along memory; pixels = coordinates /
    scale. points0 [3,K] end in 1; points1 [2,K]. threshold: of inliers, in normalised coordinates."""

    points0: Array
    points1: Array
    to_unit0: Array
    to_unit1: Array
    threshold: float

    @property
    def scale1(self) -> float:
        return float(self.to_unit1[0, 0])


@dataclass(frozen=True)
class _Linearized:
    """Projections by the first 8 elements of G about their values. rows [9,K]: ray (3), x and y times the ray's first
    two (2 + 2), residuals (2); all 0 for points beyond the horizon. squared [K]: of the residuals' length, FAR there.

    The Jacobian of a point is (ray, 0, -x ray') and (0, ray, -y ray'), so that all products of its entries are among
    those of nine numbers, and J itself [2K,8] is never laid out.
    """

    rows: Array
    squared: Array

    def normal_equations(self, weights: Array) -> tuple[Array, Array]:
        """J^T W J [8,8] and J^T W r [8], weights [K]."""
        products = (self.rows * weights) @ self.rows.T
        ray, x, y = slice(0, 3), slice(3, 5), slice(5, 7)
        normal = np.zeros((8, 8))
        normal[0:3, 0:3] = normal[3:6, 3:6] = products[ray, ray]
        normal[0:3, 6:8], normal[3:6, 6:8] = -products[ray, x], -products[ray, y]
        normal[6:8, 0:6] = normal[0:6, 6:8].T
        normal[6:8, 6:8] = products[x, x] + products[y, y]
        return normal, np.concatenate([products[ray, 7], products[ray, 8], -products[x, 7] - products[y, 8]])


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
    usable = np.isfinite(points0).all(1) & np.isfinite(points1).all(1)
    inliers = np.zeros(len(points0), bool)
    fitted = _fit(points0[usable], points1[usable], image_size0, config)
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
    """H, reprojection errors [K] px (huge beyond the horizon), corner covariance; None if undetermined."""
    start = _robust_start(points0, points1, config)
    if start is None:
        return None
    problem = _normalised(points0, points1, start, config)
    if problem is None:
        return None
    G = _polish(problem, problem.to_unit1 @ start @ np.linalg.inv(problem.to_unit0))
    if G is None:
        return None
    H, fit = np.linalg.inv(problem.to_unit1) @ G @ problem.to_unit0, _linearized(problem, G)
    inliers = fit.squared < problem.threshold**2
    too_few = np.count_nonzero(inliers) < max(config.min_inliers, MINIMUM_POINTS)
    if too_few or H[2, 2] <= HORIZON or not _determined(problem, fit, inliers):
        return None
    return H / H[2, 2], np.sqrt(fit.squared) / problem.scale1, _corner_covariance(problem, G, fit, image_size0)


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
    rows0, rows1 = np.empty((3, len(points0))), np.ascontiguousarray(points1.T)
    rows0[:2], rows0[2] = points0.T, 1
    pixels = _Problem(rows0, rows1, np.eye(3), np.eye(3), config.threshold_px)
    agreeing = _linearized(pixels, _upright(start, points0)).squared < config.threshold_px**2
    if np.count_nonzero(agreeing) < MINIMUM_POINTS:
        return None
    to_unit0, to_unit1 = _to_unit(rows0[:2, agreeing]), _to_unit(rows1[:, agreeing])
    return _Problem(to_unit0 @ rows0, to_unit1[:2, :2] @ rows1 + to_unit1[:2, 2:], to_unit0, to_unit1,
                    config.threshold_px * float(to_unit1[0, 0]))


def _upright(H: Array, points: Array) -> Array:
    """H with the sign that puts most points before the horizon."""
    return H if 2 * np.count_nonzero(points @ H[2, :2] + H[2, 2] > 0) > len(points) else -H


def _to_unit(rows: Array) -> Array:
    """The scaling [3,3] of points [2,K] to mean 0 and a mean distance of sqrt(2) from it."""
    centre = rows.mean(1)
    x, y = rows - centre[:, None]
    spread = np.sqrt(x * x + y * y).mean() / np.sqrt(2)
    scale = 1 / spread if spread > 1e-6 else 1.0  # points all in one place are rejected later
    return np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1.0]])


def _linearized(problem: _Problem, G: Array) -> _Linearized:
    points0, points1 = problem.points0, problem.points1
    rows, depth = np.empty((9, points0.shape[1])), G[2] @ points0
    beyond = None if depth.min() > HORIZON else ~(depth > HORIZON)
    np.divide(points0, depth if beyond is None else np.where(beyond, 1, depth), out=rows[:3])
    places = G[:2] @ rows[:3]
    np.multiply(places[0], rows[:2], out=rows[3:5])
    np.multiply(places[1], rows[:2], out=rows[5:7])
    x, y = np.subtract(points1, places, out=rows[7:])
    squared = x * x + y * y
    if beyond is not None:
        rows[:, beyond], squared[beyond] = 0, FAR
    return _Linearized(rows, squared)


def _polish(problem: _Problem, G: Array) -> Array | None:
    """Gauss-Newton steps on the weighted reprojection errors, from G and to G with G22 = 1."""
    for _ in range(POLISH_STEPS):
        if not abs(G[2, 2]) > HORIZON:
            return None
        G = G / G[2, 2]
        fit = _linearized(problem, G)
        weighting = _weighting(fit.squared, problem.threshold)
        if weighting is None:
            return None
        try:
            step = np.linalg.solve(*fit.normal_equations(weighting[0]))
        except np.linalg.LinAlgError:
            return None
        G = G + np.append(step, 0.0).reshape(3, 3)
        if np.abs(step).max() < CONVERGED:
            break
    return G


def _weighting(squared: Array, threshold: float) -> tuple[Array, float] | None:
    """Weights [K], 0 for points out of reach, and the variance of one coordinate; None when too few agree."""
    agreeing = squared[squared < threshold**2]
    if len(agreeing) < MINIMUM_POINTS:
        return None
    median = float(np.partition(agreeing, len(agreeing) // 2)[len(agreeing) // 2])
    variance = max(median / MEDIAN_OF_UNIT_NOISE, (1e-9 * threshold) ** 2)
    weights = (DEGREES_OF_FREEDOM + 2) / (DEGREES_OF_FREEDOM + squared / variance)
    weights *= squared < (REACH * threshold) ** 2
    return weights, variance


def _determined(problem: _Problem, fit: _Linearized, inliers: NDArray[np.bool_]) -> bool:
    """Whether the inliers say more of every parameter than their noise does.

    Counting the uncertainty that noise leaves is not enough: scatter about a line, given enough
    points, looks like a little information on what is off the line, and is none.
    """
    normal, _ = fit.normal_equations(inliers.astype(np.float64))
    count = np.count_nonzero(inliers)
    variance = max(float(inliers @ fit.squared) / count / 2, (SMALLEST_NOISE_PX * problem.scale1) ** 2)
    weakest = float(np.linalg.eigvalsh(normal)[0])
    return weakest > max(LARGEST_UNCERTAINTY**-2, count * LEAST_SIGNAL_TO_NOISE**2) * variance


def _corner_covariance(problem: _Problem, G: Array, fit: _Linearized, image_size0: tuple[int, int]) -> Array:
    """Covariance [8,8] px^2 of the warped corners of image 0: (J^T J)^-1 times the variance of a weighted residual.

    The variance is that of an M-estimate, E[psi^2] / E[psi']^2 (Huber, "Robust Statistics", 6.3), psi = weight x
    residual; for Gaussian residuals and equal weights it is their variance.
    """
    weighting = _weighting(fit.squared, problem.threshold)
    at_corners = _slopes_at(warp_points(image_corners(image_size0), problem.to_unit0), G)
    if weighting is None or not np.isfinite(at_corners).all():
        return np.full((8, 8), np.nan)
    weights, noise = weighting
    near = (weights > 0).astype(np.float64)
    count = int(near.sum())
    if count <= MINIMUM_POINTS:  # as many unknowns as residuals: nothing is left to see the noise by
        return np.full((8, 8), np.nan)
    psi_squared = weights**2 * fit.squared
    slope = (weights.sum() - psi_squared.sum() / noise / (DEGREES_OF_FREEDOM + 2)) / count
    variance = psi_squared.sum() / 2 / slope**2 / (count - MINIMUM_POINTS)
    normal, _ = fit.normal_equations(near)
    return at_corners @ np.linalg.solve(normal, at_corners.T) * variance / problem.scale1**2


def _slopes_at(points0: Array, G: Array) -> Array:
    """Derivatives of the projections x0 y0 x1 y1 ... by the first 8 elements of G, [2K,8]; NaN beyond the horizon."""
    ray = np.column_stack([points0, np.ones(len(points0))])
    depth = ray @ G[2]
    ray /= np.where(depth > HORIZON, depth, np.nan)[:, None]
    design = np.zeros((len(points0), 2, 8))
    design[:, 0, 0:3] = design[:, 1, 3:6] = ray
    design[:, :, 6:8] = -(ray @ G[:2].T)[:, :, None] * ray[:, None, :2]
    return design.reshape(-1, 8)
