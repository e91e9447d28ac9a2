"""What values flow through a graph on real images, and the ranges 8 bits should cover.

Histograms are taken of the outputs of convolutions and additions, after their ReLU; whatever only moves values about
has the range of what it moves. Four ways lead from a histogram to a range: all of it (min-max), all but the outermost
share (percentile), and the clipping with the least divergence (entropy) or squared error (mse) after rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

BINS = 2048
LEVELS = 256  # of 8 bits
SAMPLES = 200_000  # values of a tensor and image that enter its histogram; the extremes are of all
METHODS = ("min-max", "percentile", "entropy", "mse")
CLIPPINGS = np.linspace(0.15, 1.0, 86)  # shares of the larger extreme that entropy and mse try as a bound
MOVERS = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "MaxPool", "Resize")
Range = tuple[float, float]  # always holds zero
Run = Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class Histogram:
    """Counts [BINS] of equal steps from `low` to `high`, which are the extremes seen, or zero."""

    low: float
    high: float
    counts: NDArray[np.float64]

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        step = (self.high - self.low) / BINS
        return self.low + step * (np.arange(BINS) + 0.5)


def observed_tensors(model: onnx.ModelProto) -> list[str]:
    """Outputs of convolutions and additions, of the ReLU after them where there is one, and the image in float."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Add", "Cast"):
            after = readers.get(node.output[0], [])
            relu = len(after) == 1 and after[0].op_type == "Relu"
            found.append(after[0].output[0] if relu else node.output[0])
    return found


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy that gives the tensors `names` besides its own outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    own = {entry.name for entry in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in own)
    return copy


def histograms(run: Run, inputs: Sequence[dict[str, NDArray[Any]]], names: Sequence[str],
               on_input: Callable[[], None] = lambda: None) -> dict[str, Histogram]:
    """Histograms of the tensors `names` that `run` answers with, over all `inputs`, in two passes."""
    extremes = {name: (0.0, 0.0) for name in names}
    for given in inputs:
        for name, value in _named(run(given), names):
            low, high = extremes[name]
            extremes[name] = min(low, float(value.min())), max(high, float(value.max()))
        on_input()
    counts = {name: np.zeros(BINS) for name in names}
    for given in inputs:
        for name, value in _named(run(given), names):
            values = value.ravel()[::max(1, value.size // SAMPLES)]
            counts[name] += np.histogram(values, BINS, _not_empty(*extremes[name]))[0]
        on_input()
    return {name: Histogram(*_not_empty(*extremes[name]), counts[name]) for name in names}


def chosen_range(histogram: Histogram, method: str, percentile: float = 99.99) -> Range:
    """The range of one of METHODS; `percentile` in percent is of values kept, by that method only."""
    if method == "min-max":
        return histogram.low, histogram.high
    if method == "percentile":
        return _percentile_range(histogram, percentile)
    cost = {"entropy": _divergence, "mse": _squared_error}[method]
    most = CLIPPINGS * max(-histogram.low, histogram.high)
    ranges = [(max(histogram.low, -bound), min(histogram.high, bound)) for bound in most.tolist()]
    return ranges[int(np.argmin([cost(histogram, *candidate) for candidate in ranges]))]


def ranges_everywhere(model: onnx.ModelProto, ranges: dict[str, Range]) -> dict[str, Range]:
    """`ranges`, and those of the tensors that hold the same values elsewhere."""
    found = dict(ranges)
    for node in model.graph.node:
        if node.op_type in MOVERS and node.input[0] in found:
            found.setdefault(node.output[0], found[node.input[0]])
        if node.op_type == "Relu" and node.output[0] in found:
            found.setdefault(node.input[0], found[node.output[0]])
    return found


def _named(values: dict[str, NDArray[Any]], names: Sequence[str]) -> list[tuple[str, NDArray[Any]]]:
    return [(name, values[name]) for name in names]


def _not_empty(low: float, high: float) -> Range:
    return (low, high) if high > low else (low, low + 1e-6)


def _percentile_range(histogram: Histogram, percentile: float) -> Range:
    share = np.cumsum(histogram.counts) / max(1.0, histogram.counts.sum())
    outside = 1 - percentile / 100
    outside = outside / 2 if histogram.low < 0 < histogram.high else outside
    step = (histogram.high - histogram.low) / BINS
    high = histogram.low + step * (np.searchsorted(share, 1 - outside) + 1) if histogram.high > 0 else 0.0
    low = histogram.low + step * np.searchsorted(share, outside, side="right") if histogram.low < 0 else 0.0
    return min(0.0, float(low)), max(0.0, min(float(high), histogram.high))


def _rounded(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Level of each value, 0 to LEVELS - 1."""
    step = (high - low) / (LEVELS - 1)
    zero = round(-low / step)
    return np.clip(np.rint(values / step) + zero, 0, LEVELS - 1)


def _squared_error(histogram: Histogram, low: float, high: float) -> float:
    step = (high - low) / (LEVELS - 1)
    levels = _rounded(histogram.centres, low, high)
    error = (levels - round(-low / step)) * step - histogram.centres
    return float(np.dot(histogram.counts, error * error))


def _divergence(histogram: Histogram, low: float, high: float) -> float:
    """Kullback-Leibler divergence of the rounded distribution from the true one, zeros left out."""
    centres, counts = histogram.centres, histogram.counts.copy()
    if low >= 0:
        counts[0] = 0  # what a ReLU cut off is exact at any step
    levels = _rounded(centres, low, high).astype(np.int64)
    inside = (centres >= low) & (centres <= high)
    kept = np.where(inside, counts, 0)
    filled = np.bincount(levels, (kept > 0).astype(float), LEVELS)[levels]
    spread = np.where(kept > 0, np.bincount(levels, kept, LEVELS)[levels] / np.maximum(filled, 1), 0)
    clipped = np.where(kept > 0, kept + _cut(counts, inside, levels, kept), 0)
    if not clipped.sum() or not spread.sum():
        return np.inf
    p, q = clipped / clipped.sum(), spread / spread.sum()
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / q[used])))


def _cut(counts: NDArray[np.float64], inside: NDArray[np.bool_], levels: NDArray[np.int64],
         kept: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts outside the range, given to the outermost filled bins inside."""
    added = np.zeros_like(counts)
    filled = np.flatnonzero(kept > 0)
    if len(filled):
        middle = LEVELS // 2
        added[filled[0]] += counts[~inside & (levels < middle)].sum()
        added[filled[-1]] += counts[~inside & (levels >= middle)].sum()
    return added
