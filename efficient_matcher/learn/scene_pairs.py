"""Pairs of views of synthetic scenes, for training the extractor on depth, occlusion and oblique views.

Rendered once; where each pixel of a view lies in another follows from depth and pose when a pair is drawn. They have no
labels: the extractor's own repeated peaks teach where keypoints are, and which descriptors belong together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efficient_matcher.learn.augment import AugmentConfig, augment
from efficient_matcher.learn.data import ImageSet, PairBatch, PairConfig, key_of, pair_batch, stacked
from efficient_matcher.learn.pair_motion import HIDDEN, PairMotion
from efficient_matcher.learn.views import gather_parts, shares_of
from efficient_matcher.scenes.depth import DepthView, transfer
from efficient_matcher.scenes.views import LEVELS, draw_views

NO_LABELS = np.zeros((0, 3), np.float32)


@dataclass(frozen=True)
class ScenePairConfig:
    """How many scenes, and how many views of each; the views' size is that of the pairs they join."""

    scenes: int = 600
    views: int = 3
    width: int = 256
    height: int = 192
    levels: tuple[str, ...] = tuple(LEVELS)


@dataclass(frozen=True)
class ScenePairSet:
    """V views of each of S scenes: images [S,V,h,w] uint8, depth [S,V,h,w] float32 m, K [S,V,3,3], pose [S,V,4,4]."""

    images: Tensor
    depth: Tensor
    K: Tensor
    pose: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, pairs: int, rng: np.random.Generator) -> tuple[list[NDArray[np.uint8]], Tensor]:
        """Random pairs: all views 0 and then all views 1 [h,w], and the maps [pairs,2,h,w,2] of `PairMotion`."""
        first, second, maps = [], [], []
        for scene in rng.integers(0, len(self), pairs):
            one, other = rng.choice(self.images.shape[1], 2, replace=False)
            views = self._view(scene, one), self._view(scene, other)
            first.append(self.images[scene, one].numpy())
            second.append(self.images[scene, other].numpy())
            maps.append(np.stack([motion_map(*views), motion_map(*views[::-1])]))
        return first + second, torch.from_numpy(np.stack(maps))

    def _view(self, scene: int, view: int) -> DepthView:
        return DepthView(*(getattr(self, name)[scene, view].numpy() for name in ("K", "pose", "depth")))


def motion_map(view0: DepthView, view1: DepthView) -> NDArray[np.float32]:
    """Where view 1 has each pixel of view 0 [h,w,2] px; HIDDEN where it does not show it, or depth leaves a doubt."""
    height, width = view0.depth.shape
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    found = transfer(np.column_stack([x.ravel(), y.ravel()]), view0, view1)
    moved = np.where((found.visible & found.sure)[:, None], found.points, HIDDEN)
    return moved.reshape(height, width, 2).astype(np.float32)


def gather_scene_pairs(
    images: ImageSet, config: ScenePairConfig, seed: int, folder: Path,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> ScenePairSet:
    """Scenes papered with the images: each process renders its part into `folder`, then reads those of all."""
    key = key_of([asdict(config), seed, images.key])
    return gather_parts(ScenePairSet, folder, "scene-pairs", key, lambda part, parts: render_scene_pairs(
        images, config, seed, part, parts, progress))


def render_scene_pairs(
    images: ImageSet, config: ScenePairConfig, seed: int, part: int = 0, parts: int = 1,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> ScenePairSet:
    """Every `parts`-th scene, from `part` on."""
    chosen, rows = shares_of(config.scenes, part, parts, "scenes"), []
    for done, index in enumerate(chosen, 1):
        views = draw_views(images.images, config.views, np.random.default_rng([seed, index]),
                           (config.width, config.height), config.levels)
        rows.append([np.stack([getattr(view, name) for view in views]) for name in ("image", "depth", "K", "pose")])
        progress(done, len(chosen))
    return ScenePairSet(*(torch.from_numpy(np.stack(column)) for column in zip(*rows)))


def mixed_batch(
    images: ImageSet, labels: list[NDArray[np.float32]], scenes: ScenePairSet | None, share: float, config: PairConfig,
    seed: int, step: int, with_clean: bool = False,
) -> PairBatch:
    """`pair_batch` with each of its pairs, but for one, replaced by one of `scenes` with probability `share`.

    Raises ValueError for a share of no scenes.
    """
    if share and scenes is None:
        raise ValueError("scenes_share asks for pairs of scenes, and there are none")
    rng = np.random.default_rng([seed, step, 1])
    count = 0 if scenes is None else min(int(rng.binomial(config.pairs, share)), config.pairs - 1)
    warped = pair_batch(images, labels, replace(config, pairs=config.pairs - count), seed, step, with_clean)
    if scenes is None or not count:
        return warped
    clean, maps = scenes.draw(count, rng)
    return _joined(warped, clean, maps, config.photometric, rng)


def _joined(warped: PairBatch, clean: list[NDArray[np.uint8]], maps: Tensor, photometric: AugmentConfig,
            rng: np.random.Generator) -> PairBatch:
    views = stacked([augment(view, rng, photometric) for view in clean])
    unlabelled = [NO_LABELS] * len(maps)
    labels = [*warped.labels[:warped.pairs], *unlabelled, *warped.labels[warped.pairs:], *unlabelled]
    return PairBatch(
        _side_by_side(warped.images, views),
        None if warped.clean is None else _side_by_side(warped.clean, stacked(clean)),
        PairMotion(warped.motion.H_0to1, maps), labels)


def _side_by_side(first: Tensor, then: Tensor) -> Tensor:
    """Two sets of pairs as one, each with all its views 0 before its views 1."""
    return torch.cat([torch.cat(sides) for sides in zip(first.chunk(2), then.chunk(2))])
