"""Multiply-accumulates against the exported graphs, and widths that meet a budget."""

from __future__ import annotations

import math
from typing import Any

import onnx
import pytest
import torch
from efficient_matcher.learn import width_search
from efficient_matcher.learn.channels import PruneError, narrow
from efficient_matcher.learn.extractor_graph import extractor_model
from efficient_matcher.learn.macs import superglue_macs, superpoint_macs
from efficient_matcher.learn.matcher_graph import matcher_model
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig
from efficient_matcher.learn.stem import with_fewer_layers, with_half_stem
from efficient_matcher.learn.width_search import Budget, latency_ms, macs_of, search_widths, shrinking_row


def extractor() -> SuperPoint:
    torch.manual_seed(0)
    return SuperPoint(SuperPointConfig((8, 8, 8, 8, 16, 16, 16, 16), 12, 16, 16, True, 6)).eval()


def matcher() -> SuperGlue:
    torch.manual_seed(0)
    return SuperGlue(SuperGlueConfig(16, (8, 12), layers=2, heads=4)).eval()


def counted(model: onnx.ModelProto, sides: dict[str, int]) -> int:
    """Products of the graph's convolutions and matrix products, inputs of the given sizes."""
    for entry in model.graph.input:
        for dim in entry.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = sides[dim.dim_param]
    for entry in model.graph.output:
        entry.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, list[int]] = {t.name: list(t.dims) for t in graph.initializer}
    for entry in (*graph.value_info, *graph.input, *graph.output):
        shapes[entry.name] = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
    return sum(_products(node, shapes) for node in graph.node)


def _products(node: Any, shapes: dict[str, list[int]]) -> int:
    if node.op_type == "Conv":
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type in ("MatMul", "Gemm"):
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return 0


def test_macs_are_those_of_the_exported_graphs() -> None:
    small = narrow(extractor(), {"2a": 4, "location": 3})
    assert superpoint_macs(small.config, (64, 48)) == counted(extractor_model(small), {"H": 48, "W": 64})
    for width in (0, 12):
        halved = with_half_stem(small, width=width)
        assert superpoint_macs(halved.config, (64, 48)) == counted(extractor_model(halved), {"H": 48, "W": 64})
        fewer = with_fewer_layers(halved, ("2b", "3a"), direct_location=width > 0)
        assert superpoint_macs(fewer.config, (64, 48)) == counted(extractor_model(fewer), {"H": 48, "W": 64})
    for keys in ({}, {"keys": 12}):
        glue = narrow(matcher(), {"gnn.1.heads": 2, "gnn.2.hidden": 9, **keys})
        assert superglue_macs(glue.config, 20) == counted(matcher_model(glue), {"N": 20, "M": 20})


@pytest.mark.parametrize("make", [extractor, matcher])
def test_a_target_of_macs_is_met_closely_and_by_the_network_itself(make: Any) -> None:
    network = make()
    whole = macs_of(network, {})
    found = search_widths(network, Budget(macs=0.6 * whole), multiple=4)
    small = narrow(network, found)
    assert 0.45 * whole < macs_of(small, {}) == macs_of(network, found) <= 0.6 * whole


def test_the_row_shrinks_and_leaves_nothing_empty() -> None:
    row = shrinking_row(matcher(), 8, "frobenius", 0)
    costs = [macs_of(matcher(), entry) for entry in row]
    assert costs == sorted(costs, reverse=True) and min(row[-1].values()) >= 1
    assert row[-1]["gnn.0.heads"] == 1 and row[-1]["gnn.0.hidden"] == 8


def test_a_target_of_latency_takes_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    network = extractor()
    monkeypatch.setattr(width_search, "latency_ms", lambda small, threads: macs_of(small, {}) / 1e6)
    limit = 0.5 * macs_of(network, {})
    told: list[str] = []
    found = search_widths(network, Budget(latency_ms=limit / 1e6), 4, progress=told.append)
    assert found == search_widths(network, Budget(macs=limit), 4) and " ms with 1a=" in told[0]


def test_a_budget_that_cannot_be_met_is_told() -> None:
    with pytest.raises(PruneError, match="budget of 1 MACs cannot be met: the smallest network takes"):
        search_widths(matcher(), Budget(macs=1.0))


def test_latency_is_of_the_exported_network() -> None:
    assert latency_ms(matcher(), threads=1, runs=1) > 0
