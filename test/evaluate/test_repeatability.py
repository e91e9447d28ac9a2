"""Repeatability and location error, on keypoints whose partners are known."""

from __future__ import annotations

import numpy as np
import pytest

from efficient_matcher.core.geometry import warp_points
from efficient_matcher.evaluate.repeatability import repeatability

SIZE = (640, 480)
H = np.array([[1.05, 0.02, 6], [-0.03, 1.02, -4], [2e-5, -1e-5, 1.0]])
GRID = np.stack(np.meshgrid(np.arange(40.0, 560, 40), np.arange(40.0, 440, 40)), -1).reshape(-1, 2)


def test_the_same_points_are_all_repeated() -> None:
    found = repeatability(GRID, warp_points(GRID, H), SIZE, SIZE, H)
    assert found.share == 100.0 and found.visible == (len(GRID), len(GRID))
    assert found.mean_error_px == pytest.approx(0, abs=1e-9)


def test_half_of_them_moved_far_is_half() -> None:
    moved = warp_points(GRID, H)
    moved[::2] += 15
    assert repeatability(GRID, moved, SIZE, SIZE, H).share == pytest.approx(50, abs=1)


def test_error_is_the_distance_in_image_1() -> None:
    found = repeatability(GRID, warp_points(GRID, H) + [1.2, -1.6], SIZE, SIZE, H)
    assert found.mean_error_px == pytest.approx(2.0) and found.share == 100.0


def test_beyond_the_threshold_is_not_repeated() -> None:
    found = repeatability(GRID, warp_points(GRID, H) + [3.1, 0], SIZE, SIZE, H)
    assert found.share == 0.0 and np.isnan(found.mean_error_px)


def test_points_that_the_other_image_does_not_show_do_not_count() -> None:
    half = np.array([[1, 0, 320.0], [0, 1, 0], [0, 0, 1]])
    shown = GRID[GRID[:, 0] < 300]
    found = repeatability(GRID, shown + [320, 0], SIZE, SIZE, half)
    assert found.visible == (len(shown), len(shown)) and found.share == 100.0


def test_two_points_near_one_count_once() -> None:
    one, two = np.array([[100.0, 100.0]]), np.array([[100.5, 100.0], [101.0, 100.0]])
    assert len(repeatability(two, one, SIZE, SIZE, np.eye(3)).errors_px) == 1


@pytest.mark.parametrize(("count0", "count1"), [(0, 5), (5, 0), (0, 0)])
def test_without_keypoints_there_is_no_figure(count0: int, count1: int) -> None:
    found = repeatability(GRID[:count0], GRID[:count1], SIZE, SIZE, np.eye(3))
    assert np.isnan(found.share) and np.isnan(found.mean_error_px)
