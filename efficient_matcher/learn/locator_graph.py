"""The deployed locator: see `core.locate` for what it reads and answers."""

from __future__ import annotations

import numpy as np
import onnx

from efficient_matcher.learn.locator import HINTS, LEAST_CONTRAST, LOG_SPREADS, MOST_MOVE_PX, Locator
from efficient_matcher.learn.onnx_graph import FLOAT, UINT8, Graph


def locator_model(network: Locator) -> onnx.ModelProto:
    """Graph with inputs `patches` uint8 [N,S*S] and `hints` [N,3], outputs `moves` [N,2] and `spreads` [N]."""
    graph = Graph("locator")
    x = graph.add("Concat", "seen", _normalised(graph), "hints", axis=1)
    *hidden, last = network.layers
    for index, layer in enumerate(hidden):
        x = graph.linear(f"layers.{index}", x, layer.weight[:, :, 0], layer.bias)
        x = graph.add("Relu", f"layers.{index}/relu", x)
    x = graph.linear(f"layers.{len(hidden)}", x, last.weight[:, :, 0], last.bias)
    _limited(graph, "moves", _columns(graph, "moves/all", x, 0, 2), (-MOST_MOVE_PX, MOST_MOVE_PX))
    logarithms = _limited(graph, "spreads/logarithms", _columns(graph, "spreads/column", x, 2, 3), LOG_SPREADS)
    graph.add("Squeeze", "spreads", graph.add("Exp", "spreads/exp", logarithms), graph.shape(1))
    side = 2 * network.reach_px + 1
    return graph.model({"patches": (UINT8, ["N", side * side]), "hints": (FLOAT, ["N", HINTS])},
                       {"moves": (FLOAT, ["N", 2]), "spreads": (FLOAT, ["N"])})


def _normalised(graph: Graph) -> str:
    x = graph.add("Cast", "patches/float", "patches", to=FLOAT)
    centred = graph.add("Sub", "patches/centred", x, graph.add("ReduceMean", "patches/mean", x, axes=[1], keepdims=1))
    squares = graph.add("Mul", "patches/squares", centred, centred)
    variance = graph.add("ReduceMean", "patches/variance", squares, axes=[1], keepdims=1)
    contrast = graph.add("Add", "patches/contrast", graph.add("Sqrt", "patches/deviation", variance),
                         graph.constant("least_contrast", np.float32(LEAST_CONTRAST)))
    return graph.add("Div", "patches/normalised", centred, contrast)


def _columns(graph: Graph, name: str, x: str, first: int, end: int) -> str:
    return graph.add("Slice", name, x, graph.shape(first), graph.shape(end), graph.shape(1))


def _limited(graph: Graph, name: str, x: str, limits: tuple[float, float]) -> str:
    low, high = (graph.constant(f"{name}/{side}", np.float32(limit)) for side, limit in zip(("low", "high"), limits))
    return graph.add("Clip", name, x, low, high)
