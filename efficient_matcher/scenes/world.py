"""Random scenes: rooms with furniture, open ground between facades, and panels hanging in the air.

World coordinates are metres, x and z along the floor, y down (the floor is y = 0, up is negative).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.scenes.render import Array, Lamp, Rectangle

Images = Sequence[NDArray[np.uint8]]

KINDS = ("room", "open", "panels")
TEXELS_PER_M = (90.0, 260.0)
LARGEST_TEXTURE_PX = 1600
PICTURE_M = (0.9, 2.2)  # a large surface is papered with images about this wide
PLAIN_SHARE = 0.15  # of the surfaces have hardly any texture


@dataclass(frozen=True)
class World:
    """A scene: what there is, where cameras may be (box [2,3], lowest and highest corner), and the lamp."""

    kind: str
    rectangles: list[Rectangle]
    free: Array
    lamp: Lamp


def draw_world(images: Images, rng: np.random.Generator, kind: str | None = None) -> World:
    """A random scene papered with grey images [h,w]; kind: of KINDS, random if not given."""
    kind = kind or str(rng.choice(KINDS))
    return {"room": _room, "open": _open_ground, "panels": _panels}[kind](images, rng)


def _room(images: Images, rng: np.random.Generator) -> World:
    width, depth, height = rng.uniform(4, 9), rng.uniform(4, 9), rng.uniform(2.4, 3.4)
    rectangles = _shell(images, rng, np.array([width, height, depth]))
    for _ in range(rng.integers(3, 9)):
        size = rng.uniform((0.3, 0.3, 0.3), (1.5, 1.9, 1.2))
        place = rng.uniform(-0.5, 0.5, 2) * (width - 1, depth - 1)
        rectangles += _box(images, rng, np.array([place[0], -size[1] / 2, place[1]]), size, _yaw(rng))
    for _ in range(rng.integers(2, 7)):
        rectangles.append(_on_wall(images, rng, width, depth, height))
    free = np.array([[-width / 2 + 0.4, -min(2.2, height - 0.4), -depth / 2 + 0.4],
                     [width / 2 - 0.4, -0.7, depth / 2 - 0.4]])
    lamp = Lamp(rng.uniform((-width / 3, -height + 0.1, -depth / 3), (width / 3, -height + 0.6, depth / 3)))
    return World("room", rectangles, free, lamp)


def _open_ground(images: Images, rng: np.random.Generator) -> World:
    rectangles = _shell(images, rng, np.array([60.0, 18.0, 60.0]))
    rectangles.append(_floor(images, rng, 24.0, -0.002))  # a finer ground over the coarse one
    for _ in range(rng.integers(3, 7)):
        bearing, distance = rng.uniform(0, 2 * np.pi), rng.uniform(6, 16)
        size = np.array([rng.uniform(3, 10), rng.uniform(3, 8), rng.uniform(1, 5)])
        place = np.array([distance * np.sin(bearing), -size[1] / 2, distance * np.cos(bearing)])
        rectangles += _box(images, rng, place, size, _yaw(rng))
    for _ in range(rng.integers(5, 13)):
        bearing, distance = rng.uniform(0, 2 * np.pi), rng.uniform(1, 10)
        size = rng.uniform((0.4, 0.4, 0.4), (2.0, 2.2, 2.0))
        place = np.array([distance * np.sin(bearing), -size[1] / 2, distance * np.cos(bearing)])
        rectangles += _box(images, rng, place, size, _yaw(rng))
    free = np.array([[-5.0, -2.5, -5.0], [5.0, -1.0, 5.0]])
    return World("open", rectangles, free, Lamp(rng.uniform((-20, -15, -20), (20, -8, 20)), reach_m=25.0))


def _panels(images: Images, rng: np.random.Generator) -> World:
    side = rng.uniform(8, 14)
    rectangles = _shell(images, rng, np.array([side, side, side]))
    middle = np.array([0.0, -side / 2, 0.0])
    for _ in range(rng.integers(12, 26)):
        place = middle + rng.uniform(-0.42, 0.42, 3) * side
        turn = cv2.Rodrigues(rng.uniform(-np.pi, np.pi, 3))[0]
        if rng.random() < 0.3:
            rectangles += _box(images, rng, place, rng.uniform(0.4, 1.6, 3), turn)
        else:
            rectangles.append(_centred(images, rng, place, turn[:, 0] * rng.uniform(0.6, 2.6),
                                       turn[:, 1] * rng.uniform(0.6, 2.2)))
    free = np.stack([middle - 0.42 * side, middle + 0.42 * side])
    return World("panels", rectangles, free, Lamp(middle + rng.uniform(-0.3, 0.3, 3) * side, reach_m=side / 2))


def _shell(images: Images, rng: np.random.Generator, size: Array) -> list[Rectangle]:
    """The six inner sides of a hall of that size on the floor."""
    return _box(images, rng, np.array([0.0, -size[1] / 2, 0.0]), size, np.eye(3))


def _box(images: Images, rng: np.random.Generator, centre: Array, size: Array, turn: Array) -> list[Rectangle]:
    x, y, z = (turn * size).T / 2
    faces = [(-z, x, y), (z, -x, y), (-x, z, y), (x, -z, y), (-y, x, z), (y, x, z)]
    return [_centred(images, rng, centre + out, 2 * right, 2 * down) for out, right, down in faces]


def _floor(images: Images, rng: np.random.Generator, side: float, y: float) -> Rectangle:
    return _centred(images, rng, np.array([0, y, 0.0]), np.array([side, 0, 0.0]), np.array([0, 0, side]))


def _on_wall(images: Images, rng: np.random.Generator, width: float, depth: float, height: float) -> Rectangle:
    """A picture, shelf or door a little before one of the walls."""
    w, h = rng.uniform(0.4, 1.8), rng.uniform(0.4, min(2.0, height - 0.3))
    middle, gap = -rng.uniform(h / 2, height - h / 2), rng.uniform(0.03, 0.3)
    side = 1 if rng.random() < 0.5 else -1
    if rng.random() < 0.5:
        centre = np.array([rng.uniform(-0.4, 0.4) * width, middle, side * (depth / 2 - gap)])
        return _centred(images, rng, centre, np.array([w * side, 0, 0]), np.array([0, h, 0]))
    centre = np.array([side * (width / 2 - gap), middle, rng.uniform(-0.4, 0.4) * depth])
    return _centred(images, rng, centre, np.array([0, 0, -w * side]), np.array([0, h, 0]))


def _centred(images: Images, rng: np.random.Generator, centre: Array, edge_x: Array, edge_y: Array) -> Rectangle:
    seed = int(rng.integers(2**63))  # of its own, so that only what is seen need be papered
    size_m = float(np.linalg.norm(edge_x)), float(np.linalg.norm(edge_y))
    return Rectangle(centre - (edge_x + edge_y) / 2, edge_x, edge_y,
                     lambda: _paper(images, np.random.default_rng(seed), *size_m))


def _paper(images: Images, rng: np.random.Generator, width_m: float, height_m: float) -> NDArray[np.uint8]:
    """A texture for a surface of that size: one image, or several side by side, in the contrast of some paint."""
    density = min(rng.uniform(*TEXELS_PER_M), LARGEST_TEXTURE_PX / max(width_m, height_m))
    picture_m = max(rng.uniform(*PICTURE_M), max(width_m, height_m) / 6)
    columns, rows = (max(1, round(side / picture_m)) for side in (width_m, height_m))
    width, height = (max(8, round(side * density / cells)) for side, cells in ((width_m, columns), (height_m, rows)))
    tiles = [[_picture(images, rng, (width, height)) for _ in range(columns)] for _ in range(rows)]
    texture = np.vstack([np.hstack(row) for row in tiles])
    contrast = rng.uniform(0.06, 0.2) if rng.random() < PLAIN_SHARE else rng.uniform(0.45, 1.0)
    mean = rng.uniform(70, 190)
    levels = np.clip(mean + contrast * (np.arange(256) - 128.0), 4, 251).astype(np.uint8)
    return cv2.LUT(texture, levels)


def _picture(images: Images, rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A random part of a random image, perhaps mirrored, stretched to `size` (width, height)."""
    image = images[rng.integers(len(images))]
    height, width = image.shape
    share_w, share_h = rng.uniform(0.6, 1.0, 2)
    w, h = max(2, round(width * share_w)), max(2, round(height * share_h))
    left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    part = image[top:top + h, left:left + w]
    part = part[:, ::-1] if rng.random() < 0.5 else part
    shrinks = w > size[0] or h > size[1]
    return cv2.resize(np.ascontiguousarray(part), size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _yaw(rng: np.random.Generator) -> Array:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
