"""Pairs with a known homography, and the hard variant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from efficient_matcher.core.geometry import warp_points
from efficient_matcher.evaluate.warps import degrade, motion_kernel, warp_image


def test_homography_follows_the_resize(make_textured: Callable[..., np.ndarray]) -> None:
    shift = np.array([[1, 0, 16], [0, 1, 12], [0, 0, 1.0]])
    pair = warp_image(make_textured(240, 320), shift)
    assert pair.image0.shape == pair.image1.shape == (480, 640)
    assert warp_points(np.array([[10.0, 20.0]]), pair.H_0to1) == pytest.approx(np.array([[42.0, 44.0]]))
    assert np.array_equal(pair.image1[24:, 32:], pair.image0[:-24, :-32])


def test_outside_is_black(make_textured: Callable[..., np.ndarray]) -> None:
    shift = np.array([[1, 0, 100], [0, 1, 0], [0, 0, 1.0]])
    assert not warp_image(make_textured(480, 640), shift).image1[:, :99].any()


def test_hard_is_the_same_for_the_same_seed_only(make_textured: Callable[..., np.ndarray]) -> None:
    image = make_textured(240, 320)
    assert np.array_equal(degrade(image, 3), degrade(image, 3))
    assert not np.array_equal(degrade(image, 3), degrade(image, 4))
    assert degrade(image, 3).shape == image.shape


def test_hard_adds_noise_and_gamma() -> None:
    flat = np.full((240, 320), 128, np.uint8)
    hard = degrade(flat, 0)
    gamma = np.random.default_rng(0).uniform(0.6, 1.6)
    assert hard.mean() == pytest.approx(255 * (128 / 255) ** gamma, abs=1.0)
    assert 3.0 < hard.std() < 8.5  # JPEG takes some of the noise away


def test_motion_kernel_is_a_line_of_five() -> None:
    across = motion_kernel(5, 0.0)
    assert across[2] == pytest.approx(np.full(5, 0.2))
    assert np.delete(across, 2, axis=0) == pytest.approx(np.zeros((4, 5)))
    assert motion_kernel(5, np.pi / 2) == pytest.approx(across.T, abs=1e-6)


@pytest.mark.parametrize("angle", np.linspace(0, np.pi, 7))
def test_motion_kernel_keeps_brightness_and_place(angle: float) -> None:
    kernel = motion_kernel(5, angle)
    steps = np.arange(5) - 2
    assert kernel.sum() == pytest.approx(1.0)
    assert (kernel * steps).sum() == pytest.approx(0.0, abs=1e-6)
    assert (kernel * steps[:, None]).sum() == pytest.approx(0.0, abs=1e-6)
