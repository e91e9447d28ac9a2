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

from efficient_matcher.learn.locator import Locator
from efficient_matcher.learn.recipe import setting

CELL = 8
ENCODER = ("1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b")  # two layers at each of 1/1, 1/2, 1/4, 1/8
# At full resolution batch normalisation takes a third of a training step's time and is not missed.
FULL_RESOLUTION = ("1a", "1b")
OPTIONAL = ("2a", "2b", "3a")  # of a half stem: layers that can be left out


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
    direct_location: bool = False  # with a half stem, a location branch without a hidden layer (see DirectLocation)
    locator_widths: tuple[int, ...] = setting((), minimum=1)  # hidden layers of the locator; none leave it out
    locator_reach_px: int = setting(8, minimum=1)  # of the patch that it looks at, about its middle

    def __post_init__(self) -> None:
        if len(self.widths) != len(ENCODER):
            raise ValueError(f"SuperPoint needs {len(ENCODER)} encoder widths, got {len(self.widths)}")
        left_out = {name for name, width in zip(ENCODER, self.widths) if not width}
        if wrong := left_out - set(OPTIONAL if self.half_stem else ()):
            raise ValueError(f"encoder layer {min(wrong)} has no channels; only {', '.join(OPTIONAL)} of a half stem may "
                             "be left out")
        if self.direct_location and (self.location_width or not self.half_stem):
            raise ValueError("direct_location goes with a half stem, and in place of a location branch of some width")

    @property
    def encoder(self) -> dict[str, int]:
        """Width of each encoder layer there is: all of ENCODER, but for those of width 0."""
        return {name: width for name, width in zip(ENCODER, self.widths) if width}

    def scale(self, name: str) -> int:
        """Pixels a side of the image to one of the map that encoder layer `name` writes."""
        return 2 if self.half_stem and name[0] == "1" else 2 ** (int(name[0]) - 1)

    @property
    def scales(self) -> dict[int, str]:
        """The last encoder layer of each scale, finest first."""
        return {self.scale(name): name for name in self.encoder}

    @property
    def pooled(self) -> tuple[str, ...]:
        """Encoder layers whose input is the pooled output of the one before."""
        names = list(self.encoder)
        return tuple(name for before, name in zip(names, names[1:]) if self.scale(name) > self.scale(before))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and model cards."""
        return {**asdict(self), "widths": list(self.widths), "locator_widths": list(self.locator_widths)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SuperPointConfig:
        """Inverse of `to_dict`. Raises TypeError on an unknown field."""
        return cls(**{**values, "widths": tuple(values["widths"]),
                      "locator_widths": tuple(values.get("locator_widths", ()))})


class LocationBranch(nn.Module):
    """Adds where-in-the-cell evidence from the layers that still resolve pixels.

    Lateral 1x1 convolutions bring the maps at 1/2, 1/4 and 1/8 to half resolution, a 3x3
    convolution fuses them into the four pixels of each half-resolution site, and one 3x3
    convolution reads the full-resolution map directly, where there is one.
    """

    def __init__(self, config: SuperPointConfig) -> None:
        super().__init__()
        widths, width = {scale: config.encoder[name] for scale, name in config.scales.items()}, config.location_width
        self.lateral2 = nn.Conv2d(widths[2], width, 1)
        self.lateral4 = nn.Conv2d(widths[4], width, 1)
        self.lateral8 = nn.Conv2d(widths[8], width, 1)
        self.fuse = nn.Conv2d(width, 4, 3, padding=1)
        self.full = nn.Conv2d(widths[1], 1, 3, padding=1) if 1 in widths else None

    def forward(self, maps: dict[int, Tensor]) -> Tensor:
        """Maps by scale, at 1/2, 1/4, 1/8 and 1/1 where there is one -> location logits [B,64,H/8,W/8]."""
        coarse = F.interpolate(self.lateral8(maps[8]), scale_factor=2, mode="nearest") + self.lateral4(maps[4])
        half = F.relu(F.interpolate(coarse, scale_factor=2, mode="nearest") + self.lateral2(maps[2]))
        pixels = F.pixel_shuffle(self.fuse(half), 2)
        pixels = pixels if self.full is None else pixels + self.full(maps[1])
        return F.pixel_unshuffle(pixels, CELL)


class DirectLocation(nn.Module):
    """A location branch of half the cost: the evidence of the maps at 1/2 and 1/4 is added up as it is.

    A 3x3 convolution gives the four pixels of each half-resolution site, a 1x1 one the sixteen of each at 1/4. Without
    the hidden layer nothing of the context gates what is seen nearby; the softmax over the cell still multiplies them.
    """

    def __init__(self, config: SuperPointConfig) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(config.encoder[config.scales[2]], 4, 3, padding=1)
        self.coarse = nn.Conv2d(config.encoder[config.scales[4]], 16, 1)

    def forward(self, maps: dict[int, Tensor]) -> Tensor:
        """Maps by scale, at 1/2 and 1/4 -> location logits [B,64,H/8,W/8]."""
        pixels = F.pixel_shuffle(self.fuse(maps[2]), 2) + F.pixel_shuffle(self.coarse(maps[4]), 4)
        return F.pixel_unshuffle(pixels, CELL)


class SuperPoint(nn.Module):
    """Eight encoder convolutions, a 65-way detector head (8x8 + dustbin), a descriptor head.

    Some have a locator as well, which takes no part in `forward`: it places the keypoints that were chosen.
    """

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
        self.location: LocationBranch | DirectLocation | None = None
        if config.location_width or config.direct_location:
            self.location = (DirectLocation if config.direct_location else LocationBranch)(config)
        self.locator = Locator(config.locator_widths, config.locator_reach_px) if config.locator_widths else None

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
        maps = self._maps(image)
        logits = self.convPb(self._conv("Pa", maps[CELL]))
        if self.location is not None:
            located = logits[:, :-1] + self.location(maps)
            logits = torch.cat([located, logits[:, -1:]], dim=1)
        return logits, self.convDb(self._conv("Da", maps[CELL]))

    def _maps(self, image: Tensor) -> dict[int, Tensor]:
        """What the last encoder layer of each scale writes, by scale."""
        x, maps = image, {}
        for name in self.config.encoder:
            x = self._conv(name, F.max_pool2d(x, 2) if name in self.config.pooled else x)
            maps[self.config.scale(name)] = x
        return maps


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
