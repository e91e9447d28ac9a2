"""Image pairs with a known homography, and the `hard` variant of them.

Image 1 is image 0 seen through H_0to1, so the truth is exact. Everything random is seeded by the
pair's index in its list, so that a pair is the same in every run and with every method.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = (640, 480)  # width, height every image is brought to
GAMMA = (0.6, 1.6)
BLUR_PX = 5
NOISE_SIGMA = 8.0
JPEG_QUALITY = 40


@dataclass(frozen=True)
class WarpedPair:
    """image0, image1 [H,W] uint8 grey of the same size; H_0to1 [3,3] in their pixels."""

    image0: NDArray[np.uint8]
    image1: NDArray[np.uint8]
    H_0to1: NDArray[np.float64]


def warp_image(image: NDArray[np.uint8], H_0to1: NDArray[np.float64]) -> WarpedPair:
    """Bring a grey image [H,W] and the homography on it to 640x480 (aspect not kept), then warp.

    Bilinear; what image 0 does not show is black.
    """
    height, width = image.shape
    resize = np.diag([SIZE[0] / width, SIZE[1] / height, 1.0])
    H = resize @ H_0to1 @ np.linalg.inv(resize)
    image0 = cv2.resize(image, SIZE)
    image1 = cv2.warpPerspective(image0, H, SIZE, flags=cv2.INTER_LINEAR)
    return WarpedPair(image0, image1, H / H[2, 2])


def degrade(image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """The `hard` variant of a grey image [H,W]: gamma, motion blur, noise, JPEG; the same for the same seed."""
    rng = np.random.default_rng(seed)
    gamma = rng.uniform(*GAMMA)
    angle_rad = rng.uniform(0.0, np.pi)
    curve = 255.0 * (np.arange(256) / 255.0) ** gamma
    shaded = curve.astype(np.float32)[image]
    blurred = cv2.filter2D(shaded, -1, motion_kernel(BLUR_PX, angle_rad), borderType=cv2.BORDER_REPLICATE)
    noisy = blurred + rng.normal(0.0, NOISE_SIGMA, image.shape)
    pixels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)


def motion_kernel(length_px: int, angle_rad: float) -> NDArray[np.float32]:
    """A line of `length_px` (odd) pixels through the centre, weights [length,length] summing to 1.

    Each step along the line is shared bilinearly among its four pixels, so that no direction is blurred more.
    """
    reach = length_px // 2
    kernel = np.zeros((length_px + 1, length_px + 1), np.float64)  # one spare row and column for the upper neighbours
    for step in np.arange(-reach, reach + 1):
        x, y = reach + step * np.cos(angle_rad), reach + step * np.sin(angle_rad)
        left, top = int(np.floor(x)), int(np.floor(y))
        fx, fy = x - left, y - top
        kernel[top: top + 2, left: left + 2] += np.outer([1 - fy, fy], [1 - fx, fx])
    kernel = kernel[:length_px, :length_px]
    return (kernel / kernel.sum()).astype(np.float32)
