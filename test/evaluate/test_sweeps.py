"""What each sweep does to an image, and that the homography it gives is the one it used."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from efficient_matcher.core.geometry import warp_points
from efficient_matcher.evaluate.sweeps import SHIFT_PX, SWEEPS, turn, view_of_plane

CENTRE = np.array([[319.5, 239.5]])


@pytest.fixture()
def image(make_textured: Callable[..., np.ndarray]) -> np.ndarray:
    return cv2.GaussianBlur(make_textured(480, 640), (0, 0), 1.5)


@pytest.mark.parametrize(("name", "value"), [("rotation", 30), ("scale", 2), ("scale", 0.5), ("tilt", 40), ("blur", 0),
                                             ("noise", 0), ("gamma", 1)])
def test_image_1_is_image_0_through_the_homography(image: np.ndarray, name: str, value: float) -> None:
    changed, H = SWEEPS[name].change(image, value, 0)
    y, x = np.mgrid[100:380:20, 150:490:20]
    points1 = np.stack([x.ravel(), y.ravel()], 1).astype(np.float64)
    points0 = warp_points(points1, np.linalg.inv(H))
    shown = ((points0 > 5) & (points0 < [634, 474])).all(1)
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0) if value == 0.5 else image
    expected = cv2.remap(smooth, *points0[shown].astype(np.float32).T, cv2.INTER_LINEAR).ravel()
    assert shown.sum() > 30
    assert np.abs(changed[y.ravel()[shown], x.ravel()[shown]].astype(float) - expected).mean() < 4


@pytest.mark.parametrize("name", ["rotation", "scale", "tilt"])
def test_geometry_at_rest_is_a_shift_off_the_pixel_grid(image: np.ndarray, name: str) -> None:
    _, H = SWEEPS[name].change(image, SWEEPS[name].still, 0)
    assert H == pytest.approx(np.array([[1, 0, SHIFT_PX[0]], [0, 1, SHIFT_PX[1]], [0, 0, 1.0]]), abs=1e-9)


@pytest.mark.parametrize("name", sorted(SWEEPS))
def test_same_seed_same_image_and_values_are_in_order(image: np.ndarray, name: str) -> None:
    sweep = SWEEPS[name]
    (first, H0), (second, H1) = (sweep.change(image, sweep.values[-1], 3) for _ in range(2))
    assert np.array_equal(first, second) and np.array_equal(H0, H1)
    assert sweep.still in sweep.values
    assert list(sweep.values) in (sorted(sweep.values), sorted(sweep.values, reverse=True))


def test_light_changes_what_it_says(image: np.ndarray) -> None:
    def changed(name: str, value: float) -> np.ndarray:
        return SWEEPS[name].change(image, value, 0)[0].astype(float)

    still = changed("blur", 0)
    inside = (slice(120, 360), slice(160, 480))
    assert (changed("noise", 8) - still)[inside].std() == pytest.approx(8, rel=0.1)
    assert changed("gamma", 2.2)[inside].mean() < still[inside].mean() < changed("gamma", 0.45)[inside].mean()
    assert changed("blur", 3)[inside].std() < still[inside].std()
    assert 0 < np.abs(changed("jpeg", 15) - still)[inside].mean() < 12


def test_a_tilted_plane_shrinks_by_the_cosine_in_one_direction() -> None:
    H = view_of_plane(60, 0)
    x, y = (warp_points(CENTRE + step, H) - warp_points(CENTRE, H) for step in ([0.01, 0], [0, 0.01]))
    assert x[0, 0] / 0.01 == pytest.approx(0.5, abs=1e-3) and y[0, 1] / 0.01 == pytest.approx(1, abs=1e-3)
    assert warp_points(CENTRE, H) == pytest.approx(CENTRE)
    assert view_of_plane(0, 77) == pytest.approx(np.eye(3))


def test_a_turn_keeps_the_centre() -> None:
    assert warp_points(CENTRE, turn(77, 1.7)) == pytest.approx(CENTRE)
