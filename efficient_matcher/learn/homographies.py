"""Random homographies drawn as the benchmark's distribution describes them.

Conventions: points are [N,2], x right, y down, pixels with centres at integers; a homography H_0to1
maps image 0 to image 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.learn.recipe import setting

_PATCH = 0.85  # share of the image, from the top left, that decides which way a benchmark pair is moved
REFERENCE_WIDTH = 640.0  # the perspective term below is per pixel of an image this wide


@dataclass(frozen=True)
class HomographyRange:
    """How far a random homography may go from the identity."""

    perspective: float = 0.0004  # standard deviation, per pixel at 640 px width
    shear_ratio: float = 0.04
    shear_angle_deg: float = 10.0
    rotation_deg: float = 25.0
    scale: tuple[float, float] = (1.0, 2.2)
    translation: float = 0.5  # share of the image, each axis
    minimum_overlap: float = setting(0.25, maximum=0.9)  # share of image 1 that image 0 must fill

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be two numbers above 0, the smaller one first, got {list(self.scale)}")


BENCHMARK = HomographyRange(translation=0.6, minimum_overlap=0.15)  # no published pair overlaps less
TRAINING = HomographyRange(rotation_deg=30.0, scale=(1.0, 2.4), translation=0.6, minimum_overlap=0.2)  # a little wider


def random_homography(
    rng: np.random.Generator, width: int, height: int, extent: HomographyRange = HomographyRange(),
    long_side: float | None = None,
) -> NDArray[np.float64]:
    """Draw H_0to1 [3,3] for an image of width x height pixels, acting about its centre.

    long_side: what the perspective term is scaled by, the width if not given. Draws again until image 0 fills at least
    `minimum_overlap` of image 1.
    """
    for _ in range(100):
        H_0to1 = _draw(rng, width, height, extent, long_side or width)
        if overlap(H_0to1, width, height) >= extent.minimum_overlap:
            return H_0to1
    return np.eye(3)


def benchmark_homography(
    rng: np.random.Generator, width: int, height: int, extent: HomographyRange = BENCHMARK
) -> NDArray[np.float64]:
    """Draw H_0to1 [3,3] for an image of width x height pixels as the published evaluation pairs were drawn.

    Unlike `random_homography`, the perspective acts about the top left corner, so that the centre is zoomed by more
    than `scale` says: by 0.7 to 3.7 among the published pairs. Shear, rotation and scale act about the centre, and
    the translation brings in what lies outside. `minimum_overlap` as there.
    """
    for _ in range(100):
        H_0to1 = _draw_benchmark(rng, width, height, extent)
        if overlap(H_0to1, width, height) >= extent.minimum_overlap:
            return H_0to1
    return np.eye(3)


def squeezed_homography(
    rng: np.random.Generator, shape: tuple[int, ...], size: tuple[int, int], extent: HomographyRange,
    as_published: bool = True,
) -> NDArray[np.float64]:
    """A homography [3,3] of an image of shape (h, w, ..) in its own proportions, for a view resized to `size` (w, h).

    as_published: drawn by `benchmark_homography`, else by `random_homography`. A camera turns in its own frame; once
    the image is squeezed to the network's size the turn has become a shear, and the benchmark's pairs are of that kind.
    """
    grow = REFERENCE_WIDTH / max(shape[:2])
    width, height = round(shape[1] * grow), round(shape[0] * grow)
    squeeze = np.diag([size[0] / width, size[1] / height, 1.0])
    H = (benchmark_homography(rng, width, height, extent) if as_published
         else random_homography(rng, width, height, extent, REFERENCE_WIDTH))
    H = squeeze @ H @ np.linalg.inv(squeeze)
    return H / H[2, 2]


def overlap(H_0to1: NDArray[np.float64], width: int, height: int, steps: int = 16) -> float:
    """Share of image 1's area, on a grid of steps x steps, that comes from inside image 0."""
    xs, ys = np.meshgrid(np.linspace(0, width - 1, steps), np.linspace(0, height - 1, steps))
    back = np.stack([xs.ravel(), ys.ravel(), np.ones(xs.size)]).T @ np.linalg.inv(H_0to1).T
    depth = np.where(back[:, 2] > 1e-9, back[:, 2], np.nan)
    u, v = back[:, 0] / depth, back[:, 1] / depth
    return float(np.mean((u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)))


def warp(points: NDArray[np.floating], H_0to1: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map points [N,2] of image 0 to image 1 pixels [N,2]; NaN behind the horizon."""
    mapped = np.column_stack([points, np.ones(len(points))]) @ H_0to1.T
    return mapped[:, :2] / np.where(mapped[:, 2:] > 1e-9, mapped[:, 2:], np.nan)


def _draw(
    rng: np.random.Generator, width: int, height: int, extent: HomographyRange, long_side: float
) -> NDArray[np.float64]:
    to_centre = np.array([[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, 1.0]])
    perspective = np.eye(3)
    perspective[2, :2] = rng.normal(0, extent.perspective * REFERENCE_WIDTH / long_side, 2)
    affine = _shear(rng, extent) @ _rotation(np.radians(rng.uniform(-1, 1) * extent.rotation_deg))
    affine[:2, :2] *= rng.uniform(*extent.scale)
    affine[:2, 2] = rng.uniform(-1, 1, 2) * extent.translation * (width, height)
    H_0to1 = np.linalg.inv(to_centre) @ affine @ perspective @ to_centre
    return H_0to1 / H_0to1[2, 2]


def _draw_benchmark(
    rng: np.random.Generator, width: int, height: int, extent: HomographyRange
) -> NDArray[np.float64]:
    to_centre = np.array([[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, 1.0]])
    perspective = np.eye(3)
    perspective[2, :2] = rng.normal(0, extent.perspective * REFERENCE_WIDTH / max(width, height), 2)
    affine = _rotation(np.radians(rng.uniform(-1, 1) * extent.rotation_deg)) @ _shear(rng, extent)
    affine[:2, :2] *= rng.uniform(*extent.scale)
    H_0to1 = np.linalg.inv(to_centre) @ affine @ to_centre @ perspective
    H_0to1[:2] += np.outer(_towards(rng, H_0to1, (width, height), extent.translation), H_0to1[2])
    return H_0to1 / H_0to1[2, 2]


def _towards(rng: np.random.Generator, H_0to1: NDArray[np.float64], size: tuple[int, int],
             most: float) -> NDArray[np.float64]:
    """A translation in pixels that looks, on one side of each axis, for what was cut off or left empty there."""
    corners = warp(np.array([[0, 0], [0, 1], [1, 1], [1, 0]]) * (_PATCH * np.array(size)), H_0to1)
    cut_off = np.nanmin(corners, axis=0) < 0  # at the left, at the top
    empty = np.nanmax(corners, axis=0) < size  # at the right, at the bottom
    forward = np.where(rng.random(2) > 0.5, cut_off, empty)
    return np.where(forward, 1.0, -1.0) * rng.uniform(0, most, 2) * size


def _shear(rng: np.random.Generator, extent: HomographyRange) -> NDArray[np.float64]:
    stretch = np.diag([1 + rng.uniform(-1, 1) * extent.shear_ratio, 1 + rng.uniform(-1, 1) * extent.shear_ratio, 1.0])
    turn = _rotation(np.radians(rng.uniform(-1, 1) * extent.shear_angle_deg))
    return turn.T @ stretch @ turn


def _rotation(angle_rad: float) -> NDArray[np.float64]:
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
