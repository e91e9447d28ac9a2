"""Finetuning a SuperPoint under the rounding of its 8-bit (or coarser) deployment, where calibration is not enough.

The network is folded first, so that what is trained is what will be rounded. Weights are rounded per output channel,
outputs of convolutions within their calibrated range, each time they are used; gradients pass through the rounding,
and stop where a value was cut off. What comes out is an ordinary float network, to be calibrated and quantized again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from efficient_matcher.config import InputConfig
from efficient_matcher.core.image import to_frame
from efficient_matcher.learn.calibrate import LEVELS, Range
from efficient_matcher.learn.extractor_phases import phased_extractor_model
from efficient_matcher.learn.fold import folded
from efficient_matcher.learn.qdq import WEIGHT_LEVELS, rounded_with_sums
from efficient_matcher.learn.quantize import calibrated_ranges
from efficient_matcher.learn.superpoint import SuperPoint

CALIBRATION_IMAGES = 12
SIZE = InputConfig(width=640, height=480)


class RoundedWeight(nn.Module):
    """A weight [out,..] on the grid of -most to most times a scale per output channel."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.most = WEIGHT_LEVELS if bits == 8 else 2 ** (bits - 1) - 1

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as deployed; its gradient is that of the given one."""
        found = torch.from_numpy(rounded_with_sums(weight.detach().cpu().numpy(), self.most)).to(weight.device)
        return weight + (found - weight).detach()


class RoundedDetector(RoundedWeight):
    """The same for the detector's logits, of which the 8-bit graph holds how far they are from the dustbin's."""

    def forward(self, weight: Tensor) -> Tensor:
        """The weight [65,..] with zeros for the dustbin."""
        return torch.cat([super().forward(weight[:-1] - weight[-1:]), torch.zeros_like(weight[-1:])])


class RoundedOutput:
    """A forward hook: outputs to 256 levels of a range, which for layers before a ReLU begins at zero."""

    def __init__(self, low: float, high: float) -> None:
        self.step = max(high - low, 1e-12) / (LEVELS - 1)
        self.zero = int(np.clip(round(-low / self.step), 0, LEVELS - 1))

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(output.float(), self.step, self.zero, 0, LEVELS - 1)


class RoundedLogits(RoundedOutput):
    """The same for the detector's logits less the dustbin's."""

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        located = super().__call__(layer, inputs, output[:, :-1] - output[:, -1:])
        return torch.cat([located, torch.zeros_like(output[:, -1:])], dim=1)


def as_deployed(network: SuperPoint, images: Sequence[NDArray[np.uint8]], bits: int = 8) -> SuperPoint:
    """A folded copy that computes as its quantized graph will, calibrated on some of the images [H,W].

    Raises MatcherError when none of them shows anything.
    """
    chosen = [images[index] for index in np.linspace(0, len(images) - 1, CALIBRATION_IMAGES).astype(int)]
    frames = [to_frame(image, SIZE).image for image in chosen]
    return rounded(network, calibrated_ranges(phased_extractor_model(network.eval()), frames), bits)


def rounded(network: SuperPoint, ranges: Mapping[str, Range], bits: int = 8, wider: Sequence[str] = ()) -> SuperPoint:
    """A folded copy of `network` that computes as its quantized graph will.

    ranges: as `quantize` found them for the graph laid out in phases. bits: of the weights. wider: layers to leave.
    """
    network = folded(network)
    for name, layer in _layers(network).items():
        if name in wider:
            continue
        rounding = (RoundedDetector if name == "convPb" else RoundedWeight)(bits)
        parametrize.register_parametrization(layer, "weight", rounding)
        low, high = ranges.get(f"{name}/relu", ranges.get(name, (0.0, 0.0)))
        if high > low:
            layer.register_forward_hook((RoundedLogits if name == "convPb" else RoundedOutput)(low, high))
    return network


def unrounded(network: SuperPoint) -> SuperPoint:
    """The float network that `rounded` made, or training made of it, ready to be saved."""
    marks = ".parametrizations.weight.original"
    plain = SuperPoint(network.config)
    plain.load_state_dict({name.replace(marks, ".weight"): value for name, value in network.state_dict().items()})
    return plain.eval()


def _layers(network: SuperPoint) -> dict[str, nn.Conv2d]:
    """Convolutions by their names in the graph."""
    return {name.replace(".", "/"): layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
