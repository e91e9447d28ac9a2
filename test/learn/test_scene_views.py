"""Views of scenes for training: both kinds of truth agree on a plane, and the same seed gives the same run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from efficient_matcher.learn.data import ImageSet
from efficient_matcher.learn.scene_views import (SceneViewConfig, SceneViewSet, correspondences, extract_scene_views,
                                                 gather_scene_views)
from efficient_matcher.learn.superglue import SuperGlueConfig
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig
from efficient_matcher.learn.train_superglue import (MatchBatch, Moved, SuperGlueTraining, ground_truth, mixed_pairs,
                                                     train_superglue)
from efficient_matcher.learn.training import LoopConfig, TrainingError
from efficient_matcher.learn.views import ViewConfig, ViewSet, extract_views
from efficient_matcher.scenes.depth import DepthView
from efficient_matcher.scenes.render import Camera, Rectangle, depth_map

SIZE = (96, 64)
VIEWS = ViewConfig(width=96, height=64, views=3, keypoints=12)
SCENES = SceneViewConfig(scenes=2, views=3, width=96, height=64, keypoints=12, levels=("easy",))
CONFIG = SuperGlueTraining(
    network=SuperGlueConfig(16, (8,), layers=2, heads=2, residual_init=True), views=VIEWS, pairs=3, pairs_then=2,
    keypoints=8, loop=LoopConfig(steps=4, warmup_steps=1, log_every=1))


@pytest.fixture(scope="module")
def images(make_textured: Callable[..., np.ndarray]) -> ImageSet:
    return ImageSet(["a", "b"], [make_textured(100, 140, seed) for seed in range(2)], {})


@pytest.fixture(scope="module")
def extractor() -> SuperPoint:
    torch.manual_seed(0)
    return SuperPoint(SuperPointConfig((8,) * 8, 8, 8, 16, batch_norm=True, location_width=4)).eval()


@pytest.fixture(scope="module")
def scenes(extractor: SuperPoint, images: ImageSet) -> SceneViewSet:
    return extract_scene_views(extractor, images, SCENES, 0)


@pytest.fixture(scope="module")
def views(extractor: SuperPoint, images: ImageSet) -> ViewSet:
    return extract_views(extractor, images, VIEWS, 0)


def plane_views() -> tuple[list[DepthView], np.ndarray]:
    """Two views of a wall askew that fills both, and the homography between them."""
    K = np.array([[90.0, 0, 47], [0, 90.0, 31], [0, 0, 1]])
    wall = Rectangle(np.array([-20, -20, -6.0]), np.array([40, 0, 20.0]), np.array([0, 40, 0.0]),
                     lambda: np.zeros((8, 8), np.uint8))
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]]
    pose[:3, 3] = [-0.5, 0.2, 0.3]
    views = [DepthView(K, T, depth_map([wall], Camera(K, T, SIZE))) for T in (np.eye(4), pose)]
    normal = np.cross(wall.edge_x, wall.edge_y)
    induced = pose[:3, :3] + np.outer(pose[:3, 3], normal) / (normal @ wall.corner)
    return views, K @ induced @ np.linalg.inv(K)


def test_on_a_plane_depth_and_homography_give_the_same_truth() -> None:
    views, H = plane_views()
    rng = np.random.default_rng(0)
    points0 = rng.uniform((2, 2), (94, 62), (200, 2))
    ahead = np.column_stack([points0, np.ones(200)]) @ H.T
    points1 = ahead[:, :2] / ahead[:, 2:] + rng.normal(0, 2, (200, 2))  # matches, near misses and some beyond the edge
    points1 = np.clip(points1, 1, (94, 62))
    keypoints = torch.from_numpy(np.stack([points0, points1])).float()
    moved, seen, sure = correspondences(keypoints, views)
    filler = torch.zeros(1, 200), torch.zeros(1, 200, 16)
    sides = keypoints[:1], *filler, keypoints[1:], *filler
    by_depth = MatchBatch(*sides, None, Moved(moved[:1, 1], seen[:1, 1], seen[1:, 0], sure[:1, 1], sure[1:, 0]))
    by_homography = MatchBatch(*sides, torch.from_numpy(H)[None].float())
    truths = [ground_truth(batch, 3.0, 4.0, SIZE) for batch in (by_depth, by_homography)]
    assert truths[0][0].sum() > 50 and truths[0][1].any() and truths[0][2].any()
    assert all(torch.equal(a, b) for a, b in zip(*truths))


def test_hidden_keypoints_are_alone_and_doubtful_ones_say_nothing() -> None:
    points = torch.tensor([[[10.0, 10], [30, 10], [50, 10]]])
    filler = torch.zeros(1, 3), torch.zeros(1, 3, 16)
    seen = torch.tensor([[True, False, False]])
    sure = torch.tensor([[True, True, False]])
    batch = MatchBatch(points, *filler, points, *filler, None, Moved(points, seen, seen, sure, sure))
    matched, alone0, alone1 = ground_truth(batch, 3.0, 4.0, SIZE)
    assert torch.nonzero(matched[0]).tolist() == [[0, 0]]
    assert alone0[0].tolist() == alone1[0].tolist() == [False, True, False]


def test_views_of_a_scene_and_pairs_of_them(scenes: SceneViewSet) -> None:
    assert scenes.keypoints.shape == (2, 3, 12, 2) and scenes.moved.shape == (2, 3, 3, 12, 2)
    inside = (scenes.moved >= 0).all(-1) & (scenes.moved <= torch.tensor([95.0, 63.0])).all(-1)
    assert bool((inside | ~scenes.seen).all()) and scenes.seen.float().mean() > 0.2
    batch = scenes.draw(5, 8, np.random.default_rng(0))
    assert batch.keypoints0.shape == (5, 8, 2) and batch.moved is not None and batch.moved.seen1.shape == (5, 8)


def test_pairs_are_mixed_by_their_share(views: ViewSet, scenes: SceneViewSet) -> None:
    rng = np.random.default_rng(0)
    assert mixed_pairs(views, scenes, 0.0, 4, 8, SIZE, rng).H_0to1 is not None
    assert mixed_pairs(views, None, 0.5, 4, 8, SIZE, rng).H_0to1 is not None
    mixed = mixed_pairs(views, scenes, 0.5, 40, 8, SIZE, rng)
    assert mixed.keypoints0.shape == (40, 8, 2) and mixed.moved is not None and len(mixed.moved.sure1) == 40
    assert mixed_pairs(views, scenes, 1.0, 4, 8, SIZE, rng).H_0to1 is None


def test_the_same_seed_gives_the_same_weights_and_another_share_is_another_run(
        views: ViewSet, scenes: SceneViewSet, tmp_path: Path) -> None:
    first, second = (train_superglue(views, CONFIG, tmp_path / name, None, scenes, 0.5)[0].state_dict()
                     for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)
    with pytest.raises(TrainingError, match="scenes_share"):
        train_superglue(views, CONFIG, tmp_path / "a", None, scenes, 0.25)


def test_scenes_are_kept_until_something_changes(extractor: SuperPoint, images: ImageSet, tmp_path: Path) -> None:
    made: list[int] = []
    one = replace(SCENES, scenes=1)
    first = gather_scene_views(extractor, images, one, 0, tmp_path, lambda done, of: made.append(done))
    second = gather_scene_views(extractor, images, one, 0, tmp_path, lambda done, of: made.append(done))
    assert made == [1] and torch.equal(first.moved, second.moved)
    gather_scene_views(extractor, images, one, 1, tmp_path, lambda done, of: made.append(done))
    assert made == [1, 1]
