"""Training images and warped pairs of them.

Every batch is a function of (seed, step) alone, so a resumed run sees what an unbroken one sees.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efficient_matcher.errors import SourceError
from efficient_matcher.learn.augment import AugmentConfig, augment
from efficient_matcher.learn.homographies import TRAINING, HomographyRange, squeezed_homography, warp
from efficient_matcher.learn.pair_motion import PairMotion
from efficient_matcher.learn.recipe import setting
from efficient_matcher.learn.superpoint import CELL
from efficient_matcher.learn.tiles import random_part, tiled_view
from efficient_matcher.sources.image_sets import read_images

MINIMUM_SIDE_PX = 64


@dataclass(frozen=True)
class ImageSet:
    """Grey images; `skipped` names what could not be used, with the reason."""

    names: Sequence[str]
    images: Sequence[NDArray[np.uint8]]
    skipped: dict[str, str]

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def checksums(self) -> list[int]:
        """Of each image, CRC-32: those of two bags have the same names. None of images that are drawn when asked for,
        as those are what their names say."""
        kept = self.images if isinstance(self.images, list) else []
        return [zlib.crc32(np.ascontiguousarray(image)) for image in kept]

    @cached_property
    def key(self) -> str:
        """Of which images these are: SHA-256 of names and checksums."""
        return key_of([list(self.names), self.checksums])


def check_cells(width: int, height: int) -> None:
    """Raise ValueError for a size of views that a network would not see whole."""
    if width % CELL or height % CELL:
        raise ValueError(f"width and height must be multiples of {CELL}, got {width} and {height}")


def key_of(parts: list[Any]) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def load_images(source: Path, limit: int | None = None, topic: str | None = None) -> ImageSet:
    """The images of a folder, a tar file or a bag, as grey; `limit` and `topic` as in `image_sets.read_images`.

    Unreadable and tiny ones are skipped. Raises SourceError when none is left, or the source cannot be read.
    """
    names, images, skipped = [], [], {}
    for name, image in read_images(source, topic, limit):
        if image is None:
            skipped[name] = "unreadable"
        elif min(image.shape) < MINIMUM_SIDE_PX:
            skipped[name] = f"smaller than {MINIMUM_SIDE_PX} px"
        else:
            names.append(name)
            images.append(image)
    if not images:
        raise SourceError(f"{source}: no usable image ({len(skipped)} skipped)")
    return ImageSet(names, images, skipped)


@dataclass(frozen=True)
class PairConfig:
    """Size and kind of the training pairs."""

    width: int = setting(256, minimum=MINIMUM_SIDE_PX)
    height: int = setting(192, minimum=MINIMUM_SIDE_PX)
    pairs: int = setting(4, minimum=1)  # per step and process
    labels_per_view: int = setting(160, minimum=1)
    # Of the crops, how many keep the image's proportions, as the benchmark does; of the views, how many are put
    # together from four shrunken images (tiles.py); of the warps, how many must have found a label point.
    own_proportions: float = setting(0.5, minimum=0.0, maximum=1.0)
    tiled: float = setting(0.0, minimum=0.0, maximum=1.0)
    minimum_share: float = setting(0.4, minimum=0.0, maximum=1.0)
    warp: HomographyRange = TRAINING
    photometric: AugmentConfig = AugmentConfig(together=0.3)

    def __post_init__(self) -> None:
        check_cells(self.width, self.height)


@dataclass(frozen=True)
class PairBatch:
    """images [2B,1,h,w] in [0,1], first all views 0, then all views 1; motion: from views 0 to views 1.

    clean: the same before light, blur, noise and compression changed them, if asked for. labels: one [N,3]
    (x, y, share) array for each of the 2B views; those of pairs that maps join are empty and say nothing.
    """

    images: Tensor
    clean: Tensor | None
    motion: PairMotion
    labels: list[NDArray[np.float32]]

    @property
    def pairs(self) -> int:
        """B."""
        return len(self.images) // 2

    @property
    def labelled(self) -> Tensor | None:
        """Which of the 2B views have labels [2B]; None where all have."""
        if self.motion.maps is None:
            return None
        own = torch.arange(self.pairs, device=self.images.device) < len(self.motion.H_0to1)
        return torch.cat([own, own])


def pair_batch(
    images: ImageSet, labels: Sequence[NDArray[np.float32]], config: PairConfig, seed: int, step: int,
    with_clean: bool = False,
) -> PairBatch:
    """The batch of one step; with_clean: a teacher reads the unchanged views."""
    rng = np.random.default_rng([seed, step])
    clean0, clean1, labels0, labels1, transforms = [], [], [], [], []
    for index in rng.choice(len(images), config.pairs, replace=len(images) < config.pairs):
        view, points, taken = _view(images.images, labels, index, config, rng)
        H_0to1 = squeezed_homography(rng, taken, (config.width, config.height), config.warp)
        warped = cv2.warpPerspective(view, H_0to1, (config.width, config.height), flags=cv2.INTER_LINEAR)
        clean0.append(view)
        clean1.append(warped)
        labels0.append(points)
        labels1.append(_inside(np.column_stack([warp(points[:, :2], H_0to1), points[:, 2]]), config))
        transforms.append(H_0to1)
    clean = clean0 + clean1
    views = [augment(view, rng, config.photometric) for view in clean]
    H_0to1 = torch.from_numpy(np.stack(transforms)).float()
    return PairBatch(stacked(views), stacked(clean) if with_clean else None, PairMotion(H_0to1), labels0 + labels1)


def stacked(views: list[NDArray[np.uint8]]) -> Tensor:
    """Grey views [h,w] uint8 as a network takes them, [n,1,h,w] in [0,1]."""
    return torch.from_numpy(np.stack(views)[:, None]).float() / 255


def _view(
    images: Sequence[NDArray[np.uint8]], labels: Sequence[NDArray[np.float32]], index: int, config: PairConfig,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], tuple[int, int]]:
    """What view 0 shows, its labels, and the (h, w) of what it was taken from."""
    if not config.tiled or rng.random() >= config.tiled:
        return _crop(images[index], labels[index], config, rng)
    chosen = [index, *rng.integers(0, len(images), 3)]
    view, points = tiled_view([images[i] for i in chosen], [labels[i] for i in chosen],
                              (config.width, config.height), rng)
    return view, _inside(points, config), view.shape[:2]


def _crop(
    image: NDArray[np.uint8], labels: NDArray[np.float32], config: PairConfig, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32], tuple[int, int]]:
    """A random part of the image, brought to the training size, with its best labels; and the part's (h, w)."""
    height, width = image.shape
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels * np.float32([-1, 1, 1]) + np.float32([width - 1, 0, 0])
    part = _crop_size(width, height, config, rng)
    view, points = random_part(image, labels, part, (config.width, config.height), rng)
    return view, _inside(points, config), part[::-1]


def _crop_size(width: int, height: int, config: PairConfig, rng: np.random.Generator) -> tuple[int, int]:
    zoom = rng.uniform(0.42, 1.0)
    if rng.random() < config.own_proportions:
        return round(width * zoom), round(height * zoom)
    zoom *= min(width / config.width, height / config.height)  # source pixels per training pixel
    return (min(width, round(config.width * zoom * rng.uniform(1.0, 1.25))),
            min(height, round(config.height * zoom * rng.uniform(1.0, 1.25))))


def _inside(points: NDArray[np.floating], config: PairConfig) -> NDArray[np.float32]:
    """Points within the view and found often enough, the best `labels_per_view` of them."""
    x, y, share = points.T
    keep = (x >= 0) & (y >= 0) & (x <= config.width - 1) & (y <= config.height - 1) & (share >= config.minimum_share)
    kept = points[keep]
    return kept[np.argsort(-kept[:, 2], kind="stable")[: config.labels_per_view]].astype(np.float32)
