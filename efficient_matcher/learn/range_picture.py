"""Histograms of activations and weights with the ranges chosen for 8 bits, wide tails plain to see."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from efficient_matcher.learn.calibrate import Histogram, Range

COLUMNS = 4
CHOSEN, WEIGHTS, VALUES = "#c03020", "#3060a0", "#707070"


def range_picture(model: onnx.ModelProto, histograms: Mapping[str, Histogram], ranges: Mapping[str, Range]) -> bytes:
    """A PNG: a panel for each tensor of activations, dashed lines at its range; below them each layer's weights.

    `model` is the float graph. Weights are over their output channel's largest, which is the range of 8 bits.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    weights = _weights(model)
    rows = -(-len(histograms) // COLUMNS) + -(-len(weights) // COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, 1.9 * rows), layout="constrained")
    panels = iter(figure.subplots(rows, COLUMNS, squeeze=False).ravel())
    for name, histogram in histograms.items():
        panel = next(panels)
        panel.fill_between(histogram.centres, histogram.counts + 0.5, 0.5, step="mid", color=VALUES, linewidth=0)
        for edge in ranges[name]:
            panel.axvline(edge, color=CHOSEN, linestyle="--", linewidth=1)
        _labelled(panel, name)
    for _ in range(-len(histograms) % COLUMNS):
        next(panels).axis("off")
    for name, values in weights.items():
        panel = next(panels)
        if len(values):  # else all is pruned, and an empty histogram has no logarithm
            panel.hist(values, bins=128, range=(-1, 1), color=WEIGHTS, log=True)
        _labelled(panel, f"{name}, over the channel's largest")
    for panel in panels:
        panel.axis("off")
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()


def _labelled(panel: object, title: str) -> None:
    panel.set_yscale("log")  # type: ignore[attr-defined]
    panel.set_title(title, fontsize=8)  # type: ignore[attr-defined]
    panel.tick_params(labelsize=7)  # type: ignore[attr-defined]


def _weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    arrays = {entry.name: entry for entry in model.graph.initializer}
    found: dict[str, np.ndarray] = {}
    seen: set[str] = set()  # a matcher's two images share their weights
    for node in model.graph.node:
        weight = node.input[1] if node.op_type in ("Conv", "Gemm", "MatMul") else ""
        if weight in arrays and weight not in seen:
            seen.add(weight)
            values = numpy_helper.to_array(arrays[weight])
            flat = values.reshape(len(values), -1) if node.op_type == "Conv" else values.T
            scaled = (flat / np.maximum(np.abs(flat).max(axis=1, keepdims=True), 1e-12)).ravel()
            found[node.name] = scaled[scaled != 0]  # zeros of the layout, not of the network
    return found
