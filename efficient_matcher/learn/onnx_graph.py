"""Writes ONNX graphs node by node.

The deployed networks are not the trained ones operation by operation: batch norms are folded, channels
sorted, layouts chosen for the runtime. Writing the nodes ourselves keeps all of that visible and every
node named, and does not depend on what an exporter makes of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

OPSET = 17  # with IR 8: what onnxruntime reads from 1.13 on
IR_VERSION = 8
Dims = list[int | str]


class Graph:
    """Nodes and constants of one model; every step returns the name of its output."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: Tensor | NDArray[Any]) -> str:
        """A constant; one of the same name is taken to be the same. Floating point becomes float32."""
        if name not in self._constants:
            array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
            if array.dtype.kind == "f":
                array = np.asarray(array.astype(np.float32) + np.float32(0))  # pruning leaves -0.0, which codes worse
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def add(self, kind: str, name: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append a node of operator `kind`; its output is called `output`, or else as the node."""
        output = output or name
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output

    def conv(self, name: str, x: str, weight: Tensor, bias: Tensor, relu: bool = False, **attributes: Any) -> str:
        """Convolution with weight [out,in,k,k]; padding 1 unless `pads` says otherwise for k > 1."""
        attributes.setdefault("pads", [1 if weight.shape[-1] > 1 else 0] * 4)
        parts = self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)
        x = self.add("Conv", name, x, *parts, kernel_shape=list(weight.shape[2:]), **attributes)
        return self.add("Relu", f"{name}/relu", x) if relu else x

    def linear(self, name: str, x: str, weight: Tensor, bias: Tensor | None, constants: str = "") -> str:
        """Tokens [N,in] by weight [out,in] -> [N,out]; `constants` names the weights where nodes share them."""
        constants = constants or name
        if bias is None:
            return self.add("MatMul", name, x, self.constant(f"{constants}.weight", weight.t()))
        parts = self.constant(f"{constants}.weight", weight.t()), self.constant(f"{constants}.bias", bias)
        return self.add("Gemm", name, x, *parts)

    def shape(self, *dims: int) -> str:
        """A constant for Reshape and the like, shared by all nodes that need the same."""
        return self.constant("dims_" + "_".join(str(dim).replace("-", "m") for dim in dims), np.array(dims, np.int64))

    def model(self, inputs: dict[str, tuple[int, Dims]], outputs: dict[str, tuple[int, Dims]]) -> onnx.ModelProto:
        """The checked model; inputs and outputs give element type (TensorProto) and dims by name."""
        described = [[helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in entries.items()]
                     for entries in (inputs, outputs)]
        graph = helper.make_graph(self._nodes, self.name, *described, list(self._constants.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
                                  producer_name="efficient_matcher")
        onnx.checker.check_model(model, full_check=True)
        return model


FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8


def fold_batch_norm(weight: Tensor, bias: Tensor, norm: _BatchNorm | nn.Identity) -> tuple[Tensor, Tensor]:
    """Weight [out,...] and bias [out] of the layer that equals layer and batch norm together, in float64."""
    if isinstance(norm, nn.Identity):
        return weight.double(), bias.double()
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    folded = weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))
    return folded, (bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
