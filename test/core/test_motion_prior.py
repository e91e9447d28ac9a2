"""core/motion_prior.py on assignments whose right matches are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from efficient_matcher.core.motion_prior import LEAST_MATCHES, Side, consistent_matches

pytestmark = pytest.mark.usefixtures("kernels")

SIZE = (640, 480)
TURN = np.array([[0.9, -0.3], [0.3, 0.9]])


def scattered(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Keypoints [count,2] px at least 12 px apart, well inside the image."""
    rng, found = np.random.default_rng(seed), np.zeros((0, 2))
    while len(found) < count:
        point = rng.uniform((150, 100), (450, 350))
        if not len(found) or np.linalg.norm(found - point, axis=1).min() > 12:
            found = np.vstack([found, point])
    return found.astype(np.float32)


def assignment(count: int, entries: dict[tuple[int, int], float]) -> NDArray[np.float32]:
    """[count+1,count+1] with these entries; the dustbins take the rest."""
    values = np.zeros((count + 1, count + 1), np.float32)
    for place, chance in entries.items():
        values[place] = chance
    values[:-1, -1], values[-1, :-1] = 1 - values[:-1, :-1].sum(1), 1 - values[:-1, :-1].sum(0)
    return values


def matched(values: NDArray[np.float32], points0: NDArray[np.floating], points1: NDArray[np.floating],
            threshold: float = 0.2, size: tuple[int, int] = SIZE) -> dict[int, int]:
    matches = consistent_matches(values, Side(points0, size), Side(points1, size), threshold)
    assert (np.diff(matches.scores) <= 0).all() and (matches.scores >= threshold).all() and matches.scores.max() <= 1
    assert len({int(j) for j in matches.indices[:, 1]}) == len(matches)
    return dict(matches.indices.tolist())


@pytest.mark.parametrize("zoom", [1, 3])
def test_a_lookalike_is_dropped_and_a_doubtful_partner_in_place_found_at_any_image_size(zoom: int) -> None:
    points0 = scattered(60)
    points1 = (points0 - 250) @ TURN.T.astype(np.float32) + 250
    entries = {(i, i): 0.7 for i in range(2, 60)}
    right = points1.copy()
    points1[0] = right[0] + (0, 150)  # what looks like 0 lies elsewhere
    entries[0, 0] = 0.8
    entries[1, 1] = 0.06  # 1 is where it should be, though hardly alike
    found = matched(assignment(60, entries), points0 * zoom, points1 * zoom, size=(640 * zoom, 480 * zoom))
    assert found == {i: i for i in range(1, 60)}


def test_of_two_partners_the_one_where_the_neighbours_point() -> None:
    points0 = scattered(40)
    points1 = np.vstack([points0 + (30, 10), points0[:1] + (150, 10)]).astype(np.float32)
    values = np.zeros((41, 42), np.float32)
    values[np.arange(40), np.arange(40)] = 0.7
    values[0, 0], values[0, 40] = 0.3, 0.6
    values[:40, -1] = 0.3
    assert matched(values, points0, points1) == {i: i for i in range(40)}


def test_where_most_are_wrong_those_that_move_together_stay() -> None:
    rng = np.random.default_rng(1)
    points0 = scattered(100)
    points1 = (points0 - 250) @ TURN.T.astype(np.float32) + 260
    points1[:65] = rng.uniform((0, 0), SIZE, (65, 2))
    found = matched(assignment(100, {(i, i): 0.5 for i in range(100)}), points0, points1)
    assert len(set(range(65, 100)) & set(found)) >= 33 and len(found) <= 37


def test_a_nearer_surface_that_moves_otherwise_is_kept() -> None:
    points0 = scattered(120)
    near = (np.linalg.norm(points0 - 280, axis=1) < 70)
    points1 = points0 + np.where(near[:, None], (55, 0), (20, 0)).astype(np.float32)
    found = matched(assignment(120, {(i, i): 0.8 for i in range(120)}), points0, points1)
    assert 10 < np.count_nonzero(near) < 40 and len(found) >= 118


def test_with_few_likely_matches_those_of_the_assignment() -> None:
    points0 = scattered(LEAST_MATCHES)
    entries = {(i, i): 0.9 for i in range(LEAST_MATCHES - 1)} | {(LEAST_MATCHES - 1, LEAST_MATCHES - 1): 0.04}
    points1 = points0 + 20
    points1[0] += 200
    assert matched(assignment(LEAST_MATCHES, entries), points0, points1) == {i: i for i in range(LEAST_MATCHES - 1)}


def test_keypoints_all_in_one_place_give_no_nan() -> None:
    points = np.full((20, 2), 100, np.float32)
    found = matched(assignment(20, {(i, i): 0.9 for i in range(20)}), points, points)
    assert found == {i: i for i in range(20)}


def test_an_empty_assignment_has_no_matches() -> None:
    values = assignment(5, {})
    assert len(consistent_matches(values, Side(scattered(5), SIZE), Side(scattered(5), SIZE), 0.2)) == 0
