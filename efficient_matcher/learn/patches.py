"""Pairs of patches about the same point of a scene, for training the locator.

Keypoints are found by core itself, as on a robot, in an image as it is and in warped views of it; those of the two that
are each other's nearest where the warp puts them show the same point, but for what each is misplaced.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efficient_matcher.config import ExtractConfig, InputConfig
from efficient_matcher.core.features import detect
from efficient_matcher.core.image import to_frame
from efficient_matcher.core.locate import inputs_of
from efficient_matcher.errors import MatcherError
from efficient_matcher.learn.augment import augment
from efficient_matcher.learn.data import ImageSet
from efficient_matcher.learn.extractor_graph import extractor_model
from efficient_matcher.learn.homographies import squeezed_homography
from efficient_matcher.learn.keypoints import warp_points
from efficient_matcher.learn.quantize import opened
from efficient_matcher.learn.superpoint import SuperPoint
from efficient_matcher.learn.views import ViewConfig, base_view, features_key, gather_parts, shares_of

SAME_PX = 3.0  # keypoints further apart show different points


@dataclass(frozen=True)
class PatchSet:
    """M pairs: patches uint8 [M,S*S] and hints [M,3] of views 0 and 1 as `core.locate` reads them, the keypoints
    [M,2] px, and H_0to1 [M,3,3]."""

    patches0: Tensor
    hints0: Tensor
    points0: Tensor
    patches1: Tensor
    hints1: Tensor
    points1: Tensor
    H_0to1: Tensor

    def __len__(self) -> int:
        return len(self.points0)


def gather_patches(network: SuperPoint, images: ImageSet, config: ViewConfig, clean: float, reach_px: int, seed: int,
                   folder: Path, progress: Callable[[int, int], None] = lambda done, of: None) -> PatchSet:
    """Pairs from all images: each process makes its part into `folder`, then reads those of all. Raises MatcherError.

    clean: share of the views that keep their light and sharpness, whatever the config.
    """
    plain = copy.deepcopy(network)
    plain.locator = None  # which has no part in what is found
    key = f"{features_key(plain, images, config, seed)}, reach {reach_px}, clean {clean}"
    found = gather_parts(PatchSet, folder, "patches", key, lambda part, parts: patch_pairs(
        network, images, config, clean, reach_px, seed, part, parts, progress))
    if not len(found):
        raise MatcherError("no keypoint of these images was found again in a warped view; nothing can be learned")
    return found


def patch_pairs(network: SuperPoint, images: ImageSet, config: ViewConfig, clean: float, reach_px: int, seed: int,
                part: int = 0, parts: int = 1, progress: Callable[[int, int], None] = lambda done, of: None) -> PatchSet:
    """The same of every `parts`-th image, from `part` on."""
    extract = _Extraction(network, config)
    chosen = shares_of(len(images), part, parts, "images")
    rows: list[tuple[Tensor, ...]] = []
    for done, index in enumerate(chosen, 1):
        rng = np.random.default_rng([seed, index])
        views = _views(base_view(images.images, index, config, rng), config, clean, rng)
        (plain, _), *warped = [(_Seen(*extract(view), view, reach_px), H) for view, H in views]
        rows += [_paired(plain, seen, H) for seen, H in warped]
        progress(done, len(chosen))
    return PatchSet(*(torch.cat(column) for column in zip(*rows)))


def _views(image: NDArray[np.uint8], config: ViewConfig, clean: float,
           rng: np.random.Generator) -> list[tuple[NDArray[np.uint8], Tensor]]:
    """Views [h,w] of an image, each with the homography [3,3] from the first, which is not warped: what is interpolated
    once more is smoother than what a camera sees."""
    size = (config.width, config.height)
    base = to_frame(image, InputConfig(width=size[0], height=size[1])).image
    matrices = [np.eye(3), *(squeezed_homography(rng, image.shape, size, config.warp) for _ in range(1, config.views))]
    views = [base, *(cv2.warpPerspective(base, H, size) for H in matrices[1:])]
    return [(view if rng.random() < clean else augment(view, rng, config.photometric), torch.from_numpy(H).float())
            for view, H in zip(views, matrices)]


class _Extraction:
    """Keypoints [N,2] and their spreads [N] of a view [H,W], by core on one thread; the locator has no part in it."""

    def __init__(self, network: SuperPoint, config: ViewConfig) -> None:
        self._config = ExtractConfig(max_keypoints=config.keypoints, nms_radius_px=config.nms_radius_px)
        self._backend = opened(extractor_model(network.eval()), threads=1)

    def __call__(self, view: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        points, _, spreads = detect(self._backend.run({"image": view[None, None]})["scores"][0], self._config)
        assert spreads is not None  # as keypoints are placed between pixels
        return points, spreads


class _Seen:
    """Keypoints [N,2] of a view, and what the locator would read of each."""

    def __init__(self, points: NDArray[np.float32], spreads: NDArray[np.float32], view: NDArray[np.uint8],
                 reach_px: int) -> None:
        self.points = torch.from_numpy(points)
        inputs = inputs_of(view, points, spreads, reach_px)
        self.patches, self.hints = torch.from_numpy(inputs["patches"]), torch.from_numpy(inputs["hints"])

    def rows(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.patches[chosen], self.hints[chosen], self.points[chosen]


def _paired(seen0: _Seen, seen1: _Seen, H_0to1: Tensor) -> tuple[Tensor, ...]:
    """A row of PatchSet for each point that both views show."""
    if not len(seen0.points) or not len(seen1.points):
        nobody = torch.zeros(0, dtype=torch.long)
        return (*seen0.rows(nobody), *seen1.rows(nobody), H_0to1.expand(0, 3, 3))
    apart = torch.cdist(warp_points(seen0.points[None], H_0to1[None])[0], seen1.points)
    nearest, places = apart.min(1)
    mutual = apart.argmin(0)[places] == torch.arange(len(places))
    chosen = torch.nonzero(mutual & (nearest < SAME_PX))[:, 0]
    return (*seen0.rows(chosen), *seen1.rows(places[chosen]), H_0to1.expand(len(chosen), 3, 3))
