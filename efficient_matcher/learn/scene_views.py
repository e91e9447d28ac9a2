"""Features of views of synthetic scenes, extracted once, for training the matcher on depth and occlusion.

As `views.py` does for warped images; but where a keypoint lies in another view follows from depth and pose, and it
may be hidden there. Of each scene all pairs of views serve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from efficient_matcher.learn.augment import AugmentConfig, augment
from efficient_matcher.learn.data import ImageSet
from efficient_matcher.learn.superpoint import SuperPoint
from efficient_matcher.learn.train_superglue import MatchBatch, Moved
from efficient_matcher.learn.views import extract, features_key, gather_parts, shares_of
from efficient_matcher.scenes.depth import DepthView, transfer
from efficient_matcher.scenes.views import LEVELS, draw_views

FAR_AWAY = -1e4  # px; where a keypoint is said to lie whose place is unknown


@dataclass(frozen=True)
class SceneViewConfig:
    """How many scenes and views of each; size, keypoints and radius as in `ViewConfig`, whose pairs they join."""

    scenes: int = 600
    views: int = 4
    width: int = 480
    height: int = 360
    keypoints: int = 400
    nms_radius_px: int = 4
    levels: tuple[str, ...] = tuple(LEVELS)
    photometric: AugmentConfig = AugmentConfig(probability=0.2)


@dataclass(frozen=True)
class SceneViewSet:
    """V views of each of S scenes: keypoints [S,V,N,2] px, scores [S,V,N], descriptors [S,V,N,D] float16.

    moved [S,V,V,N,2]: keypoints of the view of the second axis where that of the third one has them, px;
    seen [S,V,V,N]: whether they are visible there; sure [S,V,V,N]: whether their depth leaves no doubt.
    """

    keypoints: Tensor
    scores: Tensor
    descriptors: Tensor
    moved: Tensor
    seen: Tensor
    sure: Tensor

    def __len__(self) -> int:
        return len(self.keypoints)

    def draw(self, pairs: int, keypoints: int, rng: np.random.Generator) -> MatchBatch:
        """Random pairs of views with their best keypoints and where depth puts them."""
        scene = torch.from_numpy(rng.integers(0, len(self.keypoints), pairs))
        count = self.keypoints.shape[1]
        first = torch.from_numpy(rng.integers(0, count, pairs))
        second = (first + torch.from_numpy(rng.integers(1, count, pairs))) % count

        def side(view: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            chosen = (scene, view, slice(keypoints))
            return self.keypoints[chosen], self.scores[chosen], self.descriptors[chosen].float()

        ahead, back = (scene, first, second, slice(keypoints)), (scene, second, first, slice(keypoints))
        moved = Moved(self.moved[ahead], self.seen[ahead], self.seen[back], self.sure[ahead], self.sure[back])
        return MatchBatch(*side(first), *side(second), None, moved)


def gather_scene_views(
    network: SuperPoint, images: ImageSet, config: SceneViewConfig, seed: int, folder: Path,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> SceneViewSet:
    """Views of scenes papered with the images: each process makes its part in `folder`, then reads those of all."""
    key = features_key(network, images, config, seed)
    return gather_parts(SceneViewSet, folder, "scenes", key, lambda part, parts: extract_scene_views(
        network, images, config, seed, part, parts, progress))


def extract_scene_views(
    network: SuperPoint, images: ImageSet, config: SceneViewConfig, seed: int, part: int = 0, parts: int = 1,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> SceneViewSet:
    """Views of every `parts`-th scene, from `part` on."""
    network = network.eval().to(memory_format=torch.channels_last)
    chosen = shares_of(config.scenes, part, parts, "scenes")
    rows = []
    for done, index in enumerate(chosen, 1):
        rng = np.random.default_rng([seed, index])
        views = draw_views(images.images, config.views, rng, (config.width, config.height), config.levels)
        pictures = np.stack([augment(view.image, rng, config.photometric) for view in views])
        keypoints, scores, descriptors = extract(network, pictures, config.keypoints, config.nms_radius_px, rng)
        rows.append((keypoints, scores, descriptors.half(), *correspondences(keypoints, views)))
        progress(done, len(chosen))
    return SceneViewSet(*(torch.stack(column) for column in zip(*rows)))


def correspondences(keypoints: Tensor, views: list[DepthView]) -> tuple[Tensor, Tensor, Tensor]:
    """Of keypoints [V,N,2] px of the views: where each other view has them [V,V,N,2], `seen` and `sure` [V,V,N]."""
    count, number = keypoints.shape[:2]
    moved = torch.full((count, count, number, 2), FAR_AWAY)
    seen, sure = (torch.zeros(count, count, number, dtype=torch.bool) for _ in range(2))
    for first in range(count):
        for second in range(count):
            if first != second:
                found = transfer(keypoints[first].numpy(), views[first], views[second])
                places = np.nan_to_num(found.points, nan=FAR_AWAY).clip(FAR_AWAY, -FAR_AWAY)
                moved[first, second] = torch.from_numpy(places).float()
                seen[first, second] = torch.from_numpy(found.visible)
                sure[first, second] = torch.from_numpy(found.sure)
    return moved, seen, sure
