"""The dense networks that speed is compared with."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from efficient_matcher.learn.reference import DenseTracker  # noqa: E402 - only where torch is


def test_tracks_with_as_many_keypoints_as_asked() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 96, 128), np.uint8)
    tracker = DenseTracker(keypoints=40, threads=1)
    assert tracker.process(frames[0]) is None
    times = tracker.process(frames[1])
    assert tracker.keypoints_found == 40
    assert times["total"] == pytest.approx(times["extract"] + times["match"])


def test_sizes_are_the_published_ones() -> None:
    tracker = DenseTracker(keypoints=8, threads=1)
    counts = [sum(p.numel() for p in net.parameters()) for net in (tracker._superpoint, tracker._superglue)]
    assert counts[0] == pytest.approx(1.30e6, rel=0.01)
    assert counts[1] == pytest.approx(12.02e6, rel=0.01)
