"""SuperPoint's training step: finite, deterministic, and it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from efficient_matcher.learn.data import ImageSet, PairConfig, pair_batch
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig
from efficient_matcher.learn.train_superpoint import Learner, SuperPointTraining, superpoint_loss, train_superpoint
from efficient_matcher.learn.training import LoopConfig

NETWORK = SuperPointConfig((8,) * 8, 8, 8, 16, batch_norm=True, location_width=4)
CONFIG = SuperPointTraining(
    network=NETWORK, pairs=PairConfig(width=96, height=64, pairs=2), peaks=20, correspondences=10,
    loop=LoopConfig(steps=4, warmup_steps=1, log_every=1))


@pytest.fixture(scope="module")
def images() -> ImageSet:
    rng = np.random.default_rng(0)
    pictures = [cv2.GaussianBlur(rng.integers(0, 256, (100, 140), np.uint8), (0, 0), 2) for _ in range(3)]
    return ImageSet(["a", "b", "c"], pictures, {})


@pytest.fixture(scope="module")
def labels() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [np.column_stack([rng.uniform(4, 90, (30, 2)), np.ones(30)]).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize("progress", [0.0, 0.9])
def test_every_parameter_gets_a_gradient(images: ImageSet, labels: list[np.ndarray], progress: float) -> None:
    torch.manual_seed(0)
    learner = Learner(SuperPoint(NETWORK), 14.0)
    loss, parts = superpoint_loss(learner, pair_batch(images, labels, CONFIG.pairs, 0, 0), CONFIG, progress)
    loss.backward()
    assert all(np.isfinite(value) for value in parts.values())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in learner.parameters())


def test_the_same_seed_gives_the_same_weights(images: ImageSet, labels: list[np.ndarray], tmp_path: Path) -> None:
    first, second = (train_superpoint(images, labels, CONFIG, tmp_path / name)[0].state_dict() for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = replace(CONFIG, loop=replace(CONFIG.loop, seed=1))
    third = train_superpoint(images, labels, other, tmp_path / "c")[0].state_dict()
    assert not torch.equal(first["conv1a.weight"], third["conv1a.weight"])


def test_the_loss_of_one_batch_falls(images: ImageSet, labels: list[np.ndarray]) -> None:
    torch.manual_seed(0)
    learner = Learner(SuperPoint(NETWORK), 14.0)
    optimizer = torch.optim.AdamW(learner.parameters(), 1e-2)
    batch = pair_batch(images, labels, CONFIG.pairs, 0, 0)
    losses = []
    for _ in range(12):
        torch.manual_seed(0)
        loss, _ = superpoint_loss(learner, batch, CONFIG, 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]


def test_a_black_image_is_no_obstacle() -> None:
    black = ImageSet(["black"], [np.zeros((100, 140), np.uint8)], {})
    batch = pair_batch(black, [np.zeros((0, 3), np.float32)], CONFIG.pairs, 0, 0)
    torch.manual_seed(0)
    loss, _ = superpoint_loss(Learner(SuperPoint(NETWORK), 14.0), batch, CONFIG, 0.9)
    assert bool(loss.isfinite())
