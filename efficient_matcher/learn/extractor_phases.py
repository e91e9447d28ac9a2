"""The deployed SuperPoint for the 8-bit kernels of onnxruntime: the same function, its pixels dealt out to channels.

Those kernels work channels last, keep 16 to 64 output channels in registers, and read the pixels under the kernel
through a table of pointers that they make anew for every convolution. So what is slow there is not the products but
many pixels of few channels:
- the first convolution takes runs of 4 pixels as channels, and the second writes a 2x2 block of pixels at once;
- channels last, 4 pixels of c channels and a pixel of 4 c channels are the same bytes, so reshapes cost nothing;
- over such a block the pooling is one over neighbouring groups of channels;
- a map doubled in size is, in blocks, the same weights four times over, and the location branch ends in cells at once.
Other runtimes, and 32 bits, are quicker with `extractor_model`.
"""

from __future__ import annotations

import numpy as np
import onnx
from torch import Tensor, nn

from efficient_matcher.learn.extractor_graph import folded, outputs_of, scores_of_cells
from efficient_matcher.learn.onnx_graph import FLOAT, UINT8, Graph
from efficient_matcher.learn.superpoint import CELL, DirectLocation, LocationBranch, SuperPoint

RUN = 4  # pixels of a row that the first convolution takes as channels
STEM_RUN = 8  # the same of the half stem
BLOCK = (2, 2)  # pixels whose channels the second writes side by side
Size = tuple[int, int]


def phased_extractor_model(network: SuperPoint) -> onnx.ModelProto:
    """As `extractor_model`: input `image`, outputs `scores` and `descriptors`, equal up to rounding."""
    graph = Graph("superpoint_phases")
    config = network.config
    x1, x = (_half_stem if config.half_stem else _first_layers)(graph, network)
    maps = {config.scale("1b"): x1}
    for name in list(config.encoder)[2:]:
        if name in config.pooled and name[0] != "2":  # before those, the first layers have pooled
            x = graph.add("MaxPool", f"pool{name[0]}", x, kernel_shape=[2, 2], strides=[2, 2])
        x = maps[config.scale(name)] = graph.conv(f"conv{name}", x, *folded(network, name), relu=True)
    _scores(graph, network, maps)
    x = graph.conv("convDa", x, *folded(network, "Da"), relu=True)
    x = graph.conv("convDb", x, network.convDb.weight, network.convDb.bias)
    graph.add("Transpose", "descriptors", x, perm=[0, 2, 3, 1])
    return graph.model({"image": (UINT8, [1, 1, "H", "W"])}, outputs_of(network))


def _first_layers(graph: Graph, network: SuperPoint) -> tuple[str, str]:
    """The map of convolution 1b, a 2x2 block of pixels side by side, [1,4 c,H/2,W/2]; and pooled, [1,c,H/2,W/2]."""
    x = _runs(graph, RUN)
    x = _grouped(graph, "conv1a", x, *folded(network, "1a"), inputs=(1, RUN), outputs=(1, RUN), relu=True)
    x = _regrouped(graph, "conv1a/pixels", x, network.config.widths[0])
    x1 = _grouped(graph, "conv1b", x, *folded(network, "1b"), outputs=BLOCK, relu=True)
    x = _regrouped(graph, "pool2/groups", x1, network.config.widths[1])
    return x1, graph.add("MaxPool", "pool2", x, kernel_shape=[1, 4], strides=[1, 4])


def _half_stem(graph: Graph, network: SuperPoint) -> tuple[str, str]:
    """The map of convolution 1b, twice: [1,c,H/2,W/2] at a stride of 2 already."""
    x = _runs(graph, STEM_RUN)
    weight, bias = folded(network, "1a")
    x = _grouped(graph, "conv1a", x, weight, bias, (1, STEM_RUN), (1, STEM_RUN // 2), relu=True, stride=2)
    x = _regrouped(graph, "conv1a/pixels", x, len(bias))
    x = graph.conv("conv1b", x, *folded(network, "1b"), relu=True)
    return x, x


def _runs(graph: Graph, length: int) -> str:
    """The image [1,length,H,W/length], runs of a row as channels."""
    x = graph.add("Squeeze", "image/rows", "image", graph.shape(1))
    x = graph.add("Reshape", "image/runs", x, graph.shape(0, 0, -1, length))
    x = graph.add("Transpose", "image/channels", x, perm=[0, 3, 1, 2])
    return graph.add("Cast", "image/float", x, to=FLOAT)


def _regrouped(graph: Graph, name: str, x: str, channels: int) -> str:
    """[1,k c,H,W] -> [1,c,H,k W]: the same bytes, channels last."""
    x = graph.add("Transpose", f"{name}/last", x, perm=[0, 2, 3, 1])
    x = graph.add("Reshape", f"{name}/apart", x, graph.shape(0, 0, -1, channels))
    return graph.add("Transpose", name, x, perm=[0, 3, 1, 2])


def _scores(graph: Graph, network: SuperPoint, maps: dict[int, str]) -> None:
    """Only what sets a location apart from the dustbin counts in the softmax: 64 channels, and zero for the dustbin."""
    weight, bias = network.convPb.weight.double(), network.convPb.bias.double()
    x = graph.conv("convPa", maps[CELL], *folded(network, "Pa"), relu=True)
    x = graph.conv("convPb", x, weight[:-1] - weight[-1:], bias[:-1] - bias[-1:])
    if network.location is not None:
        direct = isinstance(network.location, DirectLocation)
        for name, located in (_directly_located if direct else _located)(graph, network.location, maps).items():
            x = graph.add("Add", f"location/add_{name}", x, located)
    x = graph.add("Transpose", "scores/cells_last", x, perm=[0, 2, 3, 1])
    x = graph.add("Pad", "scores/dustbin", x, graph.shape(0, 0, 0, 0, 0, 0, 0, 1))
    scores_of_cells(graph, graph.add("Softmax", "scores/softmax", x, axis=-1))


def _located(graph: Graph, branch: LocationBranch, maps: dict[int, str]) -> dict[str, str]:
    """What the map at 1/1, if any, and those at 1/2 to 1/8 add to the location logits: each [1,64,H/8,W/8]."""
    up = graph.conv("location/lateral8", maps[8], *_repeated(branch.lateral8, 8))
    up = _doubled_rows(graph, "location/up8", up, 4 * len(branch.lateral8.bias))
    x = graph.conv("location/lateral4", maps[4], *_repeated(branch.lateral4, 4))
    x = graph.add("Add", "location/add4", x, up)
    x2 = _grouped(graph, "location/lateral2", maps[2], branch.lateral2.weight, branch.lateral2.bias, outputs=BLOCK)
    half = graph.add("Relu", "location/half", graph.add("Add", "location/add2", x, x2))
    order = _cell_order(CELL // 2)
    weight, bias = grouped_convolution(branch.fuse.weight, branch.fuse.bias, BLOCK, (CELL // 2, CELL // 2))
    located = {"fuse": graph.conv("location/fuse", half, weight[order], bias[order], strides=[2, 2], pads=[1] * 4)}
    if branch.full is not None:
        parts = branch.full.weight, branch.full.bias
        located["full"] = _grouped(graph, "location/full", maps[1], *parts, inputs=BLOCK, outputs=(CELL, CELL))
    return located


def _directly_located(graph: Graph, branch: DirectLocation, maps: dict[int, str]) -> dict[str, str]:
    """As `_located`, of a branch that adds up what the maps at 1/2 and 1/4 say."""
    located = {}
    for name, layer, scale in (("fuse", branch.fuse, 2), ("coarse", branch.coarse, 4)):
        sites = CELL // scale  # of a cell's side in that map
        weight, bias = grouped_convolution(layer.weight, layer.bias, outputs=(sites, sites))
        order, before = _cell_order(sites, scale), (layer.weight.shape[2] - 1) // 2
        after = weight.shape[2] - before - sites
        located[name] = graph.conv(f"location/{name}", maps[scale], weight[order], bias[order],
                                   strides=[sites, sites], pads=[before, before, after, after])
    return located


def _doubled_rows(graph: Graph, name: str, x: str, channels: int) -> str:
    """[1,2 c,H,W], two pixels of a row side by side -> [1,c,2 H,2 W], each row twice; whole rows are copied."""
    x = graph.add("Transpose", f"{name}/last", x, perm=[0, 2, 3, 1])
    x = graph.add("Flatten", f"{name}/rows", x, axis=2)
    x = graph.add("Unsqueeze", f"{name}/once", x, graph.shape(1))
    x = graph.add("Expand", f"{name}/twice", x, graph.shape(1, 2, 1))
    x = graph.add("Flatten", f"{name}/doubled", x, axis=2)
    x = graph.add("Reshape", f"{name}/apart", x, graph.shape(0, -1, channels))
    x = graph.add("Unsqueeze", f"{name}/batch", x, graph.shape(0))
    return graph.add("Transpose", name, x, perm=[0, 3, 1, 2])


def _grouped(graph: Graph, name: str, x: str, weight: Tensor, bias: Tensor, inputs: Size = (1, 1),
             outputs: Size = (1, 1), relu: bool = False, stride: int = 1) -> str:
    merged, biases = grouped_convolution(weight, bias, inputs, outputs, stride)
    strides = [stride * far // near for far, near in zip(outputs, inputs)]
    before = [_blocks_before(size, group) for size, group in zip(weight.shape[2:], inputs)]
    after = [size - pad - step for size, pad, step in zip(merged.shape[2:], before, strides)]
    return graph.conv(name, x, merged, biases, relu=relu, strides=strides, pads=[*before, *after])


def grouped_convolution(weight: Tensor, bias: Tensor, inputs: Size = (1, 1), outputs: Size = (1, 1),
                        stride: int = 1) -> tuple[Tensor, Tensor]:
    """A convolution [out,in,k,k], padded by (k - 1) // 2, between maps whose pixels are dealt out to channels.

    `inputs` and `outputs` are the pixels (rows, columns) of a block, whose channels lie side by side, pixel by pixel.
    Returns the weight [rows columns out, rows columns in, ..] and bias of the convolution from blocks to blocks.
    """
    kernel = weight.shape[2:]
    before = [_blocks_before(size, group) for size, group in zip(kernel, inputs)]
    pads = [(size - 1) // 2 for size in kernel]
    last = [((far - 1) * stride + size - 1 - pad) // near
            for far, near, size, pad in zip(outputs, inputs, kernel, pads)]
    sizes = [first + 1 + final for first, final in zip(before, last)]
    spread = weight.new_zeros(*outputs, *weight.shape[:2], sizes[0] * inputs[0], sizes[1] * inputs[1])
    reach = [first * near - pad for first, near, pad in zip(before, inputs, pads)]
    for y in range(outputs[0]):
        for x in range(outputs[1]):
            rows, columns = (slice(stride * at + start, stride * at + start + size)
                             for at, start, size in zip((y, x), reach, kernel))
            spread[y, x, :, :, rows, columns] = weight.detach()
    blocks = spread.unflatten(5, (sizes[1], inputs[1])).unflatten(4, (sizes[0], inputs[0]))
    merged = blocks.permute(0, 1, 2, 5, 7, 3, 4, 6).flatten(3, 5).flatten(0, 2)
    return merged, bias.detach().repeat(outputs[0] * outputs[1])


def _blocks_before(kernel: int, group: int) -> int:
    return -(-((kernel - 1) // 2) // group)


def _repeated(layer: nn.Conv2d, times: int) -> tuple[Tensor, Tensor]:
    """A 1x1 convolution that gives several pixels side by side the same."""
    return layer.weight.repeat(times, 1, 1, 1), layer.bias.repeat(times)


def _cell_order(blocks: int, side: int = 2) -> list[int]:
    """For each pixel of a cell, row by row, its channel after blocks of `side` x `side` sub-pixels, block by block."""
    order = np.arange((side * blocks) ** 2).reshape(blocks, blocks, side, side)
    return order.transpose(0, 2, 1, 3).ravel().tolist()
