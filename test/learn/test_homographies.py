"""Random homographies stay within the ranges that were asked for."""

from __future__ import annotations

import numpy as np
import pytest

from efficient_matcher.learn.homographies import (BENCHMARK, HomographyRange, benchmark_homography, overlap,
                                                  random_homography, warp)

SIZE = (640, 480)


def test_no_range_is_the_identity() -> None:
    still = HomographyRange(0, 0, 0, 0, (1.0, 1.0), 0, 0.0)
    assert np.allclose(random_homography(np.random.default_rng(0), *SIZE, still), np.eye(3))


def test_scale_acts_about_the_centre() -> None:
    twice = HomographyRange(0, 0, 0, 0, (2.0, 2.0), 0, 0.0)
    H = random_homography(np.random.default_rng(0), *SIZE, twice)
    assert np.allclose(warp(np.array([[319.5, 239.5], [320.5, 239.5]]), H), [[319.5, 239.5], [321.5, 239.5]])


def test_same_seed_same_homography() -> None:
    first, second = (random_homography(np.random.default_rng(7), *SIZE) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("seed", range(20))
def test_draws_keep_the_overlap_asked_for(seed: int) -> None:
    H = random_homography(np.random.default_rng(seed), *SIZE, HomographyRange(minimum_overlap=0.5))
    assert overlap(H, *SIZE) >= 0.5 and H[2, 2] == 1.0


def test_overlap_of_a_half_shift_is_half() -> None:
    shift = np.array([[1, 0, 320.0], [0, 1, 0], [0, 0, 1]])
    assert overlap(shift, *SIZE) == pytest.approx(0.5, abs=0.05)


def test_points_behind_the_horizon_are_nan() -> None:
    H = np.eye(3)
    H[2, 0] = -1 / 100
    assert np.isnan(warp(np.array([[200.0, 0.0]]), H)).all()


def test_perspective_of_benchmark_pairs_acts_about_the_corner() -> None:
    """So that with it taken out there, the scale that is left lies within what was asked for; shear takes 4 %."""
    rng = np.random.default_rng(0)
    scales, at_centre = [], []
    for _ in range(100):
        H = benchmark_homography(rng, *SIZE)
        without = H @ np.linalg.inv(np.array([[1, 0, 0], [0, 1, 0], H[2]]))
        scales.append(np.sqrt(np.linalg.det(without[:2, :2])))
        around = warp(np.array([[319.5, 239.5], [320.5, 239.5], [319.5, 240.5]]), H)
        at_centre.append(np.sqrt(np.linalg.det(around[1:] - around[0])))
    assert 0.96 <= min(scales) and max(scales) <= 2.2 * 1.04
    assert min(at_centre) < 0.9 and max(at_centre) > 2.5


def test_benchmark_pairs_move_the_centre_by_up_to_their_translation() -> None:
    only = HomographyRange(0, 0, 0, 0, (1.5, 1.5), BENCHMARK.translation, 0.0)
    draws = [benchmark_homography(np.random.default_rng(seed), *SIZE, only) for seed in range(60)]
    moved = np.array([warp(np.array([[319.5, 239.5]]), H)[0] - [319.5, 239.5] for H in draws]) / SIZE
    assert np.abs(moved).max() <= 0.6 and np.abs(moved).max() > 0.5
    assert moved.min() < 0 < moved.max()


def test_benchmark_pairs_without_any_range_are_the_identity() -> None:
    still = HomographyRange(0, 0, 0, 0, (1.0, 1.0), 0, 0.0)
    assert np.allclose(benchmark_homography(np.random.default_rng(0), *SIZE, still), np.eye(3))
