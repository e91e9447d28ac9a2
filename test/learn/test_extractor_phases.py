"""The graph for integer kernels equals the network, and a convolution between dealt-out pixels the plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from efficient_matcher.learn.export import extractor_parity  # noqa: E402
from efficient_matcher.learn.extractor_phases import Size, grouped_convolution, phased_extractor_model  # noqa: E402
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig  # noqa: E402

Trained = Callable[[Any], Any]
SIZES = ((48, 64), (40, 88))


@pytest.mark.parametrize("config", [
    SuperPointConfig((4, 5, 6, 7, 8, 9, 10, 11), 8, 9, 16, batch_norm=True, location_width=3),
    SuperPointConfig((4, 5, 6, 7, 8, 9, 10, 11), 8, 9, 16, batch_norm=True, location_width=3, half_stem=True),
    SuperPointConfig((4, 5, 0, 7, 8, 9, 10, 11), 8, 9, 16, batch_norm=True, location_width=3, half_stem=True),
    SuperPointConfig((4, 5, 0, 0, 0, 9, 10, 11), 8, 9, 16, batch_norm=True, location_width=3, half_stem=True),
    SuperPointConfig((4, 5, 6, 7, 8, 9, 10, 11), 8, 9, 16, batch_norm=True, half_stem=True, direct_location=True),
    SuperPointConfig((4, 5, 0, 0, 0, 9, 10, 11), 8, 9, 16, batch_norm=True, half_stem=True, direct_location=True),
    SuperPointConfig((4,) * 8, 8, 8, 16)])
def test_phased_graph_equals_its_network(trained: Trained, config: SuperPointConfig) -> None:
    network = trained(SuperPoint(config))
    assert max(extractor_parity(phased_extractor_model(network), network, SIZES).values()) < 1e-5


def dealt(x: Tensor, block: Size) -> Tensor:
    """[1,C,H,W] -> [1,rows columns C,H/rows,W/columns], pixel by pixel of a block."""
    split = x.unflatten(3, (-1, block[1])).unflatten(2, (-1, block[0]))  # [1,C,h,rows,w,columns]
    return split.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


@pytest.mark.parametrize(("kernel", "inputs", "outputs", "stride"), [
    (3, (1, 4), (1, 4), 1), (3, (1, 1), (2, 2), 1), (3, (2, 2), (8, 8), 1), (1, (1, 1), (2, 2), 1),
    (5, (2, 2), (2, 4), 1), (6, (1, 8), (1, 4), 2)])
def test_grouped_convolution_equals_the_plain_one(kernel: int, inputs: Size, outputs: Size, stride: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, kernel, stride, padding=(kernel - 1) // 2).double()
    x = torch.randn(1, 2, 16, 24).double()
    weight, bias = grouped_convolution(conv.weight, conv.bias, inputs, outputs, stride)
    before = [-(-((kernel - 1) // 2) // size) for size in inputs]
    strides = [stride * far // near for far, near in zip(outputs, inputs)]
    after = [size - pad - step for size, pad, step in zip(weight.shape[2:], before, strides)]
    padded = F.pad(dealt(x, inputs), (before[1], after[1], before[0], after[0]))
    torch.testing.assert_close(F.conv2d(padded, weight, bias, stride=strides), dealt(conv(x), outputs))
