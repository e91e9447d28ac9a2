"""Labels by a detector sit where it looks, and are kept apart from others."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from efficient_matcher.errors import MatcherError, SourceError
from efficient_matcher.learn.adaptation import AdaptationConfig, AdaptedLabeller
from efficient_matcher.learn.data import ImageSet
from efficient_matcher.learn.label_cache import label_images
from efficient_matcher.learn.labels import LabelConfig
from efficient_matcher.learn.superpoint import CELL, SuperPoint, SuperPointConfig
from torch import Tensor

QUICK = AdaptationConfig(votes=LabelConfig(warps=6), threshold=0.03)
DOTS = np.array([[40.0, 30.0], [110.0, 41.0], [75.0, 86.0]])


class DotDetector(SuperPoint):
    """Finds bright pixels: the score is about a third of the eighth power of the blurred brightness."""

    def __init__(self) -> None:
        super().__init__(SuperPointConfig((8,) * 8, 8, 8, 16))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        blurred = torch.nn.functional.avg_pool2d(image, 3, 1, 1)
        logits = torch.nn.functional.pixel_unshuffle((0.5 * blurred**8 + 1e-9).log(), CELL)
        return torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1), logits


def dots(scale: int = 1) -> np.ndarray:
    ys, xs = np.mgrid[:120 * scale, :160 * scale]
    image = np.zeros(xs.shape)
    for x, y in (DOTS + 0.5) * scale - 0.5:
        image += 255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * (2.0 * scale) ** 2))
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("scale, config", [(1, QUICK), (2, AdaptationConfig(LabelConfig(warps=6), 0.03,
                                                                            long_side_px=160))])
def test_points_that_are_found_again_become_labels(scale: int, config: AdaptationConfig) -> None:
    labels = AdaptedLabeller(DotDetector(), config)(dots(scale), seed=0)
    expected = (DOTS + 0.5) * scale - 0.5
    apart = np.linalg.norm(expected[:, None] - labels[None, :, :2], axis=2)
    assert len(labels) == 3 and apart.min(1).max() < 0.5 * scale
    assert (labels[:, 2] > 0.4).all() and labels.dtype == np.float32


def test_sides_need_not_be_whole_cells() -> None:
    image = np.pad(dots(), ((0, 3), (0, 5)))
    labels = AdaptedLabeller(DotDetector(), QUICK)(image, seed=0)
    assert np.linalg.norm(DOTS[:, None] - labels[None, :, :2], axis=2).min(1).max() < 0.6


def test_labels_of_two_makers_are_not_mixed(tmp_path: Path) -> None:
    images = ImageSet(["a", "b"], [dots(), dots()], {})
    cache = tmp_path / "labels.npz"
    labeller = AdaptedLabeller(DotDetector(), QUICK)
    first = label_images(images, cache, 1, labeller=labeller)
    assert all(np.array_equal(a, b) for a, b in zip(first, label_images(images, cache, 1, labeller=None)))
    with pytest.raises(SourceError, match="holds labels by 'adapted .*', not by 'sift'"):
        label_images(images, cache, 1)
    with pytest.raises(SourceError, match="not by 'adapted"):
        label_images(images, cache, 1, labeller=AdaptedLabeller(DotDetector()))
    with pytest.raises(SourceError, match=r"no labels of 1 of 3 images \(first c\)"):
        label_images(ImageSet(["a", "b", "c"], [dots()] * 3, {}), cache, 1, labeller=None)


def test_labels_that_are_not_there_are_not_made_in_silence(tmp_path: Path) -> None:
    images = ImageSet(["a"], [np.zeros((80, 80), np.uint8)], {})
    with pytest.raises(SourceError, match="typo.npz: no such file of labels"):
        label_images(images, tmp_path / "typo.npz", 1, labeller=None)
    assert not list(tmp_path.iterdir())


def test_a_file_of_before_holds_sift_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "labels.npz", names=np.array(["a"]), counts=np.array([1]), points=np.ones((1, 3), np.float32))
    assert label_images(ImageSet(["a"], [dots()], {}), tmp_path / "labels.npz")[0].tolist() == [[1, 1, 1]]


def test_a_damaged_file_and_a_full_disk_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = ImageSet(["a"], [np.zeros((96, 96), np.uint8)], {})
    (tmp_path / "labels.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(SourceError, match="labels.npz: not a readable file of labels"):
        label_images(images, tmp_path / "labels.npz", 1)

    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(MatcherError, match="new.npz: cannot be written: No space left"):
        label_images(images, tmp_path / "new.npz", 1)


def test_opencv_and_labels_agree_on_pixel_centres() -> None:
    image = cv2.resize(dots(2), (160, 120), interpolation=cv2.INTER_AREA)
    labels = AdaptedLabeller(DotDetector(), QUICK)(image, seed=1)
    assert np.linalg.norm(DOTS[:, None] - labels[None, :, :2], axis=2).min(1).max() < 0.5
