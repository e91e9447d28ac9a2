"""Optimal transport against its definition in logarithms."""

from __future__ import annotations

import numpy as np
import pytest

from efficient_matcher.core.transport import OVER_RELAXATION, Assignment, optimal_transport

pytestmark = pytest.mark.usefixtures("kernels")


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


@pytest.mark.parametrize("spread", [1.0, 10.0, 60.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (30, 30), (41, 17), (17, 41)])
@pytest.mark.parametrize("iterations", [1, 5, 20, 100])
def test_transport_equals_the_log_domain(spread: float, shape: tuple[int, int], iterations: int) -> None:
    rng = np.random.default_rng(shape[0])
    similarity = rng.uniform(-spread, spread, shape)
    for dustbin in (-spread, 1.0, spread):
        expected = log_domain(similarity, dustbin, iterations)
        found = optimal_transport(similarity, dustbin, iterations).values
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dustbin", [-60.0, 0.0, 60.0])
def test_transport_where_every_value_is_an_extreme(dustbin: float) -> None:
    rng = np.random.default_rng(3)
    similarity = np.where(rng.random((25, 40)) < 0.1, 60.0, -60.0)
    similarity[:, 5] = -60  # a column nobody wants
    similarity[7] = 60  # a row that wants everything
    similarity[8:10] = similarity[10]  # rows that want the same
    found = optimal_transport(similarity, dustbin, 100).values
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, log_domain(similarity, dustbin, 100), atol=1e-4, rtol=1e-4)


def test_transport_of_larger_numbers_than_float32_can_raise_e_to() -> None:
    similarity = np.array([[900.0, -900], [-900, 300], [0, 0]])
    found = optimal_transport(similarity, 10.0, 50).values
    np.testing.assert_allclose(found, log_domain(similarity, 10.0, 50), atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_transport_whose_scalings_outgrow_float32(seed: int) -> None:
    # Here the scalings of rows and columns pass e^100 unless they are moved into the kernel on the way.
    rng = np.random.default_rng(seed)
    similarity = rng.normal(0, 300, (5, 13)) + rng.normal(0, 300, (5, 1)) + rng.normal(0, 300, (1, 13))
    found = optimal_transport(similarity, 300.0, 300).values
    np.testing.assert_allclose(found, log_domain(similarity, 300.0, 300), atol=1e-3)


def test_transport_marginals() -> None:
    similarity = np.random.default_rng(0).normal(0, 3, (20, 30))
    assignment = optimal_transport(similarity, 1.0, 100).values
    np.testing.assert_allclose(assignment.sum(axis=0), [1] * 30 + [20], rtol=1e-4)
    np.testing.assert_allclose(assignment.sum(axis=1), [1] * 20 + [30], rtol=1e-3)


def test_transport_of_one_certain_pair_by_hand() -> None:
    # 1 x 1: the symmetric scaling leaves p / (1 - p) = exp((s - d) / 2) on both diagonals.
    found = optimal_transport(np.array([[4.0]]), 0.0, 100).values
    share = np.exp(2) / (1 + np.exp(2))
    np.testing.assert_allclose(found, [[share, 1 - share], [1 - share, share]], atol=1e-5)


def test_transport_ends_when_the_sums_are_right() -> None:
    similarity = np.random.default_rng(0).normal(0, 3, (20, 30))
    exact = optimal_transport(similarity, 1.0, 200)
    loose, tight = (optimal_transport(similarity, 1.0, 200, tolerance) for tolerance in (0.1, 1e-3))
    assert 1 < loose.iterations < tight.iterations < exact.iterations
    for found, tolerance in ((loose, 0.1), (tight, 1e-3)):
        np.testing.assert_allclose(found.values.sum(axis=0), [1] * 30 + [20], rtol=1e-5)
        off = np.abs(found.values.sum(axis=1) - ([1] * 20 + [30])).sum() / 50
        assert off <= 1.01 * tolerance
        # As many iterations as it took, asked for: the same.
        same = optimal_transport(similarity, 1.0, found.iterations)
        np.testing.assert_array_equal(found.values, same.values)
    assert optimal_transport(similarity, 1.0, 3, 1e-6).iterations == 3


def test_a_similarity_that_needs_one_iteration_only() -> None:
    # All equal: rows and columns are right at once, and the second iteration would change nothing.
    assert optimal_transport(np.zeros((4, 4)), 0.0, 20, 0.01).iterations == 1


def test_paired_are_those_with_a_partner_more_likely_than_not() -> None:
    values = np.array([[0.95, 0.0, 0.05], [0.0, 0.51, 0.49], [0.02, 0.02, 0.96], [0.03, 0.47, 2.0]], np.float32)
    assert Assignment(values, 20).paired() == Assignment(values.T, 20).paired() == 2
    values[1] = (0.0, 0.5, 0.5)
    assert Assignment(values, 20).paired() == 1
    assert Assignment(np.array([[0.2, 0.8], [0.8, 0.2]], np.float32), 20).paired() == 0


def test_hopeful_are_those_not_surely_without_a_partner() -> None:
    values = np.array([[0.95, 0.0, 0.05], [0.0, 0.04, 0.96], [0.02, 0.03, 0.95], [0.03, 0.93, 1.0]], np.float32)
    rows, columns = Assignment(values, 20).hopeful(np.float32(0.95))
    assert rows.tolist() == [True, False, True] and columns.tolist() == [True, True]
    assert Assignment(values, 20).hopeful(0.5)[0].tolist() == [True, False, False]


@pytest.mark.parametrize("spread", [1.0, 10.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (30, 30), (41, 17)])
def test_longer_steps_end_in_the_same_place(spread: float, shape: tuple[int, int]) -> None:
    similarity = np.random.default_rng(shape[0]).uniform(-spread, spread, shape)
    for dustbin in (-spread, 1.0, spread):
        expected = log_domain(similarity, dustbin, 600)
        found = optimal_transport(similarity, dustbin, 300, relaxation=OVER_RELAXATION).values
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_longer_steps_take_fewer_iterations() -> None:
    similarity = np.random.default_rng(0).normal(0, 3, (60, 70)) + 12 * np.eye(60, 70)
    plain = optimal_transport(similarity, 6.0, 200, 1e-4)
    relaxed = optimal_transport(similarity, 6.0, 200, 1e-4, OVER_RELAXATION)
    assert relaxed.iterations < 0.7 * plain.iterations
    np.testing.assert_allclose(relaxed.values.sum(axis=0), [1] * 70 + [60], rtol=1e-4)
    np.testing.assert_allclose(relaxed.values, plain.values, atol=1e-2)
