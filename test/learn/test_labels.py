"""Labels sit on what repeats, to a fraction of a pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from efficient_matcher.learn.labels import LabelConfig, label_image


def blobs(centres: np.ndarray, sigma: float = 3.0) -> np.ndarray:
    """Bright Gaussian blobs at sub-pixel centres [N,2] on grey, [120,160] uint8."""
    ys, xs = np.mgrid[:120, :160]
    image = np.full((120, 160), 60.0)
    for x, y in centres:
        image += 150 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * sigma**2))
    return np.clip(image, 0, 255).astype(np.uint8)


def test_blob_centres_are_found_to_a_third_of_a_pixel() -> None:
    centres = np.array([[40.3, 30.6], [110.8, 40.2], [75.5, 85.7]])
    labels = label_image(blobs(centres), seed=0)
    distance = np.linalg.norm(centres[:, None] - labels[None, :, :2], axis=2).min(1)
    assert (distance < 0.34).all()


def test_an_empty_image_has_no_labels() -> None:
    assert label_image(np.full((96, 96), 128, np.uint8), seed=0).shape == (0, 3)


def test_same_seed_same_labels(textured_image: np.ndarray) -> None:
    assert np.array_equal(label_image(textured_image, 3), label_image(textured_image, 3))


def test_labels_are_the_best_and_sorted(textured_image: np.ndarray) -> None:
    labels = label_image(textured_image, 0, LabelConfig(maximum_points=20))
    assert len(labels) == 20 and (np.diff(labels[:, 2]) <= 0).all()
    assert labels[:, 2].min() >= LabelConfig().minimum_share


@pytest.fixture
def textured_image() -> np.ndarray:
    noise = np.random.default_rng(0).random((120, 160)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
