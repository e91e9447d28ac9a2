"""Causes of failure, on pairs made to fail in one known way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from efficient_matcher.config import GeometryConfig
from efficient_matcher.core.geometry import fit_homography, warp_points
from efficient_matcher.evaluate.diagnosis import (FEW, FINE, IMPRECISE, KEYPOINTS, SPREAD, WRONG, diagnose,
                                                  right_matches)
from efficient_matcher.records import Features, Matches, PairResult

H = np.array([[1.05, 0.02, 6], [-0.03, 1.02, -4], [2e-5, -1e-5, 1.0]])
GRID = np.stack(np.meshgrid(np.arange(40.0, 560, 40), np.arange(40.0, 440, 40)), -1).reshape(-1, 2)


def pair(points0: np.ndarray, points1: np.ndarray, matched: int | None = None, shuffled: int = 0) -> PairResult:
    """The first `matched` keypoints are matched with their like, the last `shuffled` of these with another's."""
    sides = [Features(p.astype(np.float32), np.ones(len(p), np.float32), np.zeros((len(p), 1), np.float32), (640, 480))
             for p in (points0, points1)]
    count = len(points0) if matched is None else matched
    partner = np.arange(count)
    if shuffled:
        partner[-shuffled:] = np.roll(partner[-shuffled:], 1)
    indices = np.column_stack([np.arange(count), partner]).astype(np.int32)
    fit = fit_homography(points0[:count], points1[partner], (640, 480), GeometryConfig())
    return PairResult(*sides, Matches(indices, np.ones(count, np.float32)), fit)


def noise(sigma: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, sigma, GRID.shape)


def test_right_pair_is_fine() -> None:
    found = diagnose(pair(GRID, warp_points(GRID, H)), H)
    assert found.cause == FINE and found.true == len(GRID) and found.right.all()
    assert found.errors_px["matches"] < 0.1 and found.location_px < 0.01


def test_keypoints_that_are_others() -> None:
    elsewhere = warp_points(GRID + [20, 20], H)
    elsewhere[:5] = warp_points(GRID[:5], H)
    found = diagnose(pair(GRID, elsewhere), H)
    assert (found.cause, found.true) == (KEYPOINTS, 5)
    assert f"{found.visible[0]} and {found.visible[1]} keypoints" in found.sentence() and "5 the same" in found.sentence()


def test_few_keypoints_found_again_and_those_by_chance() -> None:
    elsewhere = warp_points(GRID + [20, 20], H)
    elsewhere[:20] = warp_points(GRID[:20], H) + np.random.default_rng(1).uniform(-1.8, 1.8, (20, 2))
    assert diagnose(pair(GRID, elsewhere), H, tolerance_px=1.0).cause == KEYPOINTS


def test_keypoints_on_one_line() -> None:
    line = np.column_stack([np.linspace(50, 500, 40), np.full(40, 200.0)])
    assert diagnose(pair(line, warp_points(line, H)), H).cause == SPREAD


def test_keypoints_located_badly() -> None:
    found = diagnose(pair(GRID, warp_points(GRID, H) + noise(1.5)), H, tolerance_px=0.1)
    assert found.cause == IMPRECISE
    assert found.location_px == pytest.approx(1.5 * 1.18, rel=0.2)  # median of a two-dimensional normal


def test_right_pairs_left_out() -> None:
    found = diagnose(pair(GRID, warp_points(GRID, H), matched=8), H)
    assert found.cause == FEW
    assert found.sentence().startswith(f"8 right of {len(GRID)}")


def test_wrong_matches_that_agree_with_each_other() -> None:
    """As many as mislead the fit: most of them shifted by one grid step."""
    count = len(GRID)
    result = pair(GRID, warp_points(GRID, H))
    partner = np.arange(count)
    partner[20:-1] += 1
    result = PairResult(result.features0, result.features1, Matches(
        np.column_stack([np.arange(count), partner]).astype(np.int32), result.matches.scores), result.homography)
    found = diagnose(result, H)
    assert found.cause == WRONG
    assert int(found.right.sum()) == 21 and "beside 21 right" in found.sentence()


def test_no_keypoints_at_all() -> None:
    none = np.zeros((0, 2))
    found = diagnose(pair(none, none), H)
    assert (found.cause, found.true, found.visible) == (KEYPOINTS, 0, (0, 0))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_right_matches(dtype: Callable) -> None:
    assert right_matches(np.array([[0, 1], [2, 2]], dtype), np.array([[2, 2], [0, 0]])).tolist() == [False, True]
