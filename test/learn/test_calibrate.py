"""Ranges of distributions whose best range is known, and histograms of a graph whose values are."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("torch")

import torch  # noqa: E402

from efficient_matcher.learn.calibrate import (  # noqa: E402
    BINS, METHODS, Histogram, chosen_range, histograms, observed_tensors, ranges_everywhere)
from efficient_matcher.learn.onnx_graph import FLOAT, Graph  # noqa: E402


def histogram(values: np.ndarray) -> Histogram:
    low, high = min(0.0, values.min()), max(0.0, values.max())
    return Histogram(low, high, np.histogram(values, BINS, (low, high))[0].astype(float))


@pytest.fixture(scope="module")
def tailed() -> Histogram:
    """A normal distribution of sigma 1, and one value in a million far out at 40."""
    normal = histogram(np.append(np.random.default_rng(0).standard_normal(100_000), 40.0))
    counts = normal.counts * 1e4
    counts[-1] = 1e3
    return Histogram(normal.low, normal.high, counts)


def test_a_flat_distribution_is_kept_whole() -> None:
    flat = histogram(np.linspace(0, 10, 50_000))
    for method in METHODS:
        low, high = chosen_range(flat, method)
        assert low == 0 and high == pytest.approx(10, rel=0.03)


def test_wide_tails_are_cut_by_all_but_min_max(tailed: Histogram) -> None:
    assert chosen_range(tailed, "min-max") == (tailed.low, 40.0)
    assert 2.5 < chosen_range(tailed, "percentile", 99.9)[1] < 4.5
    for method in ("entropy", "mse"):
        low, high = chosen_range(tailed, method)
        assert high < 30 and low <= 0


def test_of_all_ranges_mse_rounds_with_the_least_error(tailed: Histogram) -> None:
    def error(low: float, high: float) -> float:
        step = (high - low) / 255
        zero = round(-low / step)
        rounded = (np.clip(np.rint(tailed.centres / step) + zero, 0, 255) - zero) * step
        return float(np.average((rounded - tailed.centres) ** 2, weights=tailed.counts))

    best = error(*chosen_range(tailed, "mse"))
    assert best <= min(error(*chosen_range(tailed, method)) for method in METHODS) * 1.02


def test_ranges_always_hold_zero() -> None:
    for values in (np.full(1000, 5.0) + np.arange(1000) / 1000, -5 - np.arange(1000) / 1000):
        for method in METHODS:
            low, high = chosen_range(histogram(values), method)
            assert low <= 0 <= high and high > low


def graph() -> object:
    """relu(2 x - 1) moved about, and added to itself."""
    graph = Graph("g")
    y = graph.conv("double", "x", torch.full((1, 1, 1, 1), 2.0), torch.tensor([-1.0]), relu=True)
    moved = graph.add("Transpose", "moved", y, perm=[0, 1, 3, 2])
    graph.add("Add", "y", moved, moved)
    return graph.model({"x": (FLOAT, [1, 1, 2, 3])}, {"y": (FLOAT, [1, 1, 3, 2])})


def test_values_are_taken_after_the_relu_and_hold_where_they_move() -> None:
    model = graph()
    assert observed_tensors(model) == ["double/relu", "y"]
    found = ranges_everywhere(model, {"double/relu": (0.0, 3.0), "y": (0.0, 6.0)})
    assert found == {"double/relu": (0.0, 3.0), "double": (0.0, 3.0), "moved": (0.0, 3.0), "y": (0.0, 6.0)}


def test_histograms_cover_all_inputs() -> None:
    inputs = [{"x": np.array([0.0, 1.0])}, {"x": np.array([-2.0, 5.0])}]
    found = histograms(lambda given: {"y": 2 * given["x"]}, inputs, ["y"])["y"]
    assert (found.low, found.high, found.counts.sum()) == (-4.0, 10.0, 4)
