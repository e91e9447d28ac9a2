"""Exact pictures and depth of textured rectangles in space.

Everything in a scene is a flat rectangle. The inverse depth of a plane is linear in the pixel, and so are the
limits of a rectangle, so each one is a span of pixels per image row: no triangles, no rays one by one.

Conventions: metres; camera coordinates are x right, y down, z ahead; a pose is T_world_to_camera [4,4];
pixels as everywhere, centres at integers. Depth is z in the camera, 0 where nothing is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NEAR_M = 0.05
NOTHING = -1  # in a map of surfaces
SUPERSAMPLING = 2  # rays per pixel and axis
COARSE_PX = 16  # mip level and light vary slowly: they are worked out on such a grid
SMALLEST_MIP_PX = 4
EDGE_ON = 1e-9


@dataclass(frozen=True)
class Rectangle:
    """A textured rectangle: corner, and edges along the rows and columns of its texture, [3] metres each.

    paper: makes its texture [h,w] uint8 grey, stretched over the whole; called once it is seen. Both sides show it.
    """

    corner: Array
    edge_x: Array
    edge_y: Array
    paper: Callable[[], NDArray[np.uint8]]

    @cached_property
    def mips(self) -> list[NDArray[np.uint8]]:
        """The texture, and each next one of half the side."""
        levels = [self.paper()]
        while min(levels[-1].shape) >= 2 * SMALLEST_MIP_PX:
            height, width = levels[-1].shape
            levels.append(cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
        return levels


@dataclass(frozen=True)
class Lamp:
    """A point light over an even one: brightness = even + point cos(angle) / (1 + (distance / reach)^2)."""

    position: Array
    even: float = 0.6
    point: float = 0.6
    reach_m: float = 4.0


@dataclass(frozen=True)
class Camera:
    """K [3,3], pose T_world_to_camera [4,4], size (width, height) px."""

    K: Array
    pose: Array
    size: tuple[int, int]

    def resized(self, factor: float) -> Camera:
        """The same camera with `factor` times as many pixels along each axis."""
        scale = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1.0]])
        return Camera(scale @ self.K, self.pose, (round(self.size[0] * factor), round(self.size[1] * factor)))


def render(rectangles: Sequence[Rectangle], camera: Camera,
           lamp: Lamp) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """What the camera sees: grey [H,W] uint8, anti-aliased, and the depth of the pixel centres [H,W] float32, m."""
    fine = camera.resized(SUPERSAMPLING)
    surfaces, inverse = rasterize(rectangles, fine)
    counts = np.bincount((surfaces.ravel() - NOTHING), minlength=1)
    canvas = np.zeros(surfaces.shape, np.float32)
    for index in np.flatnonzero(counts[-NOTHING:]):
        _paint(canvas, surfaces == index, inverse, rectangles[index], fine, lamp)
    image = cv2.resize(canvas, camera.size, interpolation=cv2.INTER_AREA)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), depth_map(rectangles, camera)


def depth_map(rectangles: Sequence[Rectangle], camera: Camera) -> NDArray[np.float32]:
    """Depth of the pixel centres [H,W], m; 0 where nothing is seen."""
    surfaces, inverse = rasterize(rectangles, camera)
    return np.where(surfaces == NOTHING, 0, 1 / np.maximum(inverse, 1e-6)).astype(np.float32)


def rasterize(rectangles: Sequence[Rectangle], camera: Camera) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """The nearest rectangle of each pixel centre [H,W], or NOTHING, and its inverse depth [H,W], 1/m."""
    width, height = camera.size
    surfaces = np.full((height, width), NOTHING, np.int16)
    nearest = np.zeros((height, width), np.float32)
    to_plane = _to_plane(rectangles, camera)
    first, last = _spans(to_plane, width, height)
    for index in np.flatnonzero((first <= last).any(1)):
        rows = np.flatnonzero(first[index] <= last[index])
        top, bottom = rows[0], rows[-1] + 1
        left, right = first[index, rows].min(), last[index, rows].max() + 1
        part = np.s_[top:bottom, left:right]
        x, y = np.arange(left, right, dtype=np.int16), np.arange(top, bottom)[:, None]
        inverse = _linear(to_plane[index, 2], x, y)
        seen = inverse > nearest[part]
        seen &= x >= first[index, top:bottom, None]
        seen &= x <= last[index, top:bottom, None]
        np.copyto(nearest[part], inverse, where=seen)
        np.copyto(surfaces[part], np.int16(index), where=seen)
    return surfaces, nearest


def _to_plane(rectangles: Sequence[Rectangle], camera: Camera) -> Array:
    """Pixel (x, y, 1) to (s, t, 1) / depth, [R,3,3], where 0 <= s, t <= 1 is the rectangle; zero when seen edge-on."""
    R, t = camera.pose[:3, :3], camera.pose[:3, 3]
    frames = np.array([(r.edge_x, r.edge_y, r.corner) for r in rectangles]) @ R.T
    frames[:, 2] += t
    edge_on = np.abs(np.linalg.det(frames)) < EDGE_ON
    frames[edge_on] = np.eye(3)
    result = np.linalg.inv(camera.K @ frames.transpose(0, 2, 1))
    result[edge_on] = 0
    return result


def _spans(to_plane: Array, width: int, height: int) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """First and last pixel of each row [R,height] that lie within a rectangle before the camera; first > last: none."""
    s, t, w = to_plane.transpose(1, 0, 2)
    limits = np.stack([s, w - s, t, w - t, np.array([0, 0, 1 / NEAR_M]) - w], 1)  # each a x + b y + c >= 0
    a, b, c = (limits[..., i, None] for i in range(3))
    rest = b * np.arange(height) + c  # [R,5,height]
    bound = -rest / np.where(a == 0, 1, a)
    low = np.where(a > 0, bound, 0).max(1)
    high = np.where(a < 0, bound, width - 1.0).min(1)
    # where s, w - s >= 0 so is w; all of them zero is a rectangle seen edge-on
    possible = (np.where(a == 0, rest, 1) >= 0).all(1) & w.any(1)[:, None]
    low, high = np.clip(np.ceil(low), 0, width), np.clip(np.floor(high), -1, width - 1)
    return low.astype(np.int16), np.where(possible, high, -1).astype(np.int16)


def _linear(row: Array, x: NDArray[np.integer], y: NDArray[np.integer]) -> NDArray[np.float32]:
    return np.add(np.float32(row[0]) * x.astype(np.float32), (row[1] * y + row[2]).astype(np.float32))


def _paint(canvas: NDArray[np.float32], mine: NDArray[np.bool_], inverse: NDArray[np.float32], rectangle: Rectangle,
           camera: Camera, lamp: Lamp) -> None:
    """Fill the pixels `mine` of the canvas with the lit texture of a rectangle."""
    left, top, width, height = cv2.boundingRect(mine.view(np.uint8))
    part = np.s_[top:top + height, left:left + width]
    mine = mine[part]
    seen = inverse[part][mine]
    shift = np.array([[1, 0, left], [0, 1, top], [0, 0, 1.0]])
    to_plane = _to_plane([rectangle], camera)[0]
    x, y = np.meshgrid(np.linspace(left, left + width - 1, max(2, width // COARSE_PX)),
                       np.linspace(top, top + height - 1, max(2, height // COARSE_PX)))
    coarse = np.clip(_linear(to_plane[2], x, y), seen.min(), seen.max())
    level = _mip_level(rectangle, to_plane, coarse, camera, x, y)
    light = _light(rectangle, coarse, camera, lamp, x, y)
    texture = _lookup(rectangle, to_plane @ shift, level, (width, height))
    texture *= cv2.resize(light.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    np.copyto(canvas[part], texture, where=mine)


def _lookup(rectangle: Rectangle, to_plane: Array, level: Array, size: tuple[int, int]) -> NDArray[np.float32]:
    """The texture at every pixel of a region of `size`: between the two mips next to each pixel's level."""
    last = len(rectangle.mips) - 1
    level = np.clip(level, 0, last).astype(np.float32)
    lowest, highest = int(np.floor(level.min())), int(np.ceil(level.max()))
    fine = cv2.resize(level, size, interpolation=cv2.INTER_LINEAR) if highest > lowest else None
    result = np.zeros(size[::-1], np.float32)
    for index in range(lowest, highest + 1):
        mip = rectangle.mips[index]
        height, width = mip.shape
        to_mip = np.array([[width, 0, -0.5], [0, height, -0.5], [0, 0, 1.0]]) @ to_plane
        seen = cv2.warpPerspective(mip, to_mip, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                                   borderMode=cv2.BORDER_REFLECT)
        if fine is None:
            return seen.astype(np.float32)
        weight = np.abs(fine - index)
        np.subtract(np.float32(1), weight, out=weight)  # OpenCV takes a region one wide and four high for a scalar
        np.maximum(weight, 0, out=weight)
        result += weight * seen
    return result


def _mip_level(rectangle: Rectangle, to_plane: Array, inverse: Array, camera: Camera, x: Array, y: Array) -> Array:
    """Mip whose pixels are as large as those of the image; between the mean and the larger axis where seen askew."""
    height, width = rectangle.mips[0].shape
    area = abs(np.linalg.det(to_plane)) * width * height / inverse**3  # texture pixels in a pixel
    askew = np.abs(_cosine(rectangle, camera, x, y))
    return 0.5 * np.log2(area) - 0.25 * np.log2(np.maximum(askew, 0.05))


def _cosine(rectangle: Rectangle, camera: Camera, x: Array, y: Array) -> Array:
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(camera.K).T
    return rays @ (camera.pose[:3, :3] @ _normal(rectangle)) / np.linalg.norm(rays, axis=-1)


def _light(rectangle: Rectangle, inverse: Array, camera: Camera, lamp: Lamp, x: Array, y: Array) -> Array:
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(camera.K).T
    R, t = camera.pose[:3, :3], camera.pose[:3, 3]
    to_lamp = lamp.position - (rays / inverse[..., None] - t) @ R
    distance = np.linalg.norm(to_lamp, axis=-1)
    cosine = np.abs(to_lamp @ _normal(rectangle)) / np.maximum(distance, 1e-6)
    return lamp.even + lamp.point * cosine / (1 + (distance / lamp.reach_m) ** 2)


def _normal(rectangle: Rectangle) -> Array:
    normal = np.cross(rectangle.edge_x, rectangle.edge_y)
    return normal / np.linalg.norm(normal)
