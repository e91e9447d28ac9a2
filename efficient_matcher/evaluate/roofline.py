"""Operations and bytes of a network, from its ONNX graph: what a machine has to do, whatever it takes for it.

An operation is a multiplication or an addition. Bytes are those of a run in which every node reads its inputs and
weights once and writes its output once, except that what runtimes do in passing (activations, quantising, moving
axes) costs nothing. Needs onnx, which the extra `train` brings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core.backend import example_inputs
from efficient_matcher.core.compressed import model_content
from efficient_matcher.core.runtimes import input_spec
from efficient_matcher.errors import BundleError

Shape = tuple[int, ...]

# One operation for each element of the output, and fused into the node before by every runtime.
IN_PASSING = {"Relu", "Add", "Mul", "Sub", "Div", "Clip", "Cast", "QuantizeLinear", "DequantizeLinear", "Identity",
              "Sigmoid", "Neg", "Sqrt", "Erf", "Tanh", "LeakyRelu", "PRelu", "HardSwish", "Gelu", "BatchNormalization"}
FREE = {"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Constant", "Shape", "Gather", "Split", "Slice"}
PER_ELEMENT = {"Softmax": 5, "LayerNormalization": 8, "InstanceNormalization": 8, "Resize": 7, "ReduceMax": 1,
               "ReduceSum": 1, "ReduceMean": 1, "Exp": 1, "Log": 1, "AveragePool": 1}


@dataclass(frozen=True)
class Cost:
    """What one node, or a sum of nodes, has to do. int8: whether its products are of 8 bits."""

    name: str
    kind: str
    operations: int
    bytes: int
    int8: bool = False

    def least_ms(self, machine: Machine) -> float:
        """Milliseconds on a machine that reaches its peak throughout: bound by arithmetic, or by memory."""
        peak = machine.int8_gops if self.int8 else machine.float_gops
        return 1e3 * max(self.operations / (1e9 * peak), self.bytes / (1e9 * machine.memory_gbs))


@dataclass(frozen=True)
class Machine:
    """Measured peaks: 10^9 operations a second of float32 and of int8 matrix products, 10^9 bytes a second."""

    float_gops: float
    int8_gops: float
    memory_gbs: float


def network_costs(path: Path, free: Sequence[int]) -> list[Cost]:
    """The nodes of a model, in order; `free`: sizes of the free sides of its inputs, in order, over and over.

    The model is run once, on one image or set of keypoints like those the networks get, which gives all shapes.
    Raises BundleError naming the file when it cannot be read or run, or sizes are missing.
    """
    import onnx
    try:
        content = model_content(path)
        model = onnx.load_from_string(content) if isinstance(content, bytes) else onnx.load(content)
        values = _all_values(model, free)
    except BundleError:
        raise
    except Exception as error:  # noqa: BLE001 - of onnx, protobuf and onnxruntime, which share no base
        raise BundleError(f"{path}: cannot be analysed: {' '.join(str(error).split())[:200]}") from None
    tensors = _Tensors(model.graph, values)
    return [_cost(node, tensors) for node in model.graph.node]


def total(name: str, costs: Iterable[Cost]) -> Cost:
    """The sum of all; int8 where most operations are."""
    costs = list(costs)
    operations = sum(cost.operations for cost in costs)
    int8 = sum(cost.operations for cost in costs if cost.int8)
    return Cost(name, "", operations, sum(cost.bytes for cost in costs), 2 * int8 > operations)


def by_kind(costs: Iterable[Cost]) -> dict[str, Cost]:
    """Sums over nodes of the same kind, the costliest first."""
    groups: dict[str, list[Cost]] = {}
    for cost in costs:
        groups.setdefault(cost.kind, []).append(cost)
    sums = {kind: total(kind, group) for kind, group in groups.items()}
    return dict(sorted(sums.items(), key=lambda entry: -entry[1].operations))


class _Tensors:
    """Shapes and sizes in bytes of a graph's tensors; what a DequantizeLinear gives is kept as the integers it had."""

    def __init__(self, graph: Any, values: Mapping[str, NDArray[Any]]) -> None:
        from onnx import numpy_helper
        arrays = {**{weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}, **values}
        self._shapes = {name: value.shape for name, value in arrays.items()}
        self._widths = {name: value.dtype.itemsize for name, value in arrays.items()}
        self._integers: set[str] = set()
        for node in graph.node:
            if node.op_type == "DequantizeLinear" and self._widths[node.input[0]] == 1:
                self._widths[node.output[0]] = 1
                self._integers.add(node.output[0])

    def shape(self, name: str) -> Shape:
        return self._shapes[name]

    def bytes(self, names: Iterable[str]) -> int:
        return sum(int(np.prod(self._shapes[name])) * self._widths[name] for name in names if name)

    def are_integers(self, names: Iterable[str]) -> bool:
        return all(name in self._integers for name in names)


def _all_values(model: Any, free: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Every tensor of one run: the surest way to every shape, whatever the operators."""
    import onnx
    import onnxruntime
    reference = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = example_inputs([input_spec(entry) for entry in reference.get_inputs()], free)
    if inputs is None:
        raise ValueError("the sizes of its inputs are missing")
    names = [name for node in model.graph.node for name in node.output if name]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {**inputs, **dict(zip(names, session.run(names, inputs)))}


def _cost(node: Any, tensors: _Tensors) -> Cost:
    name, kind = node.name or node.output[0], node.op_type
    if kind in FREE:
        return Cost(name, kind, 0, 0)
    elements = sum(int(np.prod(tensors.shape(output))) for output in node.output if output)
    if kind in IN_PASSING:
        return Cost(name, kind, 0 if kind in ("Cast", "Identity") else elements, 0)
    counted = _COUNTED.get(kind)
    operations = counted(node, tensors, elements) if counted else PER_ELEMENT.get(kind, 0) * elements
    integers = tensors.are_integers(node.input[:2]) if counted else False
    integers |= kind in ("QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger")
    return Cost(name, kind, operations, tensors.bytes((*node.input, *node.output)), integers)


def _conv(node: Any, tensors: _Tensors, elements: int) -> int:
    weight = 3 if node.op_type == "QLinearConv" else 1
    return 2 * elements * int(np.prod(tensors.shape(node.input[weight])[1:]))


def _transposed(node: Any, tensors: _Tensors, elements: int) -> int:
    return 2 * int(np.prod(tensors.shape(node.input[0]))) * int(np.prod(tensors.shape(node.input[1])[1:]))


def _matmul(node: Any, tensors: _Tensors, elements: int) -> int:
    return 2 * elements * tensors.shape(node.input[0])[-1]


def _gemm(node: Any, tensors: _Tensors, elements: int) -> int:
    turned = any(entry.name == "transA" and entry.i for entry in node.attribute)
    return 2 * elements * tensors.shape(node.input[0])[0 if turned else 1]


def _pool(node: Any, tensors: _Tensors, elements: int) -> int:
    kernel = next((entry.ints for entry in node.attribute if entry.name == "kernel_shape"), (1,))
    return elements * int(np.prod(kernel))


_COUNTED: Mapping[str, Callable[[Any, _Tensors, int], int]] = {
    "Conv": _conv, "QLinearConv": _conv, "ConvInteger": _conv, "ConvTranspose": _transposed, "MatMul": _matmul,
    "QLinearMatMul": _matmul, "MatMulInteger": _matmul, "FusedMatMul": _matmul, "Gemm": _gemm, "MaxPool": _pool}
