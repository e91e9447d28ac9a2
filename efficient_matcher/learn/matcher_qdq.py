"""A matcher graph in 8 bits: its linear layers as runtimes fuse them, its attention, residuals and tokens in float.

Quantize and dequantize nodes (QDQ) stand before each linear layer, weights are signed and symmetric per output channel,
activations unsigned; from these onnxruntime makes QGemm and MatMulIntegerToFloat. What a layer gives goes on in float
but between hidden and output layer, where the ReLU's bytes are passed on. A layer is named by its weights, which both
images share; so are ranges, since images are calibrated in both orders.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from efficient_matcher.learn.calibrate import Range
from efficient_matcher.learn.qdq import REDUCED, SMALLEST, rounded_with_sums

_WEIGHT = ".weight"
_BYTES, _FLOATS = "_QuantizeLinear_Output", "_DequantizeLinear_Output"  # what the library appends to a tensor's name


def linear_layers(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Layers that may be 8-bit, in the order they run, each with its nodes: matrix products with a constant that is
    worth a coding of its own."""
    worth = {entry.name for entry in model.graph.initializer if np.prod(entry.dims) >= SMALLEST}
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type in ("Gemm", "MatMul") and node.input[1] in worth:
            found.setdefault(node.input[1].removesuffix(_WEIGHT), []).append(node.name)
    return found


def linear_inputs(model: onnx.ModelProto) -> list[str]:
    """Tensors that linear layers read, and those that are joined to such a one."""
    nodes = {name for layer in linear_layers(model).values() for name in layer}
    read = dict.fromkeys(node.input[0] for node in model.graph.node if node.name in nodes)
    parts = [name for node in model.graph.node if node.op_type == "Concat" and node.output[0] in read
             for name in node.input]
    given = {entry.name for entry in model.graph.input}
    return [name for name in dict.fromkeys((*read, *parts)) if name not in given]


def quantized_matcher(model: onnx.ModelProto, ranges: Mapping[str, Range], layers: Collection[str]) -> onnx.ModelProto:
    """The graph with `layers` in 8 bits; ranges of the tensors that `linear_inputs` names."""
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    if not layers:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = linear_layers(model)
    nodes = {name for layer in layers for name in known[layer]}
    _keep_sums(copy, layers)
    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    kinds = ["MatMul", "Gemm"]
    quantizer = QDQQuantizer(
        copy, True, REDUCED, QuantType.QInt8, QuantType.QUInt8, TensorsData(CalibrationMethod.MinMax, data),
        sorted(nodes), [], kinds, {"ActivationSymmetric": False, "WeightSymmetric": True,
                                   "OpTypesToExcludeOutputQuantization": kinds})
    quantizer.quantize_model()
    result = quantizer.model.model
    _float_elsewhere(result, nodes)
    _join_bytes(result)
    quantizer.model.topological_sort()
    onnx.checker.check_model(result)
    return result


def _keep_sums(model: onnx.ModelProto, layers: Collection[str]) -> None:
    names = {f"{layer}{_WEIGHT}" for layer in layers}
    for weight in model.graph.initializer:
        if weight.name in names:
            values = rounded_with_sums(np.ascontiguousarray(numpy_helper.to_array(weight).T)).T
            weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), weight.name))


def _float_elsewhere(model: onnx.ModelProto, nodes: Collection[str]) -> None:
    """The library lets every reader of a tensor have its rounded values; residuals add up better unrounded."""
    made = {name for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.name not in nodes and node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            node.input[:] = [plain if (plain := name.removesuffix(_FLOATS)) in made else name for name in node.input]


def _join_bytes(model: onnx.ModelProto) -> None:
    """Join tensors after they became bytes, which are less to move than floats, where all readers want bytes."""
    made = {node.output[0]: node for node in model.graph.node}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for rounding in [node for node in model.graph.node if node.op_type == "QuantizeLinear"]:
        join = made.get(rounding.input[0])
        if join is None or join.op_type != "Concat" or len(readers[join.output[0]]) > 1:
            continue
        parts = [f"{name}/{join.name}" for name in join.input]
        for name, part in zip(join.input, parts):
            model.graph.node.append(helper.make_node("QuantizeLinear", [name, *rounding.input[1:]], [part], name=part))
        join.input[:], join.output[0] = parts, rounding.output[0]
        model.graph.node.remove(rounding)
