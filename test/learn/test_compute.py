"""The device and precision of a training: batches move as a whole, networks may be coarser, losses are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from efficient_matcher.errors import MatcherError
from efficient_matcher.learn.compute import Compute, default_processes
from efficient_matcher.learn.data import ImageSet, PairConfig, pair_batch
from efficient_matcher.learn.keypoints import find_peaks, pooled_peaks
from efficient_matcher.learn.superpoint import SuperPointConfig
from efficient_matcher.learn.train_superglue import MatchBatch, Moved
from efficient_matcher.learn.train_superpoint import SuperPointTraining, train_superpoint
from efficient_matcher.learn.training import LoopConfig, TrainingError
from torch import nn

NETWORK = SuperPointConfig((8,) * 8, 8, 8, 16, batch_norm=True, location_width=4)
CONFIG = SuperPointTraining(network=NETWORK, pairs=PairConfig(width=96, height=64, pairs=1), peaks=20,
                            correspondences=10, loop=LoopConfig(steps=2, warmup_steps=1, log_every=1))


def test_what_is_not_there_is_told() -> None:
    with pytest.raises(MatcherError, match="device must be one of auto, cpu, cuda"):
        Compute.chosen("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(MatcherError, match="torch sees no GPU here"):
            Compute.chosen("cuda")
        assert Compute.chosen("auto", "bf16") == Compute(torch.device("cpu"), True)
    assert default_processes("cpu", 3) == 3


def test_a_batch_moves_as_a_whole() -> None:
    tensors = [torch.zeros(1, 2) for _ in range(6)]
    batch = MatchBatch(*tensors, None, Moved(*tensors[:5]))
    moved = Compute(torch.device("meta")).moved(batch)
    assert moved.H_0to1 is None and moved.moved.sure1.device.type == moved.keypoints0.device.type == "meta"


def test_networks_run_in_bfloat16_and_answer_in_float32() -> None:
    layer = nn.Linear(64, 4)
    inputs = torch.rand(8, 64)
    coarse, exact = Compute(bf16=True).run(layer, inputs), Compute().run(layer, inputs)
    assert coarse.dtype == layer.weight.dtype == torch.float32
    assert torch.equal(coarse, coarse.bfloat16().float()) and not torch.equal(coarse, exact)
    assert torch.allclose(coarse, exact, atol=0.02)
    assert isinstance(Compute(bf16=True).run(lambda x: (x, [x.long()]), inputs)[1][0], torch.Tensor)


def test_a_run_in_bfloat16_is_close_and_keeps_to_it(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 140), np.uint8)
    images, labels = ImageSet(["a"], [image], {}), [np.array([[40, 40, 1.0]], np.float32)]
    exact, _ = train_superpoint(images, labels, CONFIG, tmp_path / "fp32")
    coarse, _ = train_superpoint(images, labels, CONFIG, tmp_path / "bf16", compute=Compute(bf16=True))
    apart = (exact.conv1a.weight - coarse.conv1a.weight).abs().max()
    assert coarse.conv1a.weight.dtype == torch.float32 and 0 < apart < 0.02
    with pytest.raises(TrainingError, match="precision: bf16 there, None here"):
        train_superpoint(images, labels, CONFIG, tmp_path / "bf16")


def test_views_without_light_and_noise_are_kept_only_where_a_teacher_reads_them() -> None:
    images = ImageSet(["a"], [np.zeros((100, 140), np.uint8)], {})
    labels = [np.zeros((0, 3), np.float32)]
    assert pair_batch(images, labels, CONFIG.pairs, 0, 0).clean is None
    assert pair_batch(images, labels, CONFIG.pairs, 0, 0, with_clean=True).clean.shape == (2, 1, 64, 96)


def test_peaks_found_on_a_device_are_those_found_by_opencv() -> None:
    scores = torch.rand(2, 48, 64, generator=torch.Generator().manual_seed(0))
    scores[1] = 0
    scores[1, 20, 30] = 1
    for expected, found in zip(find_peaks(scores[:1], 40), pooled_peaks(scores[:1], 40)):
        assert torch.equal(expected, found)
    positions, found = pooled_peaks(scores[1:], 40)
    assert positions[0, 0].tolist() == [30, 20] and positions.shape == (1, 40, 2)
