"""Random homographies stay within the ranges that were asked for."""

from __future__ import annotations

import numpy as np
import pytest
from efficient_matcher.learn.homographies import HomographyRange, overlap, random_homography, warp

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
