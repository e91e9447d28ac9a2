"""Patches laid over each other: moves whose length is known, and what the alignment says of itself."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from efficient_matcher.core import align as module
from efficient_matcher.core.align import Alignment, blurred, detail

pytestmark = pytest.mark.usefixtures("kernels")

POINTS = np.stack(np.meshgrid(np.arange(40, 280, 40), np.arange(40, 200, 40)), -1).reshape(-1, 2).astype(np.float32)
STILL = np.tile(np.eye(2, dtype=np.float32), (len(POINTS), 1, 1))


def align(image0: np.ndarray, image1: np.ndarray, points0: np.ndarray, points1: np.ndarray, motions: np.ndarray,
          prior: float) -> Alignment:
    images = [blurred(image, ratio) for image, ratio in zip((image0, image1), detail(motions if len(motions) else STILL))]
    return module.align(*images, points0, points1, motions, prior)


def shifted(image: np.ndarray, x: float, y: float) -> np.ndarray:
    return cv2.warpAffine(image, np.array([[1, 0, x], [0, 1, y]]), image.shape[::-1], borderMode=cv2.BORDER_REFLECT)


@pytest.mark.parametrize("x, y", [(0.0, 0.0), (0.25, -0.5), (-1.0, 0.75), (1.1, 1.0)])
def test_moves_are_the_shift(make_textured: Callable[..., np.ndarray], x: float, y: float) -> None:
    image = make_textured()
    found = align(image, shifted(image, x, y), POINTS, POINTS, STILL, 1.0)
    np.testing.assert_allclose(np.median(found.move, axis=0), [x, y], atol=0.05)
    assert np.median(found.correlation) > 0.98 and found.seen.all()


def test_many_patches_find_the_same_with_fewer_samples(make_textured: Callable[..., np.ndarray]) -> None:
    image, times = make_textured(), module.MANY // len(POINTS) + 1
    few = align(image, shifted(image, 0.5, -0.25), POINTS, POINTS, STILL, 1.0)
    places = np.tile(POINTS, (times, 1))
    many = align(image, shifted(image, 0.5, -0.25), places, places, np.tile(STILL, (times, 1, 1)), 1.0)
    np.testing.assert_array_equal(many.move[:len(POINTS)], many.move[-len(POINTS):])
    np.testing.assert_allclose(many.move[:len(POINTS)], few.move, atol=0.1)
    assert many.sharpness[:len(POINTS)].mean() < few.sharpness.mean()


def test_gain_and_offset_change_nothing(make_textured: Callable[..., np.ndarray]) -> None:
    image = make_textured() // 2 + 40
    plain = align(image, shifted(image, 0.6, 0.3), POINTS, POINTS, STILL, 1.0)
    brighter = align(image, (1.5 * shifted(image, 0.6, 0.3) - 30).astype(np.uint8), POINTS, POINTS, STILL, 1.0)
    np.testing.assert_allclose(brighter.move, plain.move, atol=0.06)


def test_the_prior_holds_points_back(make_textured: Callable[..., np.ndarray]) -> None:
    image = make_textured()
    moved = [np.median(align(image, shifted(image, 1.0, 0), POINTS, POINTS, STILL, prior).length)
             for prior in (0.001, 0.01, 1.0)]
    assert moved[0] < 0.1 and moved[0] < moved[1] < moved[2]


def test_lengths_are_in_pixels_of_the_coarser_image(make_textured: Callable[..., np.ndarray]) -> None:
    image = make_textured()
    twice = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    places = (POINTS + 0.5) * 2 - 0.5
    found = align(image, twice, POINTS, places + 1.0, 2 * STILL, 1.0)
    np.testing.assert_allclose(np.median(found.move, axis=0), [-1, -1], atol=0.1)
    assert np.median(found.length) == pytest.approx(np.sqrt(2) / 2, abs=0.05)


def test_a_flat_image_is_not_sharp_and_nothing_is_nan() -> None:
    flat = np.full((240, 320), 77, np.uint8)
    found = align(flat, flat, POINTS, POINTS, STILL, 1.0)
    assert found.sharpness.max() < 1e-3 and found.length.max() == 0
    assert all(np.isfinite(values).all() for values in vars(found).values())


def test_an_edge_is_sharp_in_one_direction_only(make_textured: Callable[..., np.ndarray]) -> None:
    edge = np.zeros((240, 320), np.uint8)
    edge[:, 100:] = 200
    on_edge = np.array([[100, 120]], np.float32)
    corner = align(make_textured(), make_textured(), on_edge, on_edge, STILL[:1], 1.0)
    assert align(edge, edge, on_edge, on_edge, STILL[:1], 1.0).sharpness[0] < 0.01 * corner.sharpness[0]


def test_patches_mostly_outside_are_not_seen(make_textured: Callable[..., np.ndarray]) -> None:
    image = make_textured()
    points = np.array([[0, 0], [-50, 100], [1e4, 1e4], [160, 120]], np.float32)
    found = align(image, image, points, points, STILL[:4], 1.0)
    assert found.seen.tolist() == [False, False, False, True]
    assert all(np.isfinite(values).all() for values in vars(found).values())


def test_no_patches() -> None:
    flat = np.zeros((24, 32), np.uint8)
    found = align(flat, flat, POINTS[:0], POINTS[:0], STILL[:0], 1.0)
    assert found.move.shape == (0, 2) and len(found.sharpness) == 0
