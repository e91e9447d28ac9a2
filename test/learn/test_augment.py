"""Photometric changes leave the geometry alone."""

from __future__ import annotations

import numpy as np
from efficient_matcher.learn.augment import AugmentConfig, augment, motion_blur


def test_probability_zero_changes_nothing() -> None:
    image = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64).astype(np.uint8)
    assert np.array_equal(augment(image, np.random.default_rng(0), AugmentConfig(probability=0.0)), image)


def test_motion_blur_keeps_the_centre_of_a_dot() -> None:
    dot = np.zeros((41, 41), np.uint8)
    dot[20, 20] = 255
    for angle in (0.0, 0.7, np.pi / 2, 2.5):
        blurred = motion_blur(dot, 5, angle).astype(float)
        ys, xs = np.mgrid[:41, :41]
        assert abs((blurred * xs).sum() / blurred.sum() - 20) < 0.1
        assert abs((blurred * ys).sum() / blurred.sum() - 20) < 0.1


def test_motion_blur_runs_along_its_angle() -> None:
    dot = np.zeros((41, 41), np.uint8)
    dot[20, 20] = 255
    across = motion_blur(dot, 5, 0.0)
    assert (across[20, 18:23] > 0).all() and across.sum() == across[20].sum()


def test_sharpening_steepens_edges_and_keeps_what_is_even() -> None:
    image = np.full((40, 40), 100, np.uint8)
    image[:, 20:] = 150
    sharpened = [augment(image, np.random.default_rng(seed), AugmentConfig(
        probability=1.0, sharpen=1.0, gamma=(1, 1), gain=(1, 1), offset=0, noise_sigma=0, blur_px=3, defocus_px=0,
        jpeg_quality=(100, 100))) for seed in range(8)]
    plain = [augment(image, np.random.default_rng(seed), AugmentConfig(
        probability=1.0, gamma=(1, 1), gain=(1, 1), offset=0, noise_sigma=0, blur_px=3, defocus_px=0,
        jpeg_quality=(100, 100))) for seed in range(8)]
    span = [np.mean([float(view.max()) - view.min() for view in views]) for views in (sharpened, plain)]
    assert span[0] > span[1] + 3
    assert all(abs(int(view[20, 4]) - 100) <= 4 and abs(int(view[20, 35]) - 150) <= 4 for view in sharpened)


def test_strong_changes_keep_shape_and_type_and_are_seeded() -> None:
    image = np.random.default_rng(1).integers(0, 256, (48, 64), np.uint8)
    always = AugmentConfig(probability=1.0)
    first, second = (augment(image, np.random.default_rng(5), always) for _ in range(2))
    assert first.shape == image.shape and first.dtype == np.uint8
    assert np.array_equal(first, second) and not np.array_equal(first, image)
