"""The matcher's graph cut into the stages it ships as: a run may end early, and an image is encoded once.

The cuts are at the tokens, which keep their names whatever is done to the graph between them (quantised, say), so that
one whole graph is built, calibrated and held against its network. Each weight is in one file.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper

from efficient_matcher.core.bundle import ASSIGN_NAME, ENCODE_NAME, pair_name
from efficient_matcher.learn.onnx_graph import FLOAT, Dims

FEATURES = ("keypoints", "scores", "descriptors")
Names = Mapping[str, tuple[str, Dims]]  # tensor of the whole graph -> name and dims in the stage


def tokens_name(layer: int, image: int | str) -> str:
    """The tensor of the whole graph that holds an image's tokens [N,C] after a layer."""
    return f"gnn.{layer}/{image}/tokens"


def matcher_stages(model: onnx.ModelProto) -> dict[str, onnx.ModelProto]:
    """File name -> graph of each stage of a whole matcher, in the order they run.

    encode: an image's `keypoints` [N,2], `scores` [N], `descriptors` [N,D] -> `tokens` [N,D]. pair 1, 2 ..: `tokens0`
    [N,D], `tokens1` [M,D] -> `next0`, `next1`. assign: `tokens0`, `tokens1` -> `similarity` [N,M], `dustbin` [].
    Raises ValueError for a graph without the tensors of `tokens_name`.
    """
    made = {name for node in model.graph.node for name in node.output}
    pairs = sum(tokens_name(layer, 0) in made for layer in range(1, len(made), 2))
    if not pairs:
        raise ValueError(f"graph '{model.graph.name}' has no tokens to cut it at")
    dims = {entry.name: _dims(entry) for entry in (*model.graph.input, *model.graph.output)}
    width = dims["descriptors0"][1]
    features = {f"{name}0": (name, dims[f"{name}0"]) for name in FEATURES}
    stages = {ENCODE_NAME: _part(model, features, {tokens_name(0, 0): ("tokens", ["N", width])})}
    for pair in range(1, pairs + 1):
        # The first self attention needs one image alone, so it is in `encode`.
        before, after = max(0, 2 * pair - 3), 2 * pair - 1
        stages[pair_name(pair)] = _part(model, _both("tokens", before, width), _both("next", after, width))
    stages[ASSIGN_NAME] = _part(model, _both("tokens", 2 * pairs - 1, width),
                                {name: (name, dims[name]) for name in ("similarity", "dustbin")})
    return stages


def _both(name: str, layer: int, width: int | str) -> Names:
    return {tokens_name(layer, image): (f"{name}{image}", [rows, width]) for image, rows in (("0", "N"), ("1", "M"))}


def _dims(entry: onnx.ValueInfoProto) -> Dims:
    return [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim]


def _part(model: onnx.ModelProto, inputs: Names, outputs: Names) -> onnx.ModelProto:
    """The nodes between some tensors of a model, as a checked model with these tensors renamed."""
    new = {old: name for old, (name, _) in (*inputs.items(), *outputs.items())}
    nodes, needed = [], set(outputs)
    for node in reversed(model.graph.node):  # which are in the order they run
        if needed.intersection(node.output) - set(inputs):
            needed.update(node.input)
            nodes.insert(0, _renamed(node, new))
    constants = [value for value in model.graph.initializer if value.name in needed]
    described = [[helper.make_tensor_value_info(name, FLOAT, dims) for name, dims in entries.values()]
                 for entries in (inputs, outputs)]
    graph = helper.make_graph(nodes, model.graph.name, *described, constants)
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version,
                             producer_name=model.producer_name)
    onnx.checker.check_model(part, full_check=True)
    return part


def _renamed(node: onnx.NodeProto, new: Mapping[str, str]) -> onnx.NodeProto:
    node = onnx.NodeProto.FromString(node.SerializeToString())
    for names in (node.input, node.output):
        names[:] = [new.get(name, name) for name in names]
    return node
