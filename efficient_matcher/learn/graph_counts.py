"""What a deployed graph holds and computes: weights that are not zero, multiplications with additions (MACs)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from efficient_matcher.core.compressed import model_content
from efficient_matcher.errors import MatcherError

FREE_SIZES = {"H": 480, "W": 640, "cells_y": 60, "cells_x": 80, "N": 512, "M": 512}
CONVOLUTIONS = ("Conv", "ConvInteger", "QLinearConv")
PRODUCTS = ("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul")
WEIGHT_INPUT = {"QLinearConv": 3, "QLinearMatMul": 3}
WEIGHT_KINDS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.UINT8,
                onnx.TensorProto.INT32)
SCALED = ("QuantizeLinear", "DequantizeLinear")  # their inputs 1 and 2 are scale and zero point, no weights


@dataclass(frozen=True)
class GraphCounts:
    """weights: numbers the graph holds, biases included; nonzero: of them; macs: None where a shape is not known."""

    weights: int
    nonzero: int
    macs: int | None


def count(path: Path | str, sizes: Mapping[str, int] = FREE_SIZES) -> GraphCounts:
    """Counts of a model file, compressed or not; `sizes` stand in for the free sides of its inputs.

    Products of weights and of tokens with tokens count alike. Raises MatcherError for a file that is no model.
    """
    content = model_content(path)
    try:
        model = onnx.load_from_string(content) if isinstance(content, bytes) else onnx.load(content)
    except Exception as error:  # noqa: BLE001 - protobuf's own error class moved between its versions
        raise MatcherError(f"{path}: is not an ONNX model: {' '.join(str(error).split())[:100]}") from None
    weights, nonzero = _weights(model.graph)
    return GraphCounts(weights, nonzero, _macs(model, sizes))


def _weights(graph: onnx.GraphProto) -> tuple[int, int]:
    scales = {name for node in graph.node if node.op_type in SCALED for name in node.input[1:]}
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
              if tensor.data_type in WEIGHT_KINDS and tensor.name not in scales}
    for name in [name.removesuffix(".packed") for name in arrays if name.endswith(".packed")]:
        arrays[name] = _four_bit_levels(graph, name)
        for part in ("packed", "scale", "sixteen", "eight"):
            del arrays[f"{name}.{part}"]
    return sum(array.size for array in arrays.values()), sum(int(np.count_nonzero(array)) for array in arrays.values())


def _four_bit_levels(graph: onnx.GraphProto, name: str) -> np.ndarray:
    """Of a weight that `qdq.four_bit_weights` stored: two to a byte, 8 standing for zero."""
    parts = {tensor.name: tensor for tensor in graph.initializer}
    stored, size = (numpy_helper.to_array(parts[f"{name}.{part}"]) for part in ("packed", "size"))
    return np.concatenate([stored // 16, stored % 16])[:int(size[0])].astype(np.int8) - 8


def _macs(model: onnx.ModelProto, sizes: Mapping[str, int]) -> int | None:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for entry in fixed.graph.input:
        for dim in entry.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = sizes.get(dim.dim_param, 0)
    for entry in fixed.graph.output:  # what is said there would be held against what is inferred
        entry.type.tensor_type.ClearField("shape")
    shapes = _shapes(shape_inference.infer_shapes(fixed, data_prop=True).graph)
    total = 0
    for node in model.graph.node:
        if node.op_type in (*CONVOLUTIONS, *PRODUCTS):
            macs = _node_macs(node, shapes)
            if macs is None:
                return None
            total += macs
    return total


def _node_macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Outputs times the terms that each sums up."""
    out, weight = shapes.get(node.output[0]), shapes.get(node.input[WEIGHT_INPUT.get(node.op_type, 1)])
    if out is None or weight is None:
        return None
    if node.op_type in CONVOLUTIONS:
        return prod(out) * prod(weight[1:])
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return prod(out) * (weight[-1] if transposed else weight[-2])


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Shapes that are known in full."""
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for entry in (*graph.input, *graph.value_info, *graph.output):
        dims = entry.type.tensor_type.shape.dim
        if entry.type.tensor_type.HasField("shape") and all(dim.dim_value > 0 for dim in dims):
            found[entry.name] = tuple(dim.dim_value for dim in dims)
    return found
