"""Matches that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from efficient_matcher.config import MatchConfig
from efficient_matcher.core.backend import Arrays, open_model
from efficient_matcher.core.matches import FeatureMatcher, mutual_matches, nearest_neighbour_matches
from efficient_matcher.core.stages import StagedNetwork, WholeNetwork
from efficient_matcher.core.transport import Assignment, optimal_transport
from efficient_matcher.records import Features

pytestmark = pytest.mark.usefixtures("kernels")


def features(keypoints: list, descriptors: np.ndarray | None = None, size: tuple[int, int] = (640, 480)) -> Features:
    points = np.asarray(keypoints, np.float32).reshape(-1, 2)
    rows = np.eye(len(points), 4, dtype=np.float32) if descriptors is None else np.asarray(descriptors, np.float32)
    return Features(points, np.full(len(points), 0.5, np.float32), rows, size)


class Fixed:
    """A network that answers the same always and remembers what it was asked."""

    name = "fixed"

    def __init__(self, similarity: np.ndarray, dustbin: float) -> None:
        self.outputs = {"similarity": np.asarray(similarity, np.float32), "dustbin": np.float32(dustbin)}
        self.asked: list[Arrays] = []

    def run(self, inputs: Arrays) -> Arrays:
        self.asked.append(inputs)
        return self.outputs


def test_a_permutation_is_found_with_certainty() -> None:
    order = np.array([2, 0, 3, 1])
    similarity = np.where(order[:, None] == np.arange(4), 30.0, 0.0)
    matches = mutual_matches(optimal_transport(similarity, 5.0, 50), 0.2)
    assert matches.indices.tolist() == [[0, 2], [1, 0], [2, 3], [3, 1]]
    assert matches.scores.min() > 0.99
    assert matches.indices.dtype == np.int32 and matches.scores.dtype == np.float32


def test_matches_are_sorted_mutual_and_over_the_threshold() -> None:
    assignment = np.array([[0.5, 0.1, 0.4], [0.6, 0.3, 0.1], [0.1, 0.2, 0.1], [0.1, 0.7, 0.1]], np.float32)
    # Row 0 wants column 0, which prefers row 1; row 2 wants column 1, which prefers row 1, not its best.
    assert mutual_matches(Assignment(assignment, 0), 0.0).indices.tolist() == [[1, 0]]
    assignment[2, 1] = 0.35
    assert mutual_matches(Assignment(assignment, 0), 0.0).indices.tolist() == [[1, 0], [2, 1]]
    assert mutual_matches(Assignment(assignment, 0), 0.35).indices.tolist() == [[1, 0], [2, 1]]
    assert mutual_matches(Assignment(assignment, 0), 0.4).indices.tolist() == [[1, 0]]
    assert len(mutual_matches(Assignment(assignment, 0), 0.61)) == 0


def test_equal_candidates_still_match_one_to_one() -> None:
    matches = mutual_matches(Assignment(np.full((4, 3), 0.5, np.float32), 0), 0.2)
    assert matches.indices.tolist() == [[0, 0]]


def test_the_dustbins_are_no_keypoints() -> None:
    assignment = np.array([[0.2, 0.8], [0.8, 1.2]], np.float32)
    assert mutual_matches(Assignment(assignment, 0), 0.1).indices.tolist() == [[0, 0]]


def test_no_keypoints_on_either_side_match_nothing_and_ask_no_network() -> None:
    network = Fixed(np.zeros((1, 1)), 0)
    matcher = FeatureMatcher(WholeNetwork(network), MatchConfig())
    for pair in ((features([]), features([[1, 1]])), (features([[1, 1]]), features([])), (features([]), features([]))):
        matches, depth = matcher(*pair)
        assert depth == 0
        assert matches.indices.shape == (0, 2) and matches.scores.shape == (0,)
        assert len(nearest_neighbour_matches(*pair)) == 0
    assert not network.asked


def test_the_network_is_asked_in_its_units() -> None:
    network = Fixed([[9, 0], [0, 9]], 1)
    first = features([[320, 240], [320 + 448, 240 - 448]])
    second = features([[0, 0], [100, 400]], size=(200, 400))
    matches, depth = FeatureMatcher(WholeNetwork(network), MatchConfig())(first, second)
    assert depth == 1
    assert matches.indices.tolist() == [[0, 0], [1, 1]]
    (asked,) = network.asked
    np.testing.assert_allclose(asked["keypoints0"], [[0, 0], [1, -1]], atol=1e-6)
    np.testing.assert_allclose(asked["keypoints1"], np.array([[-100, -200], [0, 200]]) / 280, atol=1e-6)
    np.testing.assert_array_equal(asked["descriptors1"], second.descriptors)
    assert {value.dtype for value in asked.values()} == {np.dtype(np.float32)}


def test_settings_reach_the_matches() -> None:
    network = WholeNetwork(Fixed([[2.0]], 0.0))
    one = features([[1, 1]])
    share = np.exp(1) / (1 + np.exp(1))
    found, _ = FeatureMatcher(network, MatchConfig(score_threshold=0.5, transport_tolerance=0.0))(one, one)
    assert found.scores == pytest.approx(share, abs=1e-4)
    assert len(FeatureMatcher(network, MatchConfig(score_threshold=0.8))(one, one)[0]) == 0


class Stage(Fixed):
    """A stage that adds one to all tokens, or answers with what its tokens have been through."""

    def __init__(self, answers: list[np.ndarray] | None = None) -> None:
        self.answers, self.asked = answers, []

    def run(self, inputs: Arrays) -> Arrays:
        self.asked.append(inputs)
        if "keypoints" in inputs:
            return {"tokens": 0 * inputs["descriptors"]}
        if self.answers is None:
            return {f"next{side}": inputs[f"tokens{side}"] + 1 for side in "01"}
        passed = int(inputs["tokens0"][0, 0])
        return {"similarity": self.answers[passed - 1], "dustbin": np.float32(0)}


VAGUE, CLEAR = np.zeros((4, 4), np.float32), 40 * np.eye(4, dtype=np.float32) - 20
HALF = np.where(np.arange(4) < 2, CLEAR, -20)  # two of four keypoints have a partner


@pytest.mark.parametrize(("early_stop", "answers", "depth"), [
    (1.0, [CLEAR, CLEAR, CLEAR, CLEAR], 4),  # off
    (0.9, [CLEAR, VAGUE, VAGUE, VAGUE], 1), (0.9, [VAGUE, CLEAR, VAGUE, VAGUE], 2),
    (0.9, [VAGUE, VAGUE, CLEAR, VAGUE], 4),  # not asked in the second half
    (0.9, [HALF, HALF, HALF, HALF], 4), (0.5, [HALF, CLEAR, CLEAR, CLEAR], 1),
    (0.0, [VAGUE, CLEAR, CLEAR, CLEAR], 1), (0.9, [CLEAR], 1), (0.9, [VAGUE], 1),
    (0.9, [CLEAR, VAGUE, VAGUE], 1), (0.9, [VAGUE, CLEAR, VAGUE], 3)])
def test_the_network_is_left_when_enough_keypoints_are_paired(early_stop: float, answers: list, depth: int) -> None:
    pairs, assign = [Stage() for _ in answers], Stage(answers)
    four = features([[1, 1], [2, 2], [3, 3], [4, 4]])
    network = StagedNetwork([Stage(), *pairs, assign])
    matches, found = FeatureMatcher(network, MatchConfig(early_stop=early_stop, drop_above=1.0))(four, four)
    assert found == depth
    last = answers[depth - 1]
    assert len(matches) == (4 if last is CLEAR else 2 if last is HALF else 0)
    assert [len(stage.asked) for stage in pairs] == [1] * depth + [0] * (len(pairs) - depth)
    asked = 1 if early_stop == 1 else min(depth, len(pairs) // 2) + (depth > len(pairs) // 2)
    assert len(assign.asked) == asked


class Chosen:
    """A network of depth 4 whose similarity is that of a table, between the keypoints it still has."""

    depth = 4

    def __init__(self, table: np.ndarray) -> None:
        self.table, self.rows = table, (np.arange(table.shape[0]), np.arange(table.shape[1]))
        self.sizes: list[tuple[int, int]] = []

    def start(self, features0: Features, features1: Features) -> Chosen:
        return self

    def advance(self) -> None:
        self.sizes.append((len(self.rows[0]), len(self.rows[1])))

    def similarity(self) -> tuple[np.ndarray, float]:
        return self.table[np.ix_(*self.rows)].astype(np.float32), 0.0

    def keep(self, rows0: np.ndarray, rows1: np.ndarray) -> None:
        self.rows = self.rows[0][rows0], self.rows[1][rows1]


def test_keypoints_surely_alone_are_left_out_of_the_rest() -> None:
    table = np.full((4, 5), -20.0)
    table[1, 3], table[3, 0], table[2, 4] = 20, 20, 0.5  # keypoints 0 of image 0 and 1, 2 of image 1 are like none
    first, second = features([[i, i] for i in range(4)]), features([[i, i] for i in range(5)])
    network = Chosen(table)
    config = MatchConfig(early_stop=1.0, drop_above=0.95, transport_iterations=200, transport_tolerance=0.0)
    matches, depth = FeatureMatcher(network, config)(first, second)
    assert depth == 4 and network.sizes == [(4, 5), (3, 3), (3, 3), (3, 3)]
    assert sorted(matches.indices.tolist()) == [[1, 3], [2, 4], [3, 0]] and matches.indices.dtype == np.int32
    same, _ = FeatureMatcher(Chosen(table), replace(config, drop_above=1.0))(first, second)
    assert sorted(same.indices.tolist()) == [[1, 3], [2, 4], [3, 0]]


def test_a_network_without_any_hope_is_left() -> None:
    network = Chosen(np.full((2, 3), -30.0))
    first, second = features([[1, 1], [2, 2]]), features([[1, 1], [2, 2], [3, 3]])
    matches, depth = FeatureMatcher(network, MatchConfig())(first, second)
    assert depth == 1 and matches.indices.shape == (0, 2)


def test_the_matcher_of_a_bundle(tiny_bundle: Path) -> None:
    backend = open_model(tiny_bundle / "matcher.onnx", threads=1)
    rows = np.zeros((3, 49), np.float32)
    rows[[0, 1, 2], [4, 5, 6]] = 1
    first, second = features([[1, 1], [5, 5], [9, 9]], rows), features([[2, 2], [3, 3]], rows[[2, 0]])
    matches, _ = FeatureMatcher(WholeNetwork(backend), MatchConfig())(first, second)
    assert sorted(matches.indices.tolist()) == [[0, 1], [2, 0]]


def test_nearest_neighbours_by_descriptor() -> None:
    first = features([[1, 1], [2, 2]], [[1, 0, 0, 0], [0.6, 0.8, 0, 0]])
    second = features([[3, 3], [4, 4], [5, 5]], [[0, 1, 0, 0], [1, 0, 0, 0], [-1, 0, 0, 0]])
    matches = nearest_neighbour_matches(first, second)
    assert matches.indices.tolist() == [[0, 1], [1, 0]]
    np.testing.assert_allclose(matches.scores, [1, 0.8], atol=1e-6)
    assert nearest_neighbour_matches(first, second, threshold=0.9).indices.tolist() == [[0, 1]]
    opposite = features([[1, 1]], [[-1, 0, 0, 0]])
    assert len(nearest_neighbour_matches(opposite, features([[1, 1]], [[1, 0, 0, 0]]))) == 0
