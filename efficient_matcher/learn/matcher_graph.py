"""The deployed SuperGlue: two images' features in, similarities and dustbin score out.

Equal to the trained network up to rounding, with less to compute:
- tokens [N,C] without a batch, heads contiguous: the interleaved channels are sorted in the weights;
- 1/sqrt(d) of the attention is in the query, 1/sqrt(D) of the similarity in the final projection;
- of an image's tokens only the first `keys` become keys and values, where the network says so;
- a key's bias adds the same to all scores of a query, which the softmax ignores, and a value's bias
  comes out of the attention unchanged: neither is computed;
- the attention's merge is linear into a linear layer, so that layer takes it over, as it does the batch norm.
"""

from __future__ import annotations

import math

import onnx
import torch
from torch import Tensor, nn

from efficient_matcher.learn.onnx_graph import FLOAT, Graph, fold_batch_norm
from efficient_matcher.learn.superglue import AttentionalPropagation, MultiHeadedAttention, SuperGlue, TokenLinear


def matcher_model(network: SuperGlue) -> onnx.ModelProto:
    """Graph with inputs `keypoints0` [N,2], `scores0` [N], `descriptors0` [N,D] and the same for 1 with M.

    Outputs `similarity` [N,M] and `dustbin` [].
    """
    graph, dim = Graph("superglue"), network.config.descriptor_dim
    x0, x1 = (_encoded(graph, network, image) for image in "01")
    for index, layer in enumerate(network.gnn.layers):
        sources = (x1, x0) if index % 2 else (x0, x1)
        parts = _Propagation(index, layer)
        deltas = [parts.add(graph, image, x, source) for image, x, source in zip("01", (x0, x1), sources)]
        x0, x1 = (graph.add("Add", f"gnn.{index}/{image}/tokens", x, delta)
                  for image, x, delta in zip("01", (x0, x1), deltas))
    projected0, projected1 = (_projected(graph, network, image, x) for image, x in zip("01", (x0, x1)))
    graph.add("MatMul", "similarity", projected0, graph.add("Transpose", "final/1/columns", projected1, perm=[1, 0]))
    graph.add("Identity", "dustbin", graph.constant("bin_score", network.bin_score))
    inputs = {f"{name}{image}": (FLOAT, [count, *rest]) for image, count in (("0", "N"), ("1", "M"))
              for name, rest in (("keypoints", [2]), ("scores", []), ("descriptors", [dim]))}
    return graph.model(inputs, {"similarity": (FLOAT, ["N", "M"]), "dustbin": (FLOAT, [])})


def _encoded(graph: Graph, network: SuperGlue, image: str) -> str:
    """Descriptors plus encoded positions [N,D]."""
    scores = graph.add("Unsqueeze", f"kenc/{image}/scores", f"scores{image}", graph.shape(1))
    x = graph.add("Concat", f"kenc/{image}/inputs", f"keypoints{image}", scores, axis=1)
    layers = list(network.kenc.encoder)
    for index, layer in enumerate(layers):
        if not isinstance(layer, TokenLinear):
            continue
        weight, bias = _matrix(layer)
        last = index == len(layers) - 1
        if not last:
            weight, bias = fold_batch_norm(weight, bias, layers[index + 1])
        name = f"kenc/{image}/linear{index}"
        x = graph.linear(name, x, weight, bias, f"kenc.{index}")
        x = x if last else graph.add("Relu", f"{name}/relu", x)
    return graph.add("Add", f"kenc/{image}/tokens", f"descriptors{image}", x)


class _Propagation:
    """The weights of one layer as the graph uses them, shared by the two images."""

    def __init__(self, index: int, layer: AttentionalPropagation) -> None:
        self.index = index
        self.heads, self.keys = layer.attn.heads, layer.attn.keys
        self.query, self.key, self.value, merge, merge_bias = sorted_heads(layer.attn)
        weight, bias = _matrix(layer.mlp[0])
        own, message = weight.split([weight.shape[1] - len(merge), len(merge)], dim=1)
        weight = torch.cat([own, message @ merge], dim=1)
        self.hidden = fold_batch_norm(weight, bias + message @ merge_bias, layer.mlp[1])
        self.output = _matrix(layer.mlp[3])

    def add(self, graph: Graph, image: str, x: str, source: str) -> str:
        """Nodes for what this layer adds to the tokens `x` of an image."""
        weights, name = f"gnn.{self.index}", f"gnn.{self.index}/{image}"
        query = graph.linear(f"{name}/query", x, *self.query, f"{weights}.query")
        query = self._per_head(graph, f"{name}/query", query)
        if self.keys:
            source = graph.add("Slice", f"{name}/source", source, graph.shape(0), graph.shape(self.keys),
                               graph.shape(0))
        key = graph.linear(f"{name}/key", source, self.key, None, f"{weights}.key")
        key = self._per_head(graph, f"{name}/key", key, columns=True)
        value = graph.linear(f"{name}/value", source, self.value, None, f"{weights}.value")
        value = self._per_head(graph, f"{name}/value", value)
        attention = graph.add("MatMul", f"{name}/attention", query, key)
        attention = graph.add("Softmax", f"{name}/softmax", attention, axis=-1)
        message = graph.add("MatMul", f"{name}/message", attention, value)
        message = graph.add("Transpose", f"{name}/message/tokens", message, perm=[1, 0, 2])
        message = graph.add("Reshape", f"{name}/message/flat", message, graph.shape(0, -1))
        both = graph.add("Concat", f"{name}/both", x, message, axis=1)
        hidden = graph.linear(f"{name}/hidden", both, *self.hidden, f"{weights}.hidden")
        hidden = graph.add("Relu", f"{name}/hidden/relu", hidden)
        return graph.linear(f"{name}/output", hidden, *self.output, f"{weights}.output")

    def _per_head(self, graph: Graph, name: str, x: str, columns: bool = False) -> str:
        """[N,C] -> [heads,N,d], or [heads,d,N] for `columns`."""
        x = graph.add("Reshape", f"{name}/split", x, graph.shape(0, self.heads, -1))
        return graph.add("Transpose", f"{name}/heads", x, perm=[1, 2, 0] if columns else [1, 0, 2])


def sorted_heads(attention: MultiHeadedAttention) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor, Tensor]:
    """(query weight, bias), key weight, value weight [C,C], merge weight [C,C] and bias [C], in float64.

    Channels are sorted from d * heads + h to h * depth + d; scale and biases moved as the module's head says.
    """
    inner = attention.proj[0].bias.numel()  # less than the tokens' width where heads were pruned
    depth = inner // attention.heads
    order = torch.arange(inner).view(depth, attention.heads).t().flatten()
    (query, query_bias), (key, _), (value, value_bias) = (_matrix(layer) for layer in attention.proj)
    scale = 1 / math.sqrt(depth)
    if attention.merge is None:  # folded: the layer that follows reads the heads as they lie here
        return ((query[order] * scale, query_bias[order] * scale), key[order], value[order],
                torch.eye(inner, dtype=torch.float64), value_bias[order])
    merge, merge_bias = _matrix(attention.merge)
    return ((query[order] * scale, query_bias[order] * scale), key[order], value[order], merge[:, order],
            merge_bias + merge @ value_bias)


def _projected(graph: Graph, network: SuperGlue, image: str, x: str) -> str:
    weight, bias = _matrix(network.final_proj)
    scale = network.config.descriptor_dim ** -0.25  # on both sides: 1/sqrt(D) of the product
    return graph.linear(f"final/{image}", x, weight * scale, bias * scale, "final")


def _matrix(layer: nn.Module) -> tuple[Tensor, Tensor]:
    return layer.weight.detach()[:, :, 0].double(), layer.bias.detach().double()
