"""Photometric change of a training view: light, contrast, sharpening, blur, noise, compression."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.learn.recipe import setting


@dataclass(frozen=True)
class AugmentConfig:
    """How likely and how strong each change is; a strength is drawn uniformly up to the bound where not said."""

    probability: float = setting(0.35, minimum=0.0, maximum=1.0)  # of each change, independently
    # Share of the views that get every change: what a dark, shaken camera gives.
    together: float = setting(0.0, minimum=0.0, maximum=1.0)
    gamma: tuple[float, float] = (0.6, 1.6)
    gain: tuple[float, float] = (0.7, 1.3)
    offset: float = 25.0  # grey levels
    sharpen: float = 0.0  # share of what a Gaussian of 1 px takes away that is added once more
    noise_sigma: float = 20.0  # grey levels; the square root is uniform, so that most of it is weak
    blur_px: int = setting(7, minimum=3)  # length of the motion blur, at most
    defocus_px: float = 2.5  # sigma of the Gaussian blur; drawn as the noise is
    jpeg_quality: tuple[int, int] = setting((35, 90), maximum=100)

    def __post_init__(self) -> None:
        for name in ("gamma", "gain", "jpeg_quality"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be two numbers, the smaller one first, got {[low, high]}")


def augment(image: NDArray[np.uint8], rng: np.random.Generator, config: AugmentConfig) -> NDArray[np.uint8]:
    """A changed copy of a grey image [H,W]; the geometry stays."""
    probability = 1.0 if config.together and rng.random() < config.together else config.probability
    if rng.random() < probability:
        image = _light(image, rng, config)
    if config.sharpen and rng.random() < probability:
        amount = config.sharpen * rng.random()
        image = cv2.addWeighted(image, 1 + amount, cv2.GaussianBlur(image, (0, 0), 1.0), -amount, 0)
    if rng.random() < probability:
        image = motion_blur(image, int(rng.integers(3, config.blur_px + 1)), rng.uniform(0, np.pi))
    if rng.random() < 0.5 * probability:
        image = cv2.GaussianBlur(image, (0, 0), 0.3 + config.defocus_px * rng.random() ** 2)
    if rng.random() < probability:
        noise = rng.standard_normal(image.shape, np.float32) * np.float32(1 + config.noise_sigma * rng.random() ** 2)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < probability:
        quality = int(rng.integers(config.jpeg_quality[0], config.jpeg_quality[1] + 1))
        image = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)
    return image


def motion_blur(image: NDArray[np.uint8], length_px: int, angle_rad: float) -> NDArray[np.uint8]:
    """Average along a line of length_px at angle_rad, centred so that nothing shifts."""
    size = length_px | 1
    kernel = np.zeros((size, size), np.float32)
    steps = np.linspace(-(length_px - 1) / 2, (length_px - 1) / 2, 8 * length_px)
    columns = np.rint(steps * np.cos(angle_rad) + size // 2).astype(int)
    rows = np.rint(steps * np.sin(angle_rad) + size // 2).astype(int)
    np.add.at(kernel, (rows, columns), 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def _light(image: NDArray[np.uint8], rng: np.random.Generator, config: AugmentConfig) -> NDArray[np.uint8]:
    levels = np.arange(256) / 255.0
    curve = levels ** rng.uniform(*config.gamma) * rng.uniform(*config.gain) * 255.0
    curve += rng.uniform(-config.offset, config.offset)
    return cv2.LUT(image, np.clip(curve, 0, 255).astype(np.uint8))
