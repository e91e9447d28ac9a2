"""Four photographs in a view: whole, with their labels where the pixels went, and sharper than they were."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from efficient_matcher.learn.tiles import tiled_view

SIZE = (160, 120)


def dotted(level: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of one level with bright dots on a grid, and a label on each dot."""
    image = np.full((320, 480), level, np.uint8)
    places = np.stack(np.meshgrid(np.arange(20, 470, 40), np.arange(20, 310, 40)), -1).reshape(-1, 2)
    for x, y in places.tolist():
        image[y - 3 : y + 4, x - 3 : x + 4] = 250
    return image, np.column_stack([places, np.full(len(places), 0.5)]).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_labels_lie_on_what_they_label(seed: int) -> None:
    images, labels = zip(*(dotted(level) for level in (20, 60, 100, 140)))
    view, points = tiled_view(images, labels, SIZE, np.random.default_rng(seed))
    assert view.shape == (120, 160) and points.shape[1] == 3 and len(points) > 8
    x, y = np.rint(points[:, :2]).astype(int).T
    assert (x >= 0).all() and (y >= 0).all() and (x < 160).all() and (y < 120).all()
    assert np.mean(view[y, x] > 150) > 0.9  # but for dots that the seam cuts
    assert (points[:, 2] == 0.5).all()


def test_every_image_is_seen_in_its_corner() -> None:
    images = [np.full((320, 480), level, np.uint8) for level in (10, 20, 30, 40)]
    view, points = tiled_view(images, [np.zeros((0, 3), np.float32)] * 4, SIZE, np.random.default_rng(0))
    assert view[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [10, 20, 30, 40] and points.shape == (0, 3)
    assert set(np.unique(view)) == {10, 20, 30, 40}


def test_a_view_of_tiles_is_sharper_than_its_images() -> None:
    rng = np.random.default_rng(0)
    images = [cv2.GaussianBlur(rng.integers(0, 256, (320, 480), np.uint8), (0, 0), 3) for _ in range(4)]
    view, _ = tiled_view(images, [np.zeros((0, 3), np.float32)] * 4, SIZE, rng)
    assert sharpness(view) > 1.5 * sharpness(images[0])


def sharpness(image: np.ndarray) -> float:
    return float(np.abs(cv2.Laplacian(image, cv2.CV_32F)).mean())


def test_small_images_are_enlarged_as_far_as_needed() -> None:
    images = [np.full((70, 64), level, np.uint8) for level in (10, 20, 30, 40)]
    view, _ = tiled_view(images, [np.zeros((0, 3), np.float32)] * 4, (640, 480), np.random.default_rng(0))
    assert view.shape == (480, 640) and set(np.unique(view)) == {10, 20, 30, 40}
