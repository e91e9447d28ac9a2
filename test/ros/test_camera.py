"""Rays of keypoints: pixels projected from known rays come back as those rays."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from efficient_matcher.errors import MatcherError
from efficient_matcher.ros.camera import CameraModel

K = np.array([[400.0, 0, 310], [0, 420, 250], [0, 0, 1]])
PLUMB_BOB = [-0.3, 0.1, 0.001, -0.002, -0.01]
RATIONAL = [0.2, -0.1, 0.001, 0.002, 0.01, 0.3, -0.05, 0.02]
FISHEYE = [0.02, -0.01, 0.003, -0.001]
SIZE = (640, 480)


def camera_info(model: str = "plumb_bob", d: list[float] | None = None, **changes: object) -> SimpleNamespace:
    rectified = np.array([[380.0, 0, 320, 0], [0, 380, 240, 0], [0, 0, 1, 0]])
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    info = SimpleNamespace(width=640, height=480, distortion_model=model, d=[0.0] * 5 if d is None else d,
                           k=K.ravel(), p=rectified.ravel(), binning_x=0, binning_y=0, roi=roi)
    info.__dict__.update(changes)
    return info


def grid() -> np.ndarray:
    """[N,3] float64 rays over most of the image."""
    x, y = np.meshgrid(np.linspace(-0.6, 0.6, 7), np.linspace(-0.45, 0.45, 5))
    return np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1)


@pytest.mark.parametrize(("model", "d"), [("plumb_bob", []), ("plumb_bob", PLUMB_BOB),
                                          ("rational_polynomial", RATIONAL)])
def test_pinhole_rays_invert_the_projection(model: str, d: list[float]) -> None:
    pixels, _ = cv2.projectPoints(grid(), np.zeros(3), np.zeros(3), K, np.array(d) if d else np.zeros(5))
    rays = CameraModel.from_message(camera_info(model, d)).rays(pixels[:, 0].astype(np.float32), SIZE)
    assert rays.dtype == np.float32
    np.testing.assert_allclose(rays, grid(), atol=2e-5)


@pytest.mark.parametrize("model", ["equidistant", "fisheye"])
def test_fisheye_rays_invert_the_projection(model: str) -> None:
    pixels, _ = cv2.fisheye.projectPoints(grid().reshape(-1, 1, 3), np.zeros(3), np.zeros(3), K, np.array(FISHEYE))
    rays = CameraModel.from_message(camera_info(model, FISHEYE)).rays(pixels[:, 0].astype(np.float32), SIZE)
    np.testing.assert_allclose(rays, grid(), atol=2e-5)


@pytest.mark.parametrize(("model", "d", "points"), [
    ("equidistant", [-0.02, 0.001, 0.0, 0.0], [(310 + 620, 250), (310 + 700, 250)]),  # past 90 degrees
    ("equidistant", [0.1, 0.0, 0.0, 0.0], [(310 + 640, 250)]),  # where OpenCV clips the angle
    ("plumb_bob", [-0.35, 0.12, 0.0, 0.0, -0.02], [(310 + 700, 250 + 500)])])  # past the turning point
def test_what_no_ray_leads_to_has_no_ray(model: str, d: list[float], points: list[tuple[float, float]]) -> None:
    camera = CameraModel.from_message(camera_info(model, d))
    rays = camera.rays(np.float32([*points, (330, 260)]), SIZE)
    assert np.isnan(rays[:-1]).all() and np.isfinite(rays[-1]).all()


def test_a_rectified_image_needs_no_known_distortion() -> None:
    camera = CameraModel.from_message(camera_info("inverse_brown_conrady"))
    np.testing.assert_allclose(camera.rays(np.float32([[700, 240]]), SIZE, undistort=False), [[1, 0, 1]], atol=1e-6)


def test_rectified_image_takes_rays_from_p() -> None:
    points = np.float32([[320, 240], [700, 240]])
    rays = CameraModel.from_message(camera_info(d=PLUMB_BOB)).rays(points, SIZE, undistort=False)
    np.testing.assert_allclose(rays, [[0, 0, 1], [1, 0, 1]], atol=1e-6)


def test_binning_and_region_of_interest_shift_and_scale_the_intrinsics() -> None:
    roi = SimpleNamespace(x_offset=100, y_offset=40, width=400, height=300)
    model = CameraModel.from_message(camera_info(binning_x=2, binning_y=2, roi=roi))
    assert model.size == (200, 150)
    # full-resolution pixel u is (u - offset + 0.5) / 2 - 0.5 of the binned image
    full = np.float32([[310, 250], [350, 292]])
    binned = (full - [100, 40] + 0.5) / 2 - 0.5
    np.testing.assert_allclose(model.rays(binned.astype(np.float32), (200, 150)), [[0, 0, 1], [0.1, 0.1, 1]], atol=1e-6)


def test_ros1_field_names_are_read_too() -> None:
    info = camera_info()
    old = SimpleNamespace(**{key.upper() if key in "kdp" else key: value for key, value in vars(info).items()})
    np.testing.assert_array_equal(CameraModel.from_message(old).matrix, K)


def test_no_points_are_no_rays() -> None:
    for model, d in (("plumb_bob", PLUMB_BOB), ("equidistant", FISHEYE)):
        rays = CameraModel.from_message(camera_info(model, d)).rays(np.zeros((0, 2), np.float32), SIZE)
        assert rays.shape == (0, 3)


def test_uncalibrated_camera_is_named() -> None:
    with pytest.raises(MatcherError, match="not calibrated"):
        CameraModel.from_message(camera_info(k=np.zeros(9)))


def test_unknown_distortion_model_is_named() -> None:
    with pytest.raises(MatcherError, match="distortion_model 'kannala'"):
        CameraModel.from_message(camera_info("kannala")).rays(np.zeros((1, 2), np.float32), SIZE)


def test_wrong_number_of_coefficients_is_named() -> None:
    with pytest.raises(MatcherError, match="d has 3 values"):
        CameraModel.from_message(camera_info(d=[0.1, 0.2, 0.3])).rays(np.zeros((1, 2), np.float32), SIZE)


def test_other_image_size_is_named() -> None:
    model = CameraModel.from_message(camera_info())
    with pytest.raises(MatcherError, match="640x480 images, the image is 320x240"):
        model.rays(np.zeros((1, 2), np.float32), (320, 240))


def test_rectified_image_without_p_is_named() -> None:
    model = CameraModel.from_message(camera_info(p=np.zeros(12)))
    with pytest.raises(MatcherError, match="p is zero"):
        model.rays(np.zeros((1, 2), np.float32), SIZE, undistort=False)


@pytest.mark.parametrize("field", [{"k": np.full(9, np.nan)}, {"d": [np.inf] * 5}, {"p": np.full(12, np.nan)}])
def test_calibration_that_is_no_number_is_named(field: dict) -> None:
    with pytest.raises(MatcherError, match="k, d or p is not finite"):
        CameraModel.from_message(camera_info(**field))
