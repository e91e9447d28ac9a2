"""The records' few computed fields."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from efficient_matcher.records import Features, Frame, Homography, Matches, PairResult


def make_features(points: list) -> Features:
    keypoints = np.asarray(points, np.float32).reshape(-1, 2)
    count = len(keypoints)
    return Features(keypoints, np.ones(count, np.float32), np.ones((count, 1), np.float32), (64, 48))


def make_homography(matrix: np.ndarray | None) -> Homography:
    return Homography(matrix, np.zeros(0, bool), np.full((8, 8), np.nan), float("nan"))


def test_a_frame_knows_the_size_of_its_input() -> None:
    assert Frame(np.zeros((480, 640), np.uint8), scale=(1920 / 640, 1080 / 480)).input_size == (1920, 1080)
    assert Frame(np.zeros((48, 64), np.uint8)).input_size == (64, 48)


def test_matched_points_are_picked_by_the_indices_of_their_side() -> None:
    matches = Matches(np.array([[2, 0], [0, 1]], np.int32), np.array([0.9, 0.8], np.float32))
    result = PairResult(make_features([[0, 1], [2, 3], [4, 5]]), make_features([[6, 7], [8, 9]]), matches,
                        make_homography(None))
    assert result.points0.tolist() == [[4, 5], [0, 1]]
    assert result.points1.tolist() == [[6, 7], [8, 9]]


def test_spreads_are_those_of_the_matched_keypoints_until_refinement_moves_them() -> None:
    sides = [Features(np.zeros((3, 2), np.float32), np.zeros(3, np.float32), np.zeros((3, 4), np.float32), (64, 48),
                      np.float32(spreads)) for spreads in ([1, 2, 3], [4, 5, 6])]
    matches = Matches(np.int32([[2, 0], [0, 1]]), np.float32([0.9, 0.8]))
    assert [spreads.tolist() for spreads in matches.spreads(*sides)] == [[3, 1], [4, 5]]
    assert matches.spreads(sides[0], replace(sides[1], spreads=None)) is None
    assert replace(matches, points0=np.zeros((2, 2)), points1=np.zeros((2, 2))).spreads(*sides) is None


def test_no_matches_have_no_points() -> None:
    result = PairResult(make_features([]), make_features([]), Matches(np.zeros((0, 2), np.int32), np.zeros(0)),
                        make_homography(None))
    assert result.points0.shape == (0, 2)
    assert len(result.matches) == 0 and len(result.features0) == 0
    assert result.track_ids is None and result.frame0 is None and result.timings == {}


def test_a_homography_is_valid_with_a_matrix() -> None:
    assert make_homography(np.eye(3)).valid
    assert not make_homography(None).valid


def test_records_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        make_features([]).image_size = (1, 1)
