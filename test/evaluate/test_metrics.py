"""Figures on errors and points whose answer is known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from efficient_matcher.evaluate.metrics import MatchCounts, area_under_curve, count_matches, true_matches

SQUARE = np.array([[10, 10], [50, 10], [50, 50], [10, 50]], np.float32)


def test_no_error_at_all_gives_100() -> None:
    assert area_under_curve([0.0, 0.0, 0.0], [5, 10, 25]) == pytest.approx([100, 100, 100])


def test_one_error_in_the_middle_is_a_ramp_then_full() -> None:
    # From (0, 0) up to (2, 1), then level to 4: (2 * 1 / 2 + 2) / 4.
    assert area_under_curve([2.0], [4.0]) == pytest.approx([75.0])


def test_two_errors_by_hand() -> None:
    # (0,0) (1,.5) (3,1) (5,1): 0.25 + 1.5 + 2 = 3.75 of 5.
    assert area_under_curve([3.0, 1.0], [5.0]) == pytest.approx([75.0])


def test_errors_beyond_the_threshold_stay_out() -> None:
    # (0,0) (1,.5), level to 2: 0.25 + 0.5 = 0.75 of 2.
    assert area_under_curve([1.0, 10.0], [2.0]) == pytest.approx([37.5])


def test_failures_lower_the_curve() -> None:
    assert area_under_curve([0.0, np.inf], [5, 25]) == pytest.approx([50, 50])
    assert area_under_curve([0.0, np.nan], [5, 25]) == pytest.approx([50, 50])


def test_only_failures_and_nothing_give_0() -> None:
    assert area_under_curve([np.inf, np.inf], [5.0]) == [0.0]
    assert area_under_curve([], [5.0, 10.0]) == [0.0, 0.0]


def test_order_of_errors_does_not_matter() -> None:
    errors = np.random.default_rng(0).uniform(0, 30, 50)
    assert area_under_curve(errors, [5, 10, 25]) == pytest.approx(area_under_curve(np.sort(errors)[::-1], [5, 10, 25]))


def test_uniform_errors_follow_the_integral() -> None:
    # For errors spread evenly over [0, 20] the share below e is e / 20, so the area up to 10 is 25 %.
    assert area_under_curve(np.linspace(0, 20, 20001), [10.0]) == pytest.approx([25.0], abs=0.01)


def test_square_shifted_by_the_homography_is_all_true() -> None:
    shift = np.array([[1, 0, 7], [0, 1, -3], [0, 0, 1.0]])
    order = [2, 0, 3, 1]
    truth = true_matches(SQUARE, SQUARE[order] + np.float32([7, -3]), shift)
    assert sorted(map(tuple, truth.tolist())) == [(0, 1), (1, 3), (2, 0), (3, 2)]


def test_truth_ends_at_the_threshold() -> None:
    assert len(true_matches(SQUARE, SQUARE + np.float32([2.9, 0]), np.eye(3))) == 4
    assert len(true_matches(SQUARE, SQUARE + np.float32([3.0, 0]), np.eye(3))) == 0


def test_second_round_pairs_what_the_first_left_over() -> None:
    # Both 0s want the 1 at x = 1; the one farther off gets the other 1 in the next round.
    points0 = np.float32([[0, 0], [1.2, 0]])
    points1 = np.float32([[1, 0], [-2, 0]])
    assert true_matches(points0, points1, np.eye(3), rounds=1).tolist() == [[1, 0]]
    assert true_matches(points0, points1, np.eye(3)).tolist() == [[1, 0], [0, 1]]


def test_three_rounds_and_no_more() -> None:
    # Along a line, 0s and 1s in turn, each gap shorter than the last: every round frees just the next pair.
    places = np.cumsum([0, 2.9, 2.8, 2.7, 2.6, 2.5, 2.4, 2.3])
    points = np.column_stack([places, np.zeros(8)]).astype(np.float32)
    found = [true_matches(points[::2], points[1::2], np.eye(3), rounds=rounds).tolist() for rounds in (1, 2, 3, 4)]
    assert found == [[[3, 3]], [[3, 3], [2, 2]], [[3, 3], [2, 2], [1, 1]], [[3, 3], [2, 2], [1, 1], [0, 0]]]
    assert true_matches(points[::2], points[1::2], np.eye(3)).tolist() == found[2]


def test_no_keypoints_no_truth() -> None:
    none = np.zeros((0, 2), np.float32)
    assert true_matches(none, SQUARE, np.eye(3)).shape == (0, 2)
    assert true_matches(SQUARE, none, np.eye(3)).shape == (0, 2)


def test_points_behind_the_horizon_have_no_partner() -> None:
    tilted = np.array([[1, 0, 0], [0, 1, 0], [-1 / 30, 0, 1.0]])  # x > 30 lies behind
    truth = true_matches(SQUARE, SQUARE, tilted)
    assert not {1, 2} & set(truth[:, 0].tolist())


def test_wrong_match_costs_precision_not_recall() -> None:
    counts = count_matches(np.array([[0, 0], [1, 2]]), np.array([[0, 0], [1, 1], [2, 2]]))
    assert counts == MatchCounts(predicted=2, correct=1, missed=1)
    assert counts.precision == pytest.approx(50.0)
    assert counts.recall == pytest.approx(50.0)


def test_perfect_matches() -> None:
    truth = np.array([[0, 1], [1, 0]])
    counts = count_matches(truth, truth)
    assert (counts.precision, counts.recall) == (100.0, 100.0)


def test_nothing_predicted_and_nothing_to_find() -> None:
    none = np.zeros((0, 2), int)
    assert count_matches(none, np.array([[0, 0]])).recall == 0.0
    assert count_matches(none, np.array([[0, 0]])).precision == 0.0
    assert np.isnan(count_matches(np.array([[0, 0]]), none).recall)
