"""Corners of drawn shapes are where they are said to be."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from efficient_matcher.learn.data import PairConfig, pair_batch
from efficient_matcher.learn.shapes import KINDS, ShapeConfig, draw, shape_set
from efficient_matcher.learn.shapes import _board
from efficient_matcher.learn.shapes import _Canvas as Canvas


def test_crossings_of_a_checkerboard_are_exact() -> None:
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 40, 0.001)
    apart = []
    for seed in range(4):
        canvas = Canvas(np.random.default_rng(seed), 320, 240)
        inner = _board(canvas, 5, 4).reshape(5, 6, 2)[1:-1, 1:-1].reshape(-1, 1, 2).astype(np.float32)
        image = cv2.resize(canvas.pixels, (320, 240), interpolation=cv2.INTER_AREA)
        apart.append(cv2.cornerSubPix(image, inner.copy(), (4, 4), (-1, -1), criteria) - inner)
    apart = np.concatenate(apart)[:, 0]
    assert np.linalg.norm(apart, axis=1).max() < 0.2 and np.abs(apart.mean(0)).max() < 0.05


def test_a_filled_square_covers_the_area_between_its_corners() -> None:
    canvas = Canvas(np.random.default_rng(0), 64, 64)
    canvas.pixels[:] = 0
    canvas.fill(np.array([[10.3, 20.6], [40.3, 20.6], [40.3, 50.6], [10.3, 50.6]]), 200)
    image = cv2.resize(canvas.pixels, (64, 64), interpolation=cv2.INTER_AREA) / 200
    ys, xs = np.mgrid[:64, :64]
    assert (image * xs).sum() / image.sum() == pytest.approx(25.3, abs=0.1)
    assert (image * ys).sum() / image.sum() == pytest.approx(35.6, abs=0.1)
    assert image.sum() == pytest.approx(30 * 30, rel=0.03)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_has_its_corners_within_the_image(kind: str) -> None:
    counts = []
    for seed in range(6):
        drawing = draw(np.random.default_rng(seed), 160, 120, kind)
        assert drawing.image.shape == (120, 160) and drawing.image.dtype == np.uint8
        assert (drawing.corners >= 0).all() and (drawing.corners <= (159, 119)).all()
        assert np.array_equal(drawing.image, draw(np.random.default_rng(seed), 160, 120, kind).image)
        counts.append(len(drawing.corners))
        assert drawing.image.std() > 2
    assert max(counts) == 0 if kind in ("ellipses", "noise") else min(counts) >= 2


def test_a_cube_shows_seven_corners_and_the_ground_contrasts() -> None:
    drawing = draw(np.random.default_rng(3), 320, 240, "cube")
    assert len(drawing.corners) == 7
    front = drawing.corners[0].round().astype(int)
    around = drawing.image[front[1] - 8:front[1] + 9, front[0] - 8:front[0] + 9]
    assert len(np.unique(around // 8)) >= 3  # three faces meet there


def test_drawings_are_training_images_with_labels() -> None:
    images, labels = shape_set(ShapeConfig(drawings=50), seed=0)
    assert len(images) == len(images.names) == len(labels) == 50
    again, _ = shape_set(ShapeConfig(drawings=50), seed=0)
    other, _ = shape_set(ShapeConfig(drawings=50), seed=1)
    assert np.array_equal(images.images[7], again.images[7]) and not np.array_equal(images.images[7], other.images[7])
    assert labels[7].shape[1] == 3 and (labels[7][:, 2] == 1).all()
    batch = pair_batch(images, labels, PairConfig(pairs=4), 0, 0)
    assert sum(len(points) for points in batch.labels) > 20
