"""A homography by reweighted least squares: from a robust start to the estimate, and how far that can be trusted.

All is solved in coordinates centred on the points and scaled to unit spread (Hartley, "In defense of the eight-point
algorithm"), else the normal equations would lose half the digits; G is the homography in those.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Union

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core import native

Array = NDArray[np.float64]

MINIMUM_POINTS = 4
HORIZON = 1e-9  # relative depths below this are behind the camera, or as good as
FAR = 1e12  # squared distance, in whatever unit, of a point without a projection; a number that 0 times is 0
# Keypoint errors are heavy-tailed: many good to a third of a pixel, some off by two. Weights of a t
# distribution use the good ones; plain least squares and MAGSAC's own weights let the bad ones rule.
DEGREES_OF_FREEDOM = 3.0
MEDIAN_OF_UNIT_NOISE = 2 * float(np.log(2))  # of its squared length in two dimensions
REACH = 2.0  # thresholds; the weights fade points out softly up to here, a hard cut at one would bias them
LEAST_ROUND = 0.05  # smallest variance across, in means of both directions
MOST_UNEVEN = 10.0  # times the median of the variance: what a point may be taken to be better or worse than others
POLISH_STEPS = 10  # three are usual; where half of the points are off by more than a pixel, five were too few
CONVERGED = 4e-5  # step in normalised coordinates; what is left is a third of it, a few thousandths of a pixel
SMALLEST_NOISE_PX = 0.1  # taken for the noise of points that fit better, so that exact input has no special case
LEAST_NOISE_PX = 0.01  # of a point, in covariances: the same picture twice is no infinitely good measurement
LARGEST_UNCERTAINTY = 0.1  # of any parameter, in spreads of the points
LEAST_SIGNAL_TO_NOISE = 2.0  # per point, in the direction of parameters where it is weakest


@lru_cache(maxsize=8)
def constants(threshold_px: float, min_inliers: int) -> native.LeastSquares:
    """All of the above, for the compiled form of what follows."""
    return native.LeastSquares(
        HORIZON, FAR, threshold_px, REACH, DEGREES_OF_FREEDOM, MEDIAN_OF_UNIT_NOISE, MOST_UNEVEN, LEAST_ROUND, CONVERGED,
        SMALLEST_NOISE_PX, LEAST_NOISE_PX, LARGEST_UNCERTAINTY, LEAST_SIGNAL_TO_NOISE, POLISH_STEPS, MINIMUM_POINTS,
        max(min_inliers, MINIMUM_POINTS))


# Of residuals (x, y): the factor of x in the first whitened number, and those of x and y in the second; [K] or for all.
Whitening = tuple[Union[Array, float], Union[Array, float], Union[Array, float]]
ALIKE: Whitening = (1.0, 0.0, 1.0)


@dataclass(frozen=True)
class Problem:
    """Points in normalised coordinates, one column each, so that all sums run along memory; pixels = coordinates /
    scale. points0 [3,K] end in 1; points1 [2,K]. threshold: of inliers, in normalised coordinates. whitening: what makes
    residuals those of unit noise in both directions, up to a factor common to all."""

    points0: Array
    points1: Array
    to_unit0: Array
    to_unit1: Array
    threshold: float
    whitening: Whitening = ALIKE

    @property
    def scale1(self) -> float:
        """From pixels of image 1."""
        return float(self.to_unit1[0, 0])


@dataclass(frozen=True)
class Linearized:
    """Projections by the first 8 elements of G about their values. rows [9,K]: ray (3); -x times the ray's first two, and
    the residual along x; the same of y. All 0 for points beyond the horizon. squared [K]: of the residuals' length, FAR
    there.

    The Jacobian of a point is (ray, 0, -x ray') and (0, ray, -y ray'), so that whitened it is made of multiples of
    these nine numbers, and most of its zeros are never multiplied.
    """

    rows: Array
    squared: Array

    def whitened(self, whitening: Whitening = ALIKE) -> Whitened:
        """The Jacobian and the residuals under a whitening."""
        to_x, across, to_y = whitening
        second = np.empty_like(self.rows)
        first, shifted = to_x * self.rows[:6], across * self.rows[:6]
        second[:3] = shifted[:3]
        np.multiply(to_y, self.rows[:3], out=second[3:6])
        np.multiply(to_y, self.rows[6:], out=second[6:])
        second[6:] += shifted[3:]
        return Whitened(first, second)


@dataclass(frozen=True)
class Whitened:
    """Rows of the whitened Jacobian, its residual last: first [6,K], of what has to do with x alone, second [9,K]."""

    first: Array
    second: Array

    def squared(self) -> Array:
        """Lengths [K] of the residuals."""
        return self.first[5] * self.first[5] + self.second[8] * self.second[8]

    def normal_equations(self, weights: Array) -> tuple[Array, Array]:
        """J^T W J [8,8] and J^T W r [8], weights [K]."""
        sums = (self.second * weights) @ self.second.T
        sums[_FIRST] += (self.first * weights) @ self.first.T
        return sums[:8, :8], sums[:8, 8]


_FIRST = np.ix_(*[[0, 1, 2, 6, 7, 8]] * 2)  # the parameters, and the residual, that one along x has to do with


def normalised(points0: Array, points1: Array, start: Array, threshold_px: float,
               spreads: tuple[Array, Array] | None = None) -> Problem | None:
    """All points [K,2] px, centred and scaled by those that agree with the start [3,3]; None when hardly any do.

    spreads: [K] each, what the standard deviations of points 0 and of points 1 are proportional to, px.
    """
    rows0, rows1 = np.empty((3, len(points0))), np.ascontiguousarray(points1.T)
    rows0[:2], rows0[2] = points0.T, 1
    pixels = Problem(rows0, rows1, np.eye(3), np.eye(3), threshold_px)
    upright = with_points_ahead(start, points0)
    agreeing = linearized(pixels, upright).squared < threshold_px**2
    if np.count_nonzero(agreeing) < MINIMUM_POINTS:
        return None
    to_unit0, to_unit1 = _to_unit(rows0[:2, agreeing]), _to_unit(rows1[:, agreeing])
    whitening = ALIKE if spreads is None else _whitening(upright, rows0, agreeing, *spreads)
    return Problem(to_unit0 @ rows0, to_unit1[:2, :2] @ rows1 + to_unit1[:2, 2:], to_unit0, to_unit1,
                   threshold_px * float(to_unit1[0, 0]), whitening)


def with_points_ahead(H: Array, points: Array) -> Array:
    """H [3,3] with the sign that puts most points [K,2] before the horizon."""
    return H if 2 * np.count_nonzero(points @ H[2, :2] + H[2, 2] > 0) > len(points) else -H


def linearized(problem: Problem, G: Array) -> Linearized:
    """See `Linearized`."""
    points0, points1 = problem.points0, problem.points1
    rows, depth = np.empty((9, points0.shape[1])), G[2] @ points0
    beyond = None if depth.min() > HORIZON else ~(depth > HORIZON)
    np.divide(points0, depth if beyond is None else np.where(beyond, 1, depth), out=rows[:3])
    away = -G[:2] @ rows[:3]
    np.multiply(away[0], rows[:2], out=rows[3:5])
    np.multiply(away[1], rows[:2], out=rows[6:8])
    x, y = np.add(points1, away, out=rows[5::3])
    squared = x * x + y * y
    if beyond is not None:
        rows[:, beyond], squared[beyond] = 0, FAR
    return Linearized(rows, squared)


def polish(problem: Problem, G: Array) -> Array | None:
    """Gauss-Newton steps on the weighted reprojection errors, from G and to G with G22 = 1."""
    for _ in range(POLISH_STEPS):
        if not abs(G[2, 2]) > HORIZON:
            return None
        G = G / G[2, 2]
        fit = linearized(problem, G)
        whitened = fit.whitened(problem.whitening)
        weighting = _weighting(problem, fit.squared, whitened.squared())
        if weighting is None:
            return None
        try:
            step = np.linalg.solve(*whitened.normal_equations(weighting[0]))
        except np.linalg.LinAlgError:
            return None
        G = G + np.append(step, 0.0).reshape(3, 3)
        if np.abs(step).max() < CONVERGED:
            break
    return G


def determined(problem: Problem, fit: Linearized, inliers: NDArray[np.bool_]) -> bool:
    """Whether the inliers say more of every parameter than their noise does.

    Counting the uncertainty that noise leaves is not enough: scatter about a line, given enough
    points, looks like a little information on what is off the line, and is none.
    """
    normal, _ = fit.whitened().normal_equations(inliers.astype(np.float64))
    count = np.count_nonzero(inliers)
    variance = max(float(inliers @ fit.squared) / count / 2, (SMALLEST_NOISE_PX * problem.scale1) ** 2)
    weakest = float(np.linalg.eigvalsh(normal)[0])
    return weakest > max(LARGEST_UNCERTAINTY**-2, count * LEAST_SIGNAL_TO_NOISE**2) * variance


def covariance_at(points0: Array, problem: Problem, G: Array, fit: Linearized) -> Array:
    """Covariance [2A,2A] px^2 of the projections x0 y0 x1 y1 ... of points0 [A,2], normalised: (J^T J)^-1 times the
    variance of a weighted residual.

    The variance is that of an M-estimate, E[psi^2] / E[psi']^2 (Huber, "Robust Statistics", 6.3), psi = weight x
    residual, both over the point's own noise; for Gaussian residuals and equal weights it is their variance.
    """
    whitened, slopes = fit.whitened(problem.whitening), _slopes_at(points0, G)
    standard = whitened.squared()
    weighting = _weighting(problem, fit.squared, standard)
    if weighting is None or not np.isfinite(slopes).all():
        return np.full((len(slopes), len(slopes)), np.nan)
    weights, noise = weighting
    near = (weights > 0).astype(np.float64)
    count = int(near.sum())
    if count <= MINIMUM_POINTS:  # as many unknowns as residuals: nothing is left to see the noise by
        return np.full((len(slopes), len(slopes)), np.nan)
    psi_squared = weights**2 * standard
    slope = (weights.sum() - psi_squared.sum() / noise / (DEGREES_OF_FREEDOM + 2)) / count
    variance = max(psi_squared.sum() / 2 / slope**2 / (count - MINIMUM_POINTS), (LEAST_NOISE_PX * problem.scale1) ** 2)
    normal, _ = whitened.normal_equations(near)
    return slopes @ np.linalg.solve(normal, slopes.T) * variance / problem.scale1**2


def _whitening(H: Array, rows0: Array, agreeing: NDArray[np.bool_], spreads0: Array, spreads1: Array) -> Whitening:
    """Of the noise of points 1 and that of points 0 as H stretches it: the inverse of the covariance's Cholesky factor,
    relative to the median variance."""
    depth = np.maximum(H[2] @ rows0, HORIZON)
    places = H[:2] @ rows0 / depth
    slopes = (H[:2, :2, None] - places[:, None] * H[2, :2, None]) / depth  # [2,2,K], of x and of y
    if not np.isfinite(spreads0.sum() + spreads1.sum()):  # such a spread says nothing
        known = np.isfinite(spreads0) & np.isfinite(spreads1)
        spreads0, spreads1 = (np.where(known, spreads, 0) for spreads in (spreads0, spreads1))
    noise0 = spreads0 * spreads0
    xx, yy = noise0 * (slopes * slopes).sum(1) + spreads1 * spreads1
    xy = noise0 * (slopes[0] * slopes[1]).sum(0)
    variance = (xx + yy) / 2
    chosen = variance[agreeing & (variance > 0)]
    if not len(chosen):
        return ALIKE
    median = float(np.partition(chosen, len(chosen) // 2)[len(chosen) // 2])
    if not variance.min() > 0:
        unknown = ~(variance > 0)
        xx[unknown] = yy[unknown] = variance[unknown] = median
    scale = np.minimum(np.maximum(variance / median, 1 / MOST_UNEVEN), MOST_UNEVEN) / variance
    xx, yy, xy = xx * scale, yy * scale, xy * scale
    skew = xy / xx
    to_y = 1 / np.sqrt(np.maximum(yy - xy * skew, LEAST_ROUND * variance * scale))
    return 1 / np.sqrt(xx), -skew * to_y, to_y


def _to_unit(rows: Array) -> Array:
    """The scaling [3,3] of points [2,K] to mean 0 and a mean distance of sqrt(2) from it."""
    centre = rows.mean(1)
    x, y = rows - centre[:, None]
    spread = np.sqrt(x * x + y * y).mean() / np.sqrt(2)
    scale = 1 / spread if spread > 1e-6 else 1.0  # points all in one place are rejected later
    return np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1.0]])


def _weighting(problem: Problem, squared: Array, standard: Array) -> tuple[Array, float] | None:
    """Weights [K] beside those of the noise, 0 for points out of reach, and the variance of one coordinate of a point
    of median noise; None when too few agree."""
    chosen = standard[squared < problem.threshold**2]
    if len(chosen) < MINIMUM_POINTS:
        return None
    median = float(np.partition(chosen, len(chosen) // 2)[len(chosen) // 2])
    variance = max(median / MEDIAN_OF_UNIT_NOISE, (1e-9 * problem.threshold) ** 2)
    weights = (DEGREES_OF_FREEDOM + 2) / (DEGREES_OF_FREEDOM + standard / variance)
    weights *= squared < (REACH * problem.threshold) ** 2
    return weights, variance


def _slopes_at(points0: Array, G: Array) -> Array:
    """Derivatives of the projections x0 y0 x1 y1 ... by the first 8 elements of G, [2K,8]; NaN beyond the horizon."""
    ray = np.column_stack([points0, np.ones(len(points0))])
    depth = ray @ G[2]
    ray /= np.where(depth > HORIZON, depth, np.nan)[:, None]
    design = np.zeros((len(points0), 2, 8))
    design[:, 0, 0:3] = design[:, 1, 3:6] = ray
    design[:, :, 6:8] = -(ray @ G[:2].T)[:, :, None] * ray[:, None, :2]
    return design.reshape(-1, 8)
