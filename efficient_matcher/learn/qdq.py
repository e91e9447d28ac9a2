"""Graphs in fewer bits: 8-bit convolutions as runtimes fuse them, and weights alone in 16 or 4 bits.

8 bits: quantize and dequantize nodes around each convolution (QDQ), weights signed and symmetric per output channel,
activations unsigned, biases 32-bit; from these onnxruntime and OpenVINO make integer kernels. Weights use half of their
range: processors without dot products of bytes (AVX2 alone) add two of them in 16 bits, which would overflow, and a
bit less is to be stored of each. 16 bits: weights as
half floats. 4 bits: two weights a byte, a scale per output channel. Both are made float again while loading, as the 8-bit
weights of a network are that computes in float.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from efficient_matcher.core.backend import BYTE_ZERO
from efficient_matcher.learn.calibrate import MOVERS, Range, ranges_everywhere

INNER = (*MOVERS, "Add", "Relu")  # 8-bit where they lie between 8-bit convolutions
WEIGHT_LEVELS = 64  # on each side of zero
BYTE_LEVELS = 127  # the same where no products of bytes are added up
REDUCED = True  # the library's name for that
SMALLEST = 256  # elements of a weight that is worth a coding of its own


def layers_of(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions, in the order they run: what may be 8-bit or stay wider."""
    return [node.name for node in model.graph.node if node.op_type == "Conv"]


def quantized(model: onnx.ModelProto, ranges: Mapping[str, Range], layers: Collection[str]) -> onnx.ModelProto:
    """The graph with `layers` in 8 bits, and what lies between them; ranges of tensors as `observed_tensors` names."""
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    if not layers:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _keep_sums(copy, layers)
    nodes = eight_bit_nodes(model, layers)
    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high))
            for name, (low, high) in ranges_everywhere(model, dict(ranges)).items()}
    quantizer = QDQQuantizer(
        copy, True, REDUCED, QuantType.QInt8, QuantType.QUInt8, TensorsData(CalibrationMethod.MinMax, data),
        sorted(nodes), [], ["Conv", *INNER], {"ActivationSymmetric": False, "WeightSymmetric": True})
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    result = _reads_bytes(quantizer.model.model)
    onnx.checker.check_model(result)
    return result


def eight_bit_nodes(model: onnx.ModelProto, layers: Collection[str]) -> set[str]:
    """Names of the nodes that work on 8 bits when the convolutions `layers` do.

    What only moves, adds or cuts off values does so in 8 bits where all it reads and all who read it do.
    """
    made = {name: node for node in model.graph.node for name in node.output}
    constants = {entry.name for entry in model.graph.initializer}
    relus = {node.name for node in model.graph.node
             if node.op_type == "Relu" and made[node.input[0]].name in layers}
    fixed = set(layers) | relus
    candidates = {node.name: node for node in model.graph.node if node.op_type in INNER and node.name not in fixed}
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)

    def belongs(node: onnx.NodeProto) -> bool:
        inside = fixed | set(candidates)
        sources = [made.get(name) for name in node.input if name and name not in constants]
        return (all(source is not None and (source.name in inside or source.op_type == "Cast") for source in sources)
                and all(readers.get(name) and inside.issuperset(readers[name]) for name in node.output))

    while outside := [name for name, node in candidates.items() if not belongs(node)]:
        for name in outside:
            del candidates[name]
    return fixed | set(candidates)


def rounded_with_sums(values: NDArray[np.float32], most: int = WEIGHT_LEVELS) -> NDArray[np.float32]:
    """Weights [out,..] on the grid of their channel, rounded so that each channel's sum is right to half a step.

    An image, and a map after a ReLU, is bright all over: with every weight rounded for itself, the error of the sum
    times that brightness is what hurts most. Those nearest to being rounded the other way are; zeros stay zero.
    """
    flat = values.reshape(len(values), -1).astype(np.float64)
    scale = _short(np.maximum(np.abs(flat).max(axis=1, keepdims=True), 1e-12) / most)
    exact = flat / scale
    levels = np.clip(np.rint(exact), -most, most)
    for row, level in zip(exact, levels):
        rest = row - level
        count = int(np.rint(rest.sum()))
        room = (row != 0) & (np.abs(row) < most - 1)
        order = np.argsort(-np.sign(count) * rest)
        level[order[room[order]][:abs(count)]] += np.sign(count)
    return (levels * scale).astype(np.float32).reshape(values.shape)


def _short(scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scales to 11 binary digits, which take half the bytes in a packed bundle; tiny ones as they are."""
    short = scale.astype(np.float16).astype(np.float64)
    return np.where(short > np.finfo(np.float16).tiny, short, scale)


def _keep_sums(model: onnx.ModelProto, layers: Collection[str]) -> None:
    names = {node.input[1] for node in model.graph.node if node.op_type == "Conv" and node.name in layers}
    for weight in model.graph.initializer:
        if weight.name in names:
            values = rounded_with_sums(numpy_helper.to_array(weight))
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def _reads_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The image's bytes are its 8-bit values already: no way through float and back."""
    casts = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast"}
    for node in list(model.graph.node):
        cast = casts.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if cast is None:
            continue
        for reader in model.graph.node:
            reader.input[:] = [cast.input[0] if name == node.output[0] else name for name in reader.input]
        model.graph.node.remove(node)
        if not any(cast.output[0] in other.input for other in model.graph.node):
            model.graph.node.remove(cast)
    return model


def answering_in_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The 8-bit extractor with `descriptors` as the bytes they are, BYTE_ZERO for zero; for `sample_descriptors`.

    They have no length before they are sampled, so their scale says nothing; a quarter of the memory is written and
    read. Where the last convolution stayed wider, the graph as it is.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    made = {name: node for node in copy.graph.node for name in node.output}
    last = made["descriptors"]
    widening = made.get(last.input[0])
    if last.op_type != "Transpose" or widening is None or widening.op_type != "DequantizeLinear":
        return model
    narrow, scale_name, zero_name = widening.input
    constants = {entry.name: entry for entry in copy.graph.initializer}
    scale = numpy_helper.to_array(constants[scale_name])
    zero = int(numpy_helper.to_array(constants[zero_name]))
    levels = max(zero, 255 - zero)  # on the longer side of zero; both sides get as many
    _set(constants[scale_name], np.asarray(scale * levels / (255 - BYTE_ZERO), np.float32))
    _set(constants[zero_name], np.asarray(BYTE_ZERO, np.uint8))
    last.input[0] = narrow
    copy.graph.node.remove(widening)
    [output] = [entry for entry in copy.graph.output if entry.name == "descriptors"]
    output.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    onnx.checker.check_model(copy)
    return copy


def _set(entry: onnx.TensorProto, value: NDArray[Any]) -> None:
    entry.CopyFrom(numpy_helper.from_array(value, entry.name))


def half_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its larger weights stored as half floats."""
    def coded(weight: onnx.TensorProto) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
        stored = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{weight.name}.half")
        return [stored], [_node("Cast", [stored.name], weight.name, to=onnx.TensorProto.FLOAT)]
    return _recoded(model, coded)


def four_bit_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its larger weights in 4 bits, -7 to 7 times a scale per output channel.

    Of a convolution's weight the first axis is the output, of a matrix the last.
    """
    return _recoded(model, _four_bits)


def _four_bits(weight: onnx.TensorProto) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    name, values = weight.name, numpy_helper.to_array(weight)
    levels, scale, _ = _levels(values, 7)
    levels = levels.ravel() + 8
    levels = np.append(levels, np.zeros(len(levels) % 2, np.int8)).astype(np.uint8)
    half = len(levels) // 2
    stored = {"packed": levels[:half] * 16 + levels[half:], "scale": scale.astype(np.float32),
              "sixteen": np.array(16, np.uint8), "eight": np.array(8, np.float32),
              "size": np.array([values.size], np.int64), "shape": np.array(values.shape, np.int64),
              "start": np.array([0], np.int64)}
    constants = [numpy_helper.from_array(np.asarray(value), f"{name}.{part}") for part, value in stored.items()]
    steps = [("Div", "first", ("packed", "sixteen"), {}), ("Mod", "second", ("packed", "sixteen"), {}),
             ("Concat", "both", ("first", "second"), {"axis": 0}),
             ("Slice", "levels", ("both", "start", "size"), {}),
             ("Cast", "float", ("levels",), {"to": onnx.TensorProto.FLOAT}),
             ("Reshape", "shaped", ("float", "shape"), {}), ("Sub", "centred", ("shaped", "eight"), {})]
    nodes = [_node(kind, [f"{name}.{part}" for part in inputs], f"{name}.{made}", **attributes)
             for kind, made, inputs, attributes in steps]
    return constants, [*nodes, _node("Mul", [f"{name}.centred", f"{name}.scale"], name)]


def byte_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its larger weights in 8 bits, -127 to 127 times a scale per output channel; it computes in float."""
    return _recoded(model, _bytes)


def _bytes(weight: onnx.TensorProto) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    name, values = weight.name, numpy_helper.to_array(weight)
    levels, scale, axis = _levels(values, BYTE_LEVELS)
    stored = {"bytes": levels, "scale": scale.ravel()}
    constants = [numpy_helper.from_array(value, f"{name}.{part}") for part, value in stored.items()]
    return constants, [_node("DequantizeLinear", [f"{name}.{part}" for part in stored], name, axis=axis)]


def _levels(values: NDArray[np.float32], most: int) -> tuple[NDArray[np.int8], NDArray[np.float32], int]:
    """Weights as whole numbers from -most to most, the scale of each output channel, and the axis of these: of a
    convolution's weight the first, of a matrix the last."""
    axis = 0 if values.ndim == 4 else values.ndim - 1
    scale = best_scale(values, axis, most)
    return np.clip(np.rint(values / scale), -most, most).astype(np.int8), scale, axis


def best_scale(values: NDArray[np.float32], axis: int, most: int) -> NDArray[np.float32]:
    """The scale of each slice along `axis`, of those that clip up to half its extreme, with the least squared error."""
    rest = tuple(other for other in range(values.ndim) if other != axis)
    extreme = np.maximum(np.abs(values).max(axis=rest, keepdims=True), 1e-12) / most
    best, least = extreme, np.full(extreme.shape, np.inf)
    for share in np.linspace(0.5, 1, 26):
        scale = share * extreme
        error = np.square(np.clip(np.rint(values / scale), -most, most) * scale - values).sum(rest, keepdims=True)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return best.astype(np.float32)


def _recoded(model: onnx.ModelProto, coded: Any) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    for weight in list(copy.graph.initializer):
        if weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) > 1 and np.prod(weight.dims) >= SMALLEST:
            constants, made = coded(weight)
            copy.graph.initializer.remove(weight)
            copy.graph.initializer.extend(constants)
            nodes += made
    nodes += copy.graph.node
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    onnx.checker.check_model(copy)
    return copy


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=f"{output}/{kind.lower()}", **attributes)
