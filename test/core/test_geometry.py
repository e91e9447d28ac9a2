"""Homographies from points whose homography is known; the covariance against repeated experiments."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from efficient_matcher.config import GeometryConfig
from efficient_matcher.core.geometry import corner_error, fit_homography, image_corners, warp_points
from efficient_matcher.records import Homography

pytestmark = pytest.mark.usefixtures("kernels")

SIZE = (640, 480)
TILTED = np.array([[0.9, -0.2, 40.0], [0.15, 1.1, -25.0], [2e-4, -1e-4, 1.0]])
CONFIG = GeometryConfig()


def scatter(count: int, seed: int = 0) -> NDArray[np.float64]:
    """[count,2] px all over image 0."""
    return np.random.default_rng(seed).uniform(0, 1, (count, 2)) * (SIZE[0] - 1, SIZE[1] - 1)


def noisy_fit(rng: np.random.Generator, points0: NDArray[np.float64], noise_px: float,
              heavy_share: float = 0.0) -> Homography:
    """A fit with Gaussian noise of noise_px in image 1, of three times that for a share of the points."""
    noise = rng.standard_normal(points0.shape) * noise_px
    noise *= np.where(rng.random(len(points0)) < heavy_share, 3.0, 1.0)[:, None]
    return fit_homography(points0, warp_points(points0, TILTED) + noise, SIZE, CONFIG)


def is_none_at_all(homography: Homography, count: int) -> bool:
    """Whether every field says that nothing was found."""
    return (homography.matrix is None and not homography.valid and homography.inliers.shape == (count,)
            and not homography.inliers.any() and np.isnan(homography.rmse)
            and homography.corner_covariance.shape == (8, 8) and bool(np.isnan(homography.corner_covariance).all()))


def test_warp_points_by_hand() -> None:
    H = np.array([[2.0, 0, 1], [0, 3, -1], [0, 0.5, 1]])
    np.testing.assert_allclose(warp_points(np.array([[1, 2], [0, 0]]), H), [[1.5, 2.5], [1, -1]])


def test_warp_points_beyond_the_horizon() -> None:
    H = np.array([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]])
    warped = warp_points(np.array([[50.0, 0], [100, 0], [150, 0]]), H)
    np.testing.assert_array_equal(np.isnan(warped).any(1), [False, True, True])


def test_warp_no_points() -> None:
    assert warp_points(np.zeros((0, 2)), TILTED).shape == (0, 2)


def test_corner_error_of_a_known_shift() -> None:
    shift = np.array([[1.0, 0, 3], [0, 1, 4], [0, 0, 1]])
    assert corner_error(shift @ TILTED, TILTED, SIZE) == pytest.approx(5.0)
    assert corner_error(TILTED, TILTED, SIZE) == 0.0


def test_corner_error_is_infinite_without_an_answer() -> None:
    beyond = np.array([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]])
    assert corner_error(None, TILTED, SIZE) == corner_error(beyond, TILTED, SIZE) == float("inf")


def test_exact_points_give_the_exact_homography() -> None:
    points0 = scatter(50)
    homography = fit_homography(points0, warp_points(points0, TILTED), SIZE, CONFIG)
    np.testing.assert_allclose(homography.matrix, TILTED, atol=1e-6, rtol=1e-6)
    assert homography.matrix[2, 2] == 1.0 and homography.inliers.all() and homography.rmse < 1e-6
    assert 1e-6 < np.abs(homography.corner_covariance).max() < 1e-3  # 0.01 px at least: nothing is measured for certain


def test_float32_points_as_features_have_them() -> None:
    points0 = scatter(50).astype(np.float32)
    homography = fit_homography(points0, warp_points(points0, TILTED).astype(np.float32), SIZE, CONFIG)
    assert homography.matrix.dtype == np.float64 and corner_error(homography.matrix, TILTED, SIZE) < 1e-3


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
def test_outliers_are_told_from_inliers(share: float) -> None:
    rng = np.random.default_rng(1)
    points0 = scatter(300)
    points1 = warp_points(points0, TILTED) + rng.normal(0, 0.3, (300, 2))
    outliers = np.arange(300) < share * 300
    points1[outliers] = rng.uniform(0, 480, (np.count_nonzero(outliers), 2))
    homography = fit_homography(points0, points1, SIZE, CONFIG)
    assert corner_error(homography.matrix, TILTED, SIZE) < 0.5
    assert homography.inliers[~outliers].all() and np.count_nonzero(homography.inliers[outliers]) <= 1


def test_inliers_and_rmse_mean_what_they_say() -> None:
    rng = np.random.default_rng(2)
    points0 = scatter(400)
    points1 = warp_points(points0, TILTED) + rng.normal(0, 1.2, (400, 2))
    homography = fit_homography(points0, points1, SIZE, CONFIG)
    errors = np.linalg.norm(warp_points(points0, homography.matrix) - points1, axis=1)
    np.testing.assert_array_equal(homography.inliers, errors < CONFIG.threshold_px)
    assert 0 < np.count_nonzero(~homography.inliers) < 60
    assert homography.rmse == pytest.approx(np.sqrt(np.mean(errors[homography.inliers] ** 2)))


@pytest.mark.parametrize("noise_px, heavy_share", [(0.4, 0.0), (0.3, 0.3)])
def test_corner_covariance_is_that_of_repeated_experiments(noise_px: float, heavy_share: float) -> None:
    rng = np.random.default_rng(3)
    points0 = scatter(80)
    truth = warp_points(image_corners(SIZE), TILTED).ravel()
    fits = [noisy_fit(rng, points0, noise_px, heavy_share) for _ in range(200)]
    errors = np.array([warp_points(image_corners(SIZE), fit.matrix).ravel() - truth for fit in fits])
    claimed = np.mean([fit.corner_covariance for fit in fits], axis=0)
    seen = errors.T @ errors / len(errors)
    np.testing.assert_allclose(np.sqrt(np.diag(claimed)), np.sqrt(np.diag(seen)), rtol=0.15)
    spreads = np.sqrt(np.outer(np.diag(claimed), np.diag(claimed)))
    np.testing.assert_allclose(claimed / spreads, seen / spreads, atol=0.3)  # correlations, too
    squared = [error @ np.linalg.solve(fit.corner_covariance, error) for error, fit in zip(errors, fits)]
    assert 7.0 < np.mean(squared) < 9.5  # chi squared of 8 degrees of freedom, a little more as each estimates its own


def known_spreads(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Spreads of points 0 and 1, every third one five times as large, in an order of their own."""
    return tuple(np.where(rng.permutation(count) % 3 == 0, 5.0, 1.0) for _ in range(2))


def fit_of_uneven_points(rng: np.random.Generator, points0: NDArray[np.float64], spreads: tuple, told: bool) -> Homography:
    """Both images' points have Gaussian noise of 0.15 px times their spread."""
    points1 = warp_points(points0, TILTED)
    seen0, seen1 = (points + 0.15 * spread[:, None] * rng.standard_normal(points.shape)
                    for points, spread in zip((points0, points1), spreads))
    return fit_homography(seen0, seen1, SIZE, CONFIG, spreads if told else None)


def test_points_known_to_be_placed_better_count_for_more() -> None:
    points0, spreads = scatter(80), known_spreads(np.random.default_rng(6), 80)
    errors = {told: np.mean([corner_error(fit_of_uneven_points(np.random.default_rng(seed), points0, spreads, told).matrix,
                                          TILTED, SIZE) for seed in range(60)]) for told in (False, True)}
    assert errors[True] < 0.85 * errors[False]


def test_noise_of_image_0_counts_as_it_is_stretched_in_each_direction() -> None:
    steep, points0 = np.array([[0.6, -0.6, 300], [1.2, 1.2, -300], [0.0025, 0.001, 1.0]]), scatter(150)
    points1, errors = warp_points(points0, steep), {True: [], False: []}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        seen = points0 + 0.5 * rng.standard_normal(points0.shape), points1 + 0.1 * rng.standard_normal(points1.shape)
        for told, found in errors.items():
            spreads = (np.full(150, 0.5), np.full(150, 0.1)) if told else None
            found.append(corner_error(fit_homography(*seen, SIZE, CONFIG, spreads).matrix, steep, SIZE))
    assert np.mean(errors[True]) < 0.88 * np.mean(errors[False])  # by its area alone: 0.93


def test_only_the_ratio_of_spreads_counts_and_equal_ones_say_nothing() -> None:
    points0, spreads = scatter(80), known_spreads(np.random.default_rng(6), 80)
    points1 = warp_points(points0, TILTED) + np.random.default_rng(7).normal(0, 0.4, (80, 2))
    first, second = (fit_homography(points0, points1, SIZE, CONFIG, tuple(factor * spread for spread in spreads))
                     for factor in (1, 100))
    np.testing.assert_allclose(first.matrix, second.matrix, rtol=1e-9)
    H = np.array([[1.0, 0, 7], [0, 1, -5], [0, 0, 1]])  # nothing grows, so that equal spreads stay equal
    points1 = warp_points(points0, H) + np.random.default_rng(8).normal(0, 0.4, (80, 2))
    even, plain = (fit_homography(points0, points1, SIZE, CONFIG, known) for known in ((np.ones(80),) * 2, None))
    np.testing.assert_allclose(even.matrix, plain.matrix, atol=2e-3)


def test_corner_covariance_of_uneven_points_is_that_of_repeated_experiments() -> None:
    rng, points0 = np.random.default_rng(9), scatter(80)
    truth, spreads = warp_points(image_corners(SIZE), TILTED).ravel(), known_spreads(np.random.default_rng(6), 80)
    fits = [fit_of_uneven_points(rng, points0, spreads, True) for _ in range(200)]
    errors = np.array([warp_points(image_corners(SIZE), fit.matrix).ravel() - truth for fit in fits])
    claimed = np.mean([np.diag(fit.corner_covariance) for fit in fits], axis=0)
    np.testing.assert_allclose(np.sqrt(claimed), np.sqrt(np.mean(errors**2, axis=0)), rtol=0.15)


@pytest.mark.parametrize("spread", [0.0, np.inf, np.nan, 1e-30, 1e30])
def test_spreads_that_say_nothing_do_no_harm(spread: float) -> None:
    points0 = scatter(80)
    spreads = np.full(80, spread), np.full(80, spread)
    homography = fit_homography(points0, warp_points(points0, TILTED), SIZE, CONFIG, spreads)
    np.testing.assert_allclose(homography.matrix, TILTED, atol=1e-6, rtol=1e-6)
    spreads[0][1:] = spreads[1][1:] = 1.0  # nor does a single one
    homography = fit_homography(points0, warp_points(points0, TILTED), SIZE, CONFIG, spreads)
    np.testing.assert_allclose(homography.matrix, TILTED, atol=1e-6, rtol=1e-6)


def test_corner_covariance_is_symmetric_and_grows_with_the_noise() -> None:
    points0 = scatter(100)
    quiet, loud = (noisy_fit(np.random.default_rng(4), points0, noise).corner_covariance for noise in (0.2, 0.4))
    np.testing.assert_allclose(quiet, quiet.T, atol=1e-12)
    assert np.linalg.eigvalsh(quiet).min() > 0
    np.testing.assert_allclose(np.trace(loud) / np.trace(quiet), 4.0, rtol=0.05)


def test_covariance_is_larger_where_points_are_far() -> None:
    """Points in the left half: the right corners are extrapolated."""
    points0 = scatter(100) * (0.5, 1.0)
    variances = np.diag(noisy_fit(np.random.default_rng(5), points0, 0.3).corner_covariance).reshape(4, 2).sum(1)
    assert variances[[1, 2]].min() > 4 * variances[[0, 3]].max()


def test_four_exact_points_leave_the_covariance_unknown() -> None:
    points0 = image_corners(SIZE)
    homography = fit_homography(points0, warp_points(points0, TILTED), SIZE, GeometryConfig(min_inliers=4))
    np.testing.assert_allclose(homography.matrix, TILTED, atol=1e-6)
    assert np.isnan(homography.corner_covariance).all() and homography.inliers.all()


def test_a_corner_beyond_the_horizon_leaves_the_covariance_unknown() -> None:
    H = np.array([[1.0, 0, 0], [0, 1, 0], [-1 / 500, 0, 1]])
    points0 = scatter(100) * (0.5, 1.0)
    homography = fit_homography(points0, warp_points(points0, H), SIZE, CONFIG)
    np.testing.assert_allclose(homography.matrix, H, atol=1e-6)
    assert np.isnan(homography.corner_covariance).all()


def test_origin_beyond_the_horizon_cannot_be_told() -> None:
    H = np.array([[1.0, 0, 0], [0, 1, 0], [1 / 200, 0, -1]])
    points0 = scatter(100) * (0.5, 1.0) + (300, 0)
    assert is_none_at_all(fit_homography(points0, warp_points(points0, H), SIZE, CONFIG), 100)


@pytest.mark.parametrize("seed", [0, 7])
def test_same_points_same_result(seed: int) -> None:
    rng = np.random.default_rng(6)
    points0, points1 = scatter(200), rng.uniform(0, 480, (200, 2))
    points1[:80] = warp_points(points0[:80], TILTED) + rng.normal(0, 1.0, (80, 2))
    first, second = (fit_homography(points0, points1, SIZE, GeometryConfig(seed=seed)) for _ in range(2))
    np.testing.assert_array_equal(first.matrix, second.matrix)
    np.testing.assert_array_equal(first.inliers, second.inliers)
    np.testing.assert_array_equal(first.corner_covariance, second.corner_covariance)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 11])
def test_too_few_points(count: int) -> None:
    points0 = scatter(count)
    assert is_none_at_all(fit_homography(points0, warp_points(points0, TILTED), SIZE, CONFIG), count)


def test_three_points_are_too_few_whatever_the_setting() -> None:
    points0 = scatter(3)
    assert is_none_at_all(fit_homography(points0, points0, SIZE, GeometryConfig(min_inliers=4)), 3)


def test_fewer_inliers_than_asked_for() -> None:
    rng = np.random.default_rng(7)
    points0, points1 = scatter(60), rng.uniform(0, 480, (60, 2))
    points1[:20] = warp_points(points0[:20], TILTED)
    assert fit_homography(points0, points1, SIZE, GeometryConfig(min_inliers=20)).valid
    assert is_none_at_all(fit_homography(points0, points1, SIZE, GeometryConfig(min_inliers=30)), 60)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [12, 100, 500])
def test_nothing_but_outliers(count: int, seed: int) -> None:
    points1 = np.random.default_rng(100 + seed).uniform(0, 480, (count, 2))
    assert is_none_at_all(fit_homography(scatter(count, seed), points1, SIZE, CONFIG), count)


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("count", [12, 50, 300])
@pytest.mark.parametrize("jitter_px", [0.0, 0.3, 1.0])
def test_points_on_a_line_and_one_beside_it(jitter_px: float, count: int, extra: int) -> None:
    rng = np.random.default_rng(8)
    x = np.linspace(20, 600, count)
    points0 = np.vstack([np.column_stack([x, 0.4 * x + 30]), np.array([[300.0, 420.0]])[:extra]])
    points1 = points0 + (10.0, 5.0) + rng.normal(0, jitter_px, points0.shape)
    points0 = points0 + rng.normal(0, jitter_px, points0.shape)
    assert is_none_at_all(fit_homography(points0, points1, SIZE, CONFIG), count + extra)


def test_duplicates_of_one_and_of_three_points() -> None:
    for distinct in (1, 3):
        points0 = np.tile(scatter(distinct), (20, 1))
        assert is_none_at_all(fit_homography(points0, points0 + 5.0, SIZE, CONFIG), 20 * distinct)


def test_duplicates_among_good_points_do_no_harm() -> None:
    points0 = np.vstack([scatter(40), np.tile(scatter(1), (40, 1))])
    homography = fit_homography(points0, warp_points(points0, TILTED), SIZE, CONFIG)
    assert corner_error(homography.matrix, TILTED, SIZE) < 1e-6


def test_everything_matched_to_one_place() -> None:
    points1 = np.tile([[100.0, 100.0]], (50, 1))
    assert is_none_at_all(fit_homography(scatter(50), points1, SIZE, CONFIG), 50)


def test_points_that_are_no_numbers_are_outliers() -> None:
    points0 = scatter(50)
    points1 = warp_points(points0, TILTED)
    points0[3, 0], points1[7] = np.nan, np.inf
    homography = fit_homography(points0, points1, SIZE, CONFIG)
    assert corner_error(homography.matrix, TILTED, SIZE) < 1e-6
    assert np.flatnonzero(~homography.inliers).tolist() == [3, 7]
