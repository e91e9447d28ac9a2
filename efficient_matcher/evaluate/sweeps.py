"""One change at a time, from none to strong: how image 1 of a pair is made of image 0.

Changes of geometry carry a shift by a fraction of a pixel, and changes of light act on a slightly
turned and zoomed view: were image 1 on image 0's own pixel grid, a detector of whole pixels would seem exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.evaluate.warps import SIZE

Grey = NDArray[np.uint8]
Matrix = NDArray[np.float64]

SHIFT_PX = (0.37, -0.43)
LIGHT_VIEW = (4.0, 1.1)  # degrees and zoom under the changes of light
FOCAL_PX = 640.0  # of the camera that `tilt` moves, 53 degrees wide


@dataclass(frozen=True)
class Sweep:
    """A change and how strong it gets.

    unit: of the values. still: the value that changes nothing. change: (image 0 [480,640], value, seed) ->
    (image 1, H_0to1).
    """

    title: str
    unit: str
    values: tuple[float, ...]
    still: float
    change: Callable[[Grey, float, int], tuple[Grey, Matrix]]


def view_of_plane(tilt_deg: float, towards_deg: float) -> Matrix:
    """H_0to1 of a camera that circles the centre of the plane it faced by `tilt_deg`, in direction `towards_deg`."""
    K = np.array([[FOCAL_PX, 0, (SIZE[0] - 1) / 2], [0, FOCAL_PX, (SIZE[1] - 1) / 2], [0, 0, 1.0]])
    axis = np.array([-np.sin(np.radians(towards_deg)), np.cos(np.radians(towards_deg)), 0.0])
    rotation = cv2.Rodrigues(np.radians(tilt_deg) * axis)[0]
    seen = np.column_stack([rotation[:, 0], rotation[:, 1], [0.0, 0.0, 1.0]])  # of (x, y, 1) on the plane, distance 1
    H = K @ seen @ np.linalg.inv(K)
    return H / H[2, 2]


def turn(angle_deg: float, zoom: float) -> Matrix:
    """H_0to1 of a rotation and a zoom about the image's centre."""
    centre = ((SIZE[0] - 1) / 2, (SIZE[1] - 1) / 2)
    return np.vstack([cv2.getRotationMatrix2D(centre, angle_deg, zoom), [0.0, 0.0, 1.0]])


def _rotation(image: Grey, angle_deg: float, seed: int) -> tuple[Grey, Matrix]:
    return _view(image, turn(angle_deg, 1.0))


def _scale(image: Grey, zoom: float, seed: int) -> tuple[Grey, Matrix]:
    return _view(image, turn(0.0, zoom))


def _tilt(image: Grey, angle_deg: float, seed: int) -> tuple[Grey, Matrix]:
    return _view(image, view_of_plane(angle_deg, np.random.default_rng(seed).uniform(0, 360)))


def _view(image: Grey, H_0to1: Matrix) -> tuple[Grey, Matrix]:
    shifted = np.array([[1, 0, SHIFT_PX[0]], [0, 1, SHIFT_PX[1]], [0, 0, 1.0]]) @ H_0to1
    return cv2.warpPerspective(_smoothed_for(image, shifted), shifted, SIZE, flags=cv2.INTER_LINEAR), shifted


def _smoothed_for(image: Grey, H_0to1: Matrix) -> Grey:
    """What would alias when made smaller, taken out, as a lens and a pixel's area do."""
    zoom = np.sqrt(abs(np.linalg.det(H_0to1[:2, :2])))
    if zoom >= 0.99:
        return image
    return cv2.GaussianBlur(image, (0, 0), 0.5 * np.sqrt(zoom ** -2 - 1))


def _light(change: Callable[[Grey, float, int], Grey]) -> Callable[[Grey, float, int], tuple[Grey, Matrix]]:
    def apply(image: Grey, value: float, seed: int) -> tuple[Grey, Matrix]:
        view, H_0to1 = _view(image, turn(*LIGHT_VIEW))
        return change(view, value, seed), H_0to1
    return apply


def _blur(image: Grey, sigma_px: float, seed: int) -> Grey:
    return cv2.GaussianBlur(image, (0, 0), sigma_px) if sigma_px else image


def _noise(image: Grey, sigma: float, seed: int) -> Grey:
    grain = np.random.default_rng(seed).normal(0.0, sigma, image.shape)
    return np.clip(np.rint(image + grain), 0, 255).astype(np.uint8)


def _gamma(image: Grey, exponent: float, seed: int) -> Grey:
    curve = np.rint(255.0 * (np.arange(256) / 255.0) ** exponent).astype(np.uint8)
    return curve[image]


def _jpeg(image: Grey, quality: float, seed: int) -> Grey:
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)


SWEEPS = {
    "rotation": Sweep("rotation in the image", "deg", (0, 10, 20, 30, 45, 60, 90, 135, 180), 0, _rotation),
    "scale": Sweep("zoom", "times", (0.4, 0.5, 0.65, 0.8, 1, 1.25, 1.6, 2, 2.5, 3), 1, _scale),
    "tilt": Sweep("viewpoint on a plane", "deg", (0, 10, 20, 30, 40, 50, 60), 0, _tilt),
    "blur": Sweep("Gaussian blur", "px sigma", (0, 0.5, 1, 1.5, 2, 3, 4), 0, _light(_blur)),
    "noise": Sweep("Gaussian noise", "grey levels sigma", (0, 4, 8, 12, 20, 30, 40), 0, _light(_noise)),
    "gamma": Sweep("gamma", "exponent", (0.3, 0.45, 0.65, 0.8, 1, 1.25, 1.6, 2.2, 3), 1, _light(_gamma)),
    "jpeg": Sweep("JPEG", "quality", (95, 80, 60, 40, 25, 15, 8), 95, _light(_jpeg)),
}
