"""The synthetic moving view."""

from __future__ import annotations

import numpy as np

from efficient_matcher.core.geometry import warp_points
from efficient_matcher.evaluate.baselines import Baseline
from efficient_matcher.evaluate.motion import moving_view


def test_frames_are_repeatable_and_differ() -> None:
    frames = moving_view(3, 320, 240)
    assert all(np.array_equal(a, b) for a, b in zip(frames, moving_view(3, 320, 240)))
    assert frames[0].shape == (240, 320) and frames[0].dtype == np.uint8
    assert not np.array_equal(frames[0], frames[1])


def test_neighbours_match_and_move_by_a_few_pixels() -> None:
    frames = moving_view(40)[:2]
    orb = Baseline("orb", 512)
    result = orb.match(*(orb.extract(frame) for frame in frames))
    assert len(result.features0) >= 500
    assert result.homography.inliers.mean() > 0.6
    centre = np.array([[320.0, 240.0]])
    assert 1 < np.linalg.norm(warp_points(centre, result.homography.matrix) - centre) < 40


def test_nothing_is_black() -> None:
    assert all((frame[:4] > 0).mean() > 0.9 and (frame[:, -4:] > 0).mean() > 0.9 for frame in moving_view(5, 320, 240))
