"""A view put together from four shrunken photographs, as sharp as a camera's picture that nobody enlarged.

Photographs of 480 px give views that are smoother than most pictures of 640 px; an extractor that has seen no others
puts its points less exactly on sharp ones. Shrinking makes sharp, and four to a view fill it all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

SPLIT = (0.3, 0.7)  # where, as a share of the view, the tiles meet
SHRINK = (1.0, 2.5)  # source pixels per pixel of the view


def tiled_view(
    images: Sequence[NDArray[np.uint8]], labels: Sequence[NDArray[np.float32]], size: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Four images in one view of `size` (w, h), and the labels [N,3] (x, y, share) that lie in what is seen of each.

    images, labels: four of each.
    """
    width, height = size
    at_x, at_y = round(width * rng.uniform(*SPLIT)), round(height * rng.uniform(*SPLIT))
    corners = [(0, 0, at_x, at_y), (at_x, 0, width, at_y), (0, at_y, at_x, height), (at_x, at_y, width, height)]
    view, points = np.empty((height, width), np.uint8), []
    for image, own, (left, top, right, bottom) in zip(images, labels, corners, strict=True):
        part, inside = _shrunken_part(image, own, (right - left, bottom - top), rng)
        view[top:bottom, left:right] = part
        points.append(inside + np.float32([left, top, 0]))
    return view, np.concatenate(points)


def _shrunken_part(
    image: NDArray[np.uint8], labels: NDArray[np.float32], size: tuple[int, int], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A random part of the image brought to `size` (w, h), shrunk as far as drawn and as the image is large enough."""
    height, width = image.shape
    most = min(width / size[0], height / size[1])
    shrink = min(rng.uniform(*SHRINK), most)
    part_w, part_h = min(width, round(size[0] * shrink)), min(height, round(size[1] * shrink))
    view, points = random_part(image, labels, (part_w, part_h), size, rng)
    seen = ((points[:, :2] >= 0) & (points[:, :2] <= np.float32(size) - 1)).all(axis=1)
    return view, points[seen]


def random_part(
    image: NDArray[np.uint8], labels: NDArray[np.float32], part: tuple[int, int], size: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A part of the image, its own (w, h) given, from anywhere in it and brought to `size` (w, h); all labels [N,3],
    (x, y, share), where they lie then, be it outside."""
    (part_w, part_h), (height, width) = part, image.shape
    x0, y0 = rng.integers(0, width - part_w + 1), rng.integers(0, height - part_h + 1)
    cut = np.ascontiguousarray(image[y0 : y0 + part_h, x0 : x0 + part_w])
    view = cv2.resize(cut, size, interpolation=cv2.INTER_AREA if part_w > size[0] else cv2.INTER_LINEAR)
    points = (labels[:, :2] - np.float32([x0, y0]) + 0.5) * np.float32([size[0] / part_w, size[1] / part_h]) - 0.5
    return view, np.column_stack([points, labels[:, 2]])
