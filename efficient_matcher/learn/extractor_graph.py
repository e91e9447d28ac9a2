"""The deployed SuperPoint: image bytes in, keypoint probabilities and coarse descriptors out.

Equal to the trained network up to rounding, but laid out for a CPU:
- the 1/255 of the input and the batch norms are in the weights;
- runtimes compute convolutions in blocks of 8 or 16 channels, so the location branch's 3x3 convolutions
  to 1 channel at full and 4 at half resolution would waste most of their work; both become one strided
  convolution to the 16 pixels of a 4x4 block, and a 2x2 one gathers four blocks into a cell;
- the softmax runs over the last axis, in which a cell's 65 values are neighbours in memory.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import Tensor

from efficient_matcher.learn.onnx_graph import FLOAT, UINT8, Dims, Graph, fold_batch_norm
from efficient_matcher.learn.superpoint import CELL, ENCODER, DirectLocation, LocationBranch, SuperPoint

BLOCK = 4  # pixels a side of the strided location convolutions


def extractor_model(network: SuperPoint) -> onnx.ModelProto:
    """Graph with input `image` uint8 [1,1,H,W], outputs `scores` [1,H,W] and `descriptors` [1,H/8,W/8,D]."""
    graph = Graph("superpoint")
    x = graph.add("Cast", "image/float", "image", to=FLOAT)
    maps = {}
    for name in network.config.encoder:
        if name in network.config.pooled:
            x = graph.add("MaxPool", f"pool{name[0]}", x, kernel_shape=[2, 2], strides=[2, 2])
        x = maps[network.config.scale(name)] = _conv(graph, network, name, x)
    logits = graph.conv("convPb", _conv(graph, network, "Pa", x), network.convPb.weight, network.convPb.bias)
    if network.location is not None:
        logits = graph.add("Add", "location", logits, _located(graph, network.location, maps))
    _scores(graph, logits)
    coarse = graph.conv("convDb", _conv(graph, network, "Da", x), network.convDb.weight, network.convDb.bias)
    graph.add("Transpose", "descriptors", coarse, perm=[0, 2, 3, 1])
    return graph.model({"image": (UINT8, [1, 1, "H", "W"])}, outputs_of(network))


def outputs_of(network: SuperPoint) -> dict[str, tuple[int, Dims]]:
    """Element type and dims of the outputs, whatever the graph between."""
    return {"scores": (FLOAT, [1, "H", "W"]),
            "descriptors": (FLOAT, [1, "cells_y", "cells_x", network.config.descriptor_dim])}


def folded(network: SuperPoint, name: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of convolution `name` as deployed: batch norm, and the input's 1/255, folded in; float64."""
    layer = getattr(network, f"conv{name}")
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    norm = getattr(network, f"bn{name}", None)
    if norm is not None:
        weight, bias = fold_batch_norm(weight, bias, norm)
    return (weight / 255 if name == ENCODER[0] else weight), bias


def _conv(graph: Graph, network: SuperPoint, name: str, x: str) -> str:
    strided = {"strides": [2, 2], "pads": [2] * 4} if network.config.half_stem and name == ENCODER[0] else {}
    return graph.conv(f"conv{name}", x, *folded(network, name), relu=True, **strided)


def _scores(graph: Graph, logits: str) -> None:
    """Softmax over cell and dustbin, dustbin dropped, cells laid out again."""
    x = graph.add("Transpose", "scores/cells_last", logits, perm=[0, 2, 3, 1])
    scores_of_cells(graph, graph.add("Softmax", "scores/softmax", x, axis=-1))


def scores_of_cells(graph: Graph, x: str) -> None:
    """From probabilities of locations and dustbin [1,H/8,W/8,65] to the output `scores` [1,H,W]."""
    x = graph.add("Slice", "scores/drop_dustbin", x, graph.shape(0), graph.shape(CELL * CELL), graph.shape(3))
    x = graph.add("Reshape", "scores/cells", x, graph.shape(0, 0, 0, CELL, CELL))
    x = graph.add("Transpose", "scores/pixels", x, perm=[0, 1, 3, 2, 4])
    x = graph.add("Flatten", "scores/rows", x, axis=3)
    graph.add("Unsqueeze", "scores", x, graph.shape(0))


def _located(graph: Graph, branch: LocationBranch | DirectLocation, maps: dict[int, str]) -> str:
    """Location logits [1,65,H/8,W/8] (zero for the dustbin) from the maps by scale."""
    direct = isinstance(branch, DirectLocation)
    half = maps[2] if direct else _gated(graph, branch, maps)
    fuse_weights = block_convolution(branch.fuse.weight, branch.fuse.bias, 2)
    blocks = graph.conv("location/fuse", half, *fuse_weights, strides=[2, 2])
    if direct:
        coarse = graph.conv("location/coarse", maps[4], branch.coarse.weight, branch.coarse.bias)
        blocks = graph.add("Add", "location/blocks", coarse, blocks)
    elif branch.full is not None:
        full_weights = block_convolution(branch.full.weight, branch.full.bias, 1)
        full = graph.conv("location/full", maps[1], *full_weights, strides=[4, 4])
        blocks = graph.add("Add", "location/blocks", full, blocks)
    return graph.conv("location/cells", blocks, cells_of_blocks(), torch.zeros(CELL * CELL + 1), strides=[2, 2],
                      pads=[0] * 4)


def _gated(graph: Graph, branch: LocationBranch, maps: dict[int, str]) -> str:
    """The hidden layer of a location branch [1,C,H/2,W/2]."""
    def lateral(scale: int) -> str:
        layer = getattr(branch, f"lateral{scale}")
        return graph.conv(f"location/lateral{scale}", maps[scale], layer.weight, layer.bias)

    coarse = graph.add("Add", "location/add4", lateral(4), _doubled(graph, "location/up8", lateral(8)))
    half = graph.add("Add", "location/add2", lateral(2), _doubled(graph, "location/up4", coarse))
    return graph.add("Relu", "location/half", half)


def _doubled(graph: Graph, name: str, x: str) -> str:
    scales = graph.constant("double", np.array([1, 1, 2, 2], np.float32))
    return graph.add("Resize", name, x, "", scales, mode="nearest", nearest_mode="floor",
                     coordinate_transformation_mode="asymmetric")


def block_convolution(weight: Tensor, bias: Tensor, shuffle: int) -> tuple[Tensor, Tensor]:
    """A 3x3 convolution [s*s,in,3,3] followed by a pixel shuffle by s, as one strided convolution.

    Its outputs are the 16 pixels of a 4x4 block, row by row; stride 4 / s, padding 1.
    Returns weight [16,in,4/s+2,4/s+2] and bias [16].
    """
    steps = BLOCK // shuffle
    merged = weight.new_zeros(BLOCK, BLOCK, weight.shape[1], steps + 2, steps + 2)
    for row in range(BLOCK):
        for column in range(BLOCK):
            y, x = row // shuffle, column // shuffle
            merged[row, column, :, y:y + 3, x:x + 3] = weight[row % shuffle * shuffle + column % shuffle].detach()
    biases = bias.detach().view(shuffle, shuffle).repeat(steps, steps)
    return merged.flatten(0, 1), biases.flatten()


def cells_of_blocks() -> Tensor:
    """Weight [65,16,2,2] of the stride-2 convolution that lays 2x2 blocks of 4x4 pixels out as a cell of 8x8."""
    weight = torch.zeros(CELL * CELL + 1, BLOCK * BLOCK, 2, 2)
    for row in range(CELL):
        for column in range(CELL):
            inside = row % BLOCK * BLOCK + column % BLOCK
            weight[row * CELL + column, inside, row // BLOCK, column // BLOCK] = 1
    return weight
