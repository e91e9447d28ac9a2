"""SuperPoint: one encoder, a keypoint head and a descriptor head.

DeTone, Malisiewicz, Rabinovich, "SuperPoint: Self-Supervised Interest Point Detection and
Description", 2018. At its defaults the network is the published one, key names of the official
checkpoint included. Options beyond the publication (batch normalisation, the high-resolution
location branch) are off by default.

Conventions: images are [B,1,H,W] float32 in [0,1], H and W multiples of 8; a cell is 8x8 pixels;
location k of a cell is row k // 8, column k % 8.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficient_matcher.learn.recipe import setting

CELL = 8
ENCODER = ("1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b")  # two layers at each of 1/1, 1/2, 1/4, 1/8
# At full resolution batch normalisation takes a third of a training step's time and is not missed.
FULL_RESOLUTION = ("1a", "1b")


@dataclass(frozen=True)
class SuperPointConfig:
    """Sizes of a SuperPoint; the defaults are the published ones (1.3 M parameters)."""

    widths: tuple[int, ...] = (64, 64, 64, 64, 128, 128, 128, 128)
    detector_width: int = setting(256, minimum=1)
    descriptor_width: int = setting(256, minimum=1)
    descriptor_dim: int = setting(256, minimum=1)
    batch_norm: bool = False  # after all 3x3 convolutions but the two at full resolution (see FULL_RESOLUTION)
    location_width: int = 0  # channels of the high-resolution location branch; 0 leaves it out
    half_stem: bool = False  # 1a takes 6x6 pixels at a stride of 2 and nothing is pooled before 2a: no full-resolution map

    def __post_init__(self) -> None:
        if len(self.widths) != len(ENCODER):
            raise ValueError(f"SuperPoint needs {len(ENCODER)} encoder widths, got {len(self.widths)}")
        left_out = {name for name, width in zip(ENCODER, self.widths) if not width}
        if left_out - ({"2a"} if self.half_stem else set()):
            raise ValueError(f"encoder layer {min(left_out)} has no channels; only 2a of a half stem may be left out")

    @property
    def encoder(self) -> dict[str, int]:
        """Width of each encoder layer there is: all of ENCODER, but for a 2a of width 0."""
        return {name: width for name, width in zip(ENCODER, self.widths) if width}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and model cards."""
        return {**asdict(self), "widths": list(self.widths)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SuperPointConfig:
        """Inverse of `to_dict`. Raises TypeError on an unknown field."""
        return cls(**{**values, "widths": tuple(values["widths"])})


class LocationBranch(nn.Module):
    """Adds where-in-the-cell evidence from the layers that still resolve pixels.

    Lateral 1x1 convolutions bring the maps at 1/2, 1/4 and 1/8 to half resolution, a 3x3
    convolution fuses them into the four pixels of each half-resolution site, and one 3x3
    convolution reads the full-resolution map directly, where there is one.
    """

    def __init__(self, widths: tuple[int, ...], width: int, half_stem: bool = False) -> None:
        super().__init__()
        self.lateral2 = nn.Conv2d(widths[3], width, 1)
        self.lateral4 = nn.Conv2d(widths[5], width, 1)
        self.lateral8 = nn.Conv2d(widths[7], width, 1)
        self.fuse = nn.Conv2d(width, 4, 3, padding=1)
        self.full = None if half_stem else nn.Conv2d(widths[1], 1, 3, padding=1)

    def forward(self, x1: Tensor, x2: Tensor, x4: Tensor, x8: Tensor) -> Tensor:
        """Maps at 1/1, 1/2, 1/4, 1/8 -> location logits [B,64,H/8,W/8]."""
        coarse = F.interpolate(self.lateral8(x8), scale_factor=2, mode="nearest") + self.lateral4(x4)
        half = F.relu(F.interpolate(coarse, scale_factor=2, mode="nearest") + self.lateral2(x2))
        pixels = F.pixel_shuffle(self.fuse(half), 2)
        pixels = pixels if self.full is None else pixels + self.full(x1)
        return F.pixel_unshuffle(pixels, CELL)


class SuperPoint(nn.Module):
    """Eight encoder convolutions, a 65-way detector head (8x8 + dustbin), a descriptor head."""

    def __init__(self, config: SuperPointConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SuperPointConfig()
        previous = 1
        for name, width in config.encoder.items():
            self._add_conv(name, previous, width)
            previous = width
        self._add_conv("Pa", previous, config.detector_width)
        self.convPb = nn.Conv2d(config.detector_width, CELL * CELL + 1, 1)
        self._add_conv("Da", previous, config.descriptor_width)
        self.convDb = nn.Conv2d(config.descriptor_width, config.descriptor_dim, 1)
        self.location = None
        if config.location_width:
            self.location = LocationBranch(config.widths, config.location_width, config.half_stem)

    def _add_conv(self, name: str, inputs: int, outputs: int) -> None:
        strided = self.config.half_stem and name == "1a"
        convolution = nn.Conv2d(inputs, outputs, 6, 2, 2) if strided else nn.Conv2d(inputs, outputs, 3, padding=1)
        setattr(self, f"conv{name}", convolution)
        if self._normalised(name):
            setattr(self, f"bn{name}", nn.BatchNorm2d(outputs))

    def _normalised(self, name: str) -> bool:
        return self.config.batch_norm and (self.config.half_stem or name not in FULL_RESOLUTION)

    def _conv(self, name: str, x: Tensor) -> Tensor:
        x = getattr(self, f"conv{name}")(x)
        if self._normalised(name):
            x = getattr(self, f"bn{name}")(x)
        return F.relu(x)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Detector logits [B,65,H/8,W/8] and unnormalised descriptors [B,D,H/8,W/8]."""
        x1 = self._conv("1b", self._conv("1a", image))
        x2 = x1 if self.config.half_stem else F.max_pool2d(x1, 2)
        x2 = self._conv("2b", self._conv("2a", x2) if "2a" in self.config.encoder else x2)
        x4 = self._conv("3b", self._conv("3a", F.max_pool2d(x2, 2)))
        x8 = self._conv("4b", self._conv("4a", F.max_pool2d(x4, 2)))
        logits = self.convPb(self._conv("Pa", x8))
        if self.location is not None:
            located = logits[:, :-1] + self.location(x1, x2, x4, x8)
            logits = torch.cat([located, logits[:, -1:]], dim=1)
        return logits, self.convDb(self._conv("Da", x8))


def score_map(logits: Tensor) -> Tensor:
    """Detector logits [B,65,H/8,W/8] -> keypoint probability of every pixel [B,H,W].

    Softmax over the cell and its dustbin, dustbin dropped, cells laid out again (SuperPoint,
    section 3.2).
    """
    probabilities = logits.softmax(dim=1)[:, :-1]
    return F.pixel_shuffle(probabilities, CELL)[:, 0]


def sample_descriptors(coarse: Tensor, keypoints: Tensor) -> Tensor:
    """Unit descriptors [B,N,D] at keypoints [B,N,2] (x right, y down, pixels) of a coarse map.

    Bilinear between cell centres, which lie at 8 i + 3.5 pixels; clamped at the border.
    """
    height, width = coarse.shape[-2:]
    cells = (keypoints - (CELL - 1) / 2) / CELL
    size = cells.new_tensor([width, height])
    grid = (2 * cells + 1) / size - 1
    sampled = F.grid_sample(coarse, grid[:, None].to(coarse.dtype), mode="bilinear",
                            padding_mode="border", align_corners=False)
    return F.normalize(sampled[:, :, 0].transpose(1, 2), dim=-1)
