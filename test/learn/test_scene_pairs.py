"""Pairs of scenes for the extractor: their maps are depth's truth, and they join the warped ones in a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from efficient_matcher.errors import MatcherError, RecipeError
from efficient_matcher.learn.chain import DetectorTraining
from efficient_matcher.learn.data import ImageSet, PairConfig
from efficient_matcher.learn.finetune import finetune_superpoint
from efficient_matcher.learn.finetune_recipes import SuperPointFinetuning
from efficient_matcher.learn.pair_motion import HIDDEN
from efficient_matcher.learn.recipe import from_mapping
from efficient_matcher.learn.scene_pairs import (
    ScenePairConfig, ScenePairSet, gather_scene_pairs, mixed_batch, motion_map, render_scene_pairs)
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig
from efficient_matcher.learn.train_superpoint import Learner, SuperPointTraining, superpoint_loss, train_superpoint
from efficient_matcher.learn.training import LoopConfig, TrainingError
from efficient_matcher.scenes.depth import DepthView, transfer

NETWORK = SuperPointConfig((8,) * 8, 8, 8, 16, batch_norm=True, location_width=4)
SCENES = ScenePairConfig(scenes=3, views=2, width=96, height=64, levels=("easy",))
PAIRS = PairConfig(width=96, height=64, pairs=3)
CONFIG = SuperPointTraining(network=NETWORK, pairs=PAIRS, peaks=20, correspondences=10, scenes_share=0.6,
                            loop=LoopConfig(steps=3, warmup_steps=1, log_every=1))


@pytest.fixture(scope="module")
def images(make_textured: Callable[..., np.ndarray]) -> ImageSet:
    return ImageSet(["a", "b", "c"], [make_textured(100, 140, seed) for seed in range(3)], {})


@pytest.fixture(scope="module")
def labels() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [np.column_stack([rng.uniform(4, 90, (30, 2)), np.ones(30)]).astype(np.float32) for _ in range(3)]


@pytest.fixture(scope="module")
def scenes(images: ImageSet) -> ScenePairSet:
    return render_scene_pairs(images, SCENES, 0)


def test_a_map_is_where_depth_puts_the_pixels(scenes: ScenePairSet) -> None:
    view0, view1 = (DepthView(*(getattr(scenes, name)[0, view].numpy() for name in ("K", "pose", "depth")))
                    for view in range(2))
    moved = motion_map(view0, view1)
    known = (moved > HIDDEN).all(-1)
    y, x = np.nonzero(known)
    assert 0.4 < known.mean() < 1 and np.allclose(
        moved[y, x], transfer(np.column_stack([x, y]), view0, view1).points, atol=1e-3)
    back = motion_map(view1, view0)[np.rint(moved[y, x, 1]).astype(int), np.rint(moved[y, x, 0]).astype(int)]
    there = (back > HIDDEN).all(-1)  # there and back again is the pixel itself, but for the rounding between
    assert there.mean() > 0.9 and np.median(np.hypot(*(back[there] - np.column_stack([x, y])[there]).T)) < 1.0


def test_a_hidden_pixel_is_hidden() -> None:
    wall, before_it = np.full((64, 96), 4.0, np.float32), np.full((64, 96), 4.0, np.float32)
    before_it[20:40, 30:60] = 2.0  # something that only the second camera sees before the wall
    K, pose = np.array([[90.0, 0, 47], [0, 90, 31], [0, 0, 1]]), np.eye(4)
    moved = motion_map(DepthView(K, pose, wall), DepthView(K, pose, before_it))
    assert (moved[30, 45] == HIDDEN).all() and np.allclose(moved[10, 10], (10, 10), atol=1e-4)


def test_a_mixed_batch_has_both_kinds_in_order(
        images: ImageSet, labels: list[np.ndarray], scenes: ScenePairSet) -> None:
    batch = mixed_batch(images, labels, scenes, 1.0, PAIRS, 0, 0, with_clean=True)
    assert batch.pairs == 3 and batch.motion.H_0to1.shape == (1, 3, 3) and batch.motion.maps.shape == (2, 2, 64, 96, 2)
    assert batch.labelled.tolist() == [True, False, False] * 2
    assert [len(points) > 0 for points in batch.labels] == [True, False, False] * 2
    rendered = {picture.numpy().tobytes() for picture in scenes.images.flatten(0, 1)}
    clean = (batch.clean[:, 0] * 255).round().byte()
    assert [view.numpy().tobytes() in rendered for view in clean] == [False, True, True] * 2


def test_without_scenes_nothing_changes(images: ImageSet, labels: list[np.ndarray], scenes: ScenePairSet) -> None:
    plain, none = (mixed_batch(images, labels, given, 0.0, PAIRS, 0, 4) for given in (None, scenes))
    assert torch.equal(plain.images, none.images) and none.labelled is None
    with pytest.raises(ValueError, match="there are none"):
        mixed_batch(images, labels, None, 0.3, PAIRS, 0, 4)


def test_views_without_labels_say_nothing_of_where_there_is_none(
        images: ImageSet, labels: list[np.ndarray], scenes: ScenePairSet) -> None:
    torch.manual_seed(0)
    learner = Learner(SuperPoint(NETWORK).eval(), 14.0)
    batch = mixed_batch(images, labels, scenes, 1.0, PAIRS, 0, 0)
    early = superpoint_loss(learner, batch, CONFIG, 0.0)[1]
    warped = mixed_batch(images, labels, None, 0.0, replace(PAIRS, pairs=1), 0, 0)
    alone = superpoint_loss(learner, warped, CONFIG, 0.0)[1]
    assert early["detector"] == pytest.approx(alone["detector"], rel=1e-5)
    assert early["location"] == pytest.approx(alone["location"], rel=1e-5)


def test_training_on_scenes_is_repeatable_and_knows_its_share(
        images: ImageSet, labels: list[np.ndarray], scenes: ScenePairSet, tmp_path: Path) -> None:
    first, second = (train_superpoint(images, labels, CONFIG, tmp_path / name, scenes=scenes)[0].state_dict()
                     for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)
    with pytest.raises(TrainingError, match="scenes_share"):
        train_superpoint(images, labels, replace(CONFIG, scenes_share=0.2), tmp_path / "a", scenes=scenes)


def test_finetuning_takes_scenes_and_a_teacher(
        images: ImageSet, labels: list[np.ndarray], scenes: ScenePairSet, tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = SuperPoint(NETWORK).eval()
    recipe = SuperPointFinetuning(loop=CONFIG.loop, pairs=PAIRS, scenes_share=0.6)
    with_scenes, hours = finetune_superpoint(dense, images, labels, recipe, tmp_path / "a", dense, scenes=scenes)
    assert hours > 0 and all(bool(value.isfinite().all()) for value in with_scenes.state_dict().values())


def test_scenes_are_rendered_once(images: ImageSet, tmp_path: Path) -> None:
    made = gather_scene_pairs(images, SCENES, 0, tmp_path)
    told: list[int] = []
    again = gather_scene_pairs(images, SCENES, 0, tmp_path, lambda done, of: told.append(done))
    assert not told and torch.equal(made.images, again.images) and len(again) == 3


def test_fewer_scenes_than_processes_are_named(images: ImageSet) -> None:
    with pytest.raises(MatcherError, match="1 scenes for 2 processes: each needs one"):
        render_scene_pairs(images, replace(SCENES, scenes=1), 0, 1, 2)


def test_a_base_detector_learns_from_drawings_alone() -> None:
    with pytest.raises(RecipeError, match="drawings alone"):
        from_mapping({"scenes_share": 0.2}, DetectorTraining)
