"""Optimal transport: marginals, a case worked out by hand, and the two forms against each other."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from efficient_matcher.learn.transport import log_optimal_transport, sinkhorn  # noqa: E402


def similarities(scale: float, rows: int = 20, columns: int = 30) -> torch.Tensor:
    return scale * torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("transport", [log_optimal_transport, sinkhorn])
def test_marginals_are_one_per_keypoint_and_the_rest_in_the_dustbins(transport: Callable[..., torch.Tensor]) -> None:
    assignment = transport(similarities(2.0), torch.tensor(1.0), 100).exp()
    rows, columns = assignment.sum(2), assignment.sum(1)
    torch.testing.assert_close(rows, torch.tensor([1.0] * 20 + [30.0]).expand(2, -1), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(columns, torch.tensor([1.0] * 30 + [20.0]).expand(2, -1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("transport", [log_optimal_transport, sinkhorn])
def test_one_keypoint_each_has_a_closed_form(transport: Callable[..., torch.Tensor]) -> None:
    # P = [[p, 1-p], [1-p, p]] with p^2 / (1-p)^2 = exp(s + z - 2 z).
    similarity, dustbin = 3.0, 1.0
    assignment = transport(torch.full((1, 1, 1), similarity), torch.tensor(dustbin), 50).exp()[0]
    odds = math.exp((similarity - dustbin) / 2)
    expected = torch.tensor([[odds, 1.0], [1.0, odds]]) / (1 + odds)
    torch.testing.assert_close(assignment, expected)


@pytest.mark.parametrize("scale", [0.1, 5.0, 200.0])
@pytest.mark.parametrize("iterations", [2, 20])
def test_training_form_equals_the_log_domain_form(scale: float, iterations: int) -> None:
    similarity, dustbin = similarities(scale), torch.tensor(scale)
    expected = log_optimal_transport(similarity, dustbin, iterations)
    torch.testing.assert_close(sinkhorn(similarity, dustbin, iterations), expected, atol=2e-3, rtol=1e-4)


def test_dustbins_out_of_reach_stay_finite() -> None:
    for dustbin in (-1000.0, 1000.0):
        assert sinkhorn(similarities(1.0), torch.tensor(dustbin)).isfinite().all()


def gradient(transport: Callable[..., torch.Tensor], *arguments: int) -> torch.Tensor:
    similarity = similarities(5.0).double().requires_grad_()
    dustbin = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    pairs = torch.arange(20)
    (-transport(similarity, dustbin, *arguments)[:, pairs, pairs].mean()).backward()
    return torch.cat([similarity.grad.flatten(), dustbin.grad[None]])


def test_gradients_through_all_but_the_first_iteration_are_those_of_the_log_domain() -> None:
    full = gradient(log_optimal_transport, 20)
    torch.testing.assert_close(gradient(sinkhorn, 20, 19), full, atol=0.01 * full.abs().max().item(), rtol=0)


def test_gradients_through_the_last_iterations_point_the_same_way() -> None:
    short, full = gradient(sinkhorn, 20, 4), gradient(log_optimal_transport, 20)
    assert torch.nn.functional.cosine_similarity(short, full, dim=0) > 0.999


@pytest.mark.parametrize("arguments", [(1, 1), (20, 0)])
def test_iterations_without_gradient_are_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="sinkhorn needs 2 iterations"):
        sinkhorn(similarities(1.0), torch.tensor(1.0), *arguments)
