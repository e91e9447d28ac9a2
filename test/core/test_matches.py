"""Optimal transport against its definition in logarithms, and matches that can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from efficient_matcher.config import MatchConfig
from efficient_matcher.core.backend import Arrays, open_model
from efficient_matcher.core.matches import (FeatureMatcher, mutual_matches, nearest_neighbour_matches,
                                            normalised_keypoints, optimal_transport)
from efficient_matcher.records import Features


def log_domain(similarity: np.ndarray, dustbin: float, iterations: int) -> np.ndarray:
    """The definition: SuperGlue, section 3.2, in float64 logarithms."""
    count0, count1 = similarity.shape
    scores = np.full((count0 + 1, count1 + 1), dustbin, np.float64)
    scores[:-1, :-1] = similarity
    log_rows = np.log(np.append(np.ones(count0), count1))
    log_columns = np.log(np.append(np.ones(count1), count0))
    f, g = np.zeros(count0 + 1), np.zeros(count1 + 1)
    for _ in range(iterations):
        f = log_rows - np.logaddexp.reduce(scores + g, axis=1)
        g = log_columns - np.logaddexp.reduce(scores + f[:, None], axis=0)
    return np.exp(scores + f[:, None] + g)


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


@pytest.mark.parametrize("spread", [1.0, 10.0, 60.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (30, 30), (41, 17), (17, 41)])
@pytest.mark.parametrize("iterations", [1, 5, 20, 100])
def test_transport_equals_the_log_domain(spread: float, shape: tuple[int, int], iterations: int) -> None:
    rng = np.random.default_rng(shape[0])
    similarity = rng.uniform(-spread, spread, shape)
    for dustbin in (-spread, 1.0, spread):
        expected = log_domain(similarity, dustbin, iterations)
        found = optimal_transport(similarity, dustbin, iterations)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dustbin", [-60.0, 0.0, 60.0])
def test_transport_where_every_value_is_an_extreme(dustbin: float) -> None:
    rng = np.random.default_rng(3)
    similarity = np.where(rng.random((25, 40)) < 0.1, 60.0, -60.0)
    similarity[:, 5] = -60  # a column nobody wants
    similarity[7] = 60  # a row that wants everything
    similarity[8:10] = similarity[10]  # rows that want the same
    found = optimal_transport(similarity, dustbin, 100)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, log_domain(similarity, dustbin, 100), atol=1e-4, rtol=1e-4)


def test_transport_of_larger_numbers_than_float32_can_raise_e_to() -> None:
    similarity = np.array([[900.0, -900], [-900, 300], [0, 0]])
    np.testing.assert_allclose(optimal_transport(similarity, 10.0, 50), log_domain(similarity, 10.0, 50), atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_transport_whose_scalings_outgrow_float32(seed: int) -> None:
    # Here the scalings of rows and columns pass e^100 unless they are moved into the kernel on the way.
    rng = np.random.default_rng(seed)
    similarity = rng.normal(0, 300, (5, 13)) + rng.normal(0, 300, (5, 1)) + rng.normal(0, 300, (1, 13))
    found = optimal_transport(similarity, 300.0, 300)
    np.testing.assert_allclose(found, log_domain(similarity, 300.0, 300), atol=1e-3)


def test_transport_marginals() -> None:
    similarity = np.random.default_rng(0).normal(0, 3, (20, 30))
    assignment = optimal_transport(similarity, 1.0, 100)
    np.testing.assert_allclose(assignment.sum(axis=0), [1] * 30 + [20], rtol=1e-4)
    np.testing.assert_allclose(assignment.sum(axis=1), [1] * 20 + [30], rtol=1e-3)


def test_transport_of_one_certain_pair_by_hand() -> None:
    # 1 x 1: the symmetric scaling leaves p / (1 - p) = exp((s - d) / 2) on both diagonals.
    found = optimal_transport(np.array([[4.0]]), 0.0, 100)
    share = np.exp(2) / (1 + np.exp(2))
    np.testing.assert_allclose(found, [[share, 1 - share], [1 - share, share]], atol=1e-5)


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
    assert mutual_matches(assignment, 0.0).indices.tolist() == [[1, 0]]
    assignment[2, 1] = 0.35
    assert mutual_matches(assignment, 0.0).indices.tolist() == [[1, 0], [2, 1]]
    assert mutual_matches(assignment, 0.35).indices.tolist() == [[1, 0], [2, 1]]
    assert mutual_matches(assignment, 0.4).indices.tolist() == [[1, 0]]
    assert len(mutual_matches(assignment, 0.61)) == 0


def test_equal_candidates_still_match_one_to_one() -> None:
    matches = mutual_matches(np.full((4, 3), 0.5, np.float32), 0.2)
    assert matches.indices.tolist() == [[0, 0]]


def test_the_dustbins_are_no_keypoints() -> None:
    assignment = np.array([[0.2, 0.8], [0.8, 1.2]], np.float32)
    assert mutual_matches(assignment, 0.1).indices.tolist() == [[0, 0]]


def test_no_keypoints_on_either_side_match_nothing_and_ask_no_network() -> None:
    network = Fixed(np.zeros((1, 1)), 0)
    matcher = FeatureMatcher(network, MatchConfig())
    for pair in ((features([]), features([[1, 1]])), (features([[1, 1]]), features([])), (features([]), features([]))):
        matches = matcher(*pair)
        assert matches.indices.shape == (0, 2) and matches.scores.shape == (0,)
        assert len(nearest_neighbour_matches(*pair)) == 0
    assert not network.asked


def test_the_network_is_asked_in_its_units() -> None:
    network = Fixed([[9, 0], [0, 9]], 1)
    first = features([[320, 240], [320 + 448, 240 - 448]])
    second = features([[0, 0], [100, 400]], size=(200, 400))
    matches = FeatureMatcher(network, MatchConfig())(first, second)
    assert matches.indices.tolist() == [[0, 0], [1, 1]]
    (asked,) = network.asked
    np.testing.assert_allclose(asked["keypoints0"], [[0, 0], [1, -1]], atol=1e-6)
    np.testing.assert_allclose(asked["keypoints1"], np.array([[-100, -200], [0, 200]]) / 280, atol=1e-6)
    np.testing.assert_array_equal(asked["descriptors1"], second.descriptors)
    assert {value.dtype for value in asked.values()} == {np.dtype(np.float32)}


def test_positions_normalise_alike_in_both_orientations() -> None:
    wide, tall = features([[640, 480]]), features([[480, 640]], size=(480, 640))
    np.testing.assert_allclose(normalised_keypoints(wide)[0], normalised_keypoints(tall)[0, ::-1])


def test_settings_reach_the_matches() -> None:
    network = Fixed([[2.0]], 0.0)
    one = features([[1, 1]])
    share = np.exp(1) / (1 + np.exp(1))
    assert FeatureMatcher(network, MatchConfig(score_threshold=0.5))(one, one).scores == pytest.approx(share, abs=1e-4)
    assert len(FeatureMatcher(network, MatchConfig(score_threshold=0.8))(one, one)) == 0


def test_the_matcher_of_a_bundle(tiny_bundle: Path) -> None:
    backend = open_model(tiny_bundle / "matcher.onnx", threads=1)
    rows = np.zeros((3, 49), np.float32)
    rows[[0, 1, 2], [4, 5, 6]] = 1
    first, second = features([[1, 1], [5, 5], [9, 9]], rows), features([[2, 2], [3, 3]], rows[[2, 0]])
    matches = FeatureMatcher(backend, MatchConfig())(first, second)
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
