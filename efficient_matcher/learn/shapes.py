"""Synthetic shapes with exact corners, on which a base detector learns what a corner is (SuperPoint, section 4).

Lines, polygons, stars, checkerboards, stripes and cubes; ellipses and noise, which have no corners. Points are
pixels with centres at integers. Drawn eight times as large and averaged down, so that a corner is where it is said to
be to about an eighth of a pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.learn.data import ImageSet
from efficient_matcher.learn.recipe import setting

Points = NDArray[np.float64]
SUPERSAMPLING = 8
_SHIFT = 6  # fractional bits of OpenCV's drawing
_CONTRAST = 45  # grey levels between a shape and what it lies on
_FLAT = 0.9  # cosine between the edges before and after a corner; beyond, there is hardly one


@dataclass(frozen=True)
class ShapeConfig:
    """How many drawings, and how large."""

    drawings: int = setting(20000, minimum=1)
    width: int = setting(320, minimum=64)
    height: int = setting(240, minimum=64)


@dataclass(frozen=True)
class Drawing:
    """A grey image [H,W] uint8 and its corners [N,2] px."""

    image: NDArray[np.uint8]
    corners: NDArray[np.float32]


def draw(rng: np.random.Generator, width: int, height: int, kind: str | None = None) -> Drawing:
    """A drawing of one of KINDS, a random one if not given."""
    kind = kind or list(KINDS)[rng.integers(len(KINDS))]
    canvas = _Canvas(rng, width, height)
    corners = np.asarray(KINDS[kind](canvas), np.float64).reshape(-1, 2)
    image = cv2.resize(canvas.pixels, (width, height), interpolation=cv2.INTER_AREA)
    inside = ((corners >= 0) & (corners <= (width - 1, height - 1))).all(1)
    return Drawing(image, corners[inside].astype(np.float32))


def shape_set(config: ShapeConfig, seed: int) -> tuple[ImageSet, Sequence[NDArray[np.float32]]]:
    """Drawings as training images and labels [N,3] (x, y, 1), each drawn when it is asked for."""
    drawings = _Drawings(config, seed)
    names = [f"shapes-{index}" for index in range(config.drawings)]
    return ImageSet(names, _View(drawings, lambda d: d.image), {}), _View(drawings, _labels)


class _Drawings:
    """Drawing `index` of a seed; the last one is kept, since image and labels are asked for in turn."""

    def __init__(self, config: ShapeConfig, seed: int) -> None:
        self.config, self._seed = config, seed
        self._last: tuple[int, Drawing] | None = None

    def __getitem__(self, index: int) -> Drawing:
        if self._last is None or self._last[0] != index:
            rng = np.random.default_rng([self._seed, int(index), 7])  # apart from the generators of batches
            self._last = index, draw(rng, self.config.width, self.config.height)
        return self._last[1]


class _View(Sequence):
    """One part of each drawing."""

    def __init__(self, drawings: _Drawings, part: Callable[[Drawing], NDArray]) -> None:
        self._drawings, self._part = drawings, part

    def __len__(self) -> int:
        return self._drawings.config.drawings

    def __getitem__(self, index: int) -> NDArray:
        return self._part(self._drawings[index])


def _labels(drawing: Drawing) -> NDArray[np.float32]:
    return np.column_stack([drawing.corners, np.ones(len(drawing.corners), np.float32)])


class _Canvas:
    """What a shape is drawn on: an uneven background, larger than the image by SUPERSAMPLING."""

    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        self.rng, self.size = rng, np.array([width, height], float)
        self.ground = int(rng.integers(0, 256))
        coarse = np.clip(self.ground + rng.normal(0, rng.uniform(0, 12), (4, 5)), 0, 255).astype(np.float32)
        full = width * SUPERSAMPLING, height * SUPERSAMPLING
        self.pixels = cv2.resize(coarse, full, interpolation=cv2.INTER_LINEAR).astype(np.uint8)

    @property
    def short_side(self) -> float:
        """Of the image, px."""
        return float(self.size.min())

    def grey(self, *others: int) -> int:
        """A grey level well apart from the background's and from others."""
        apart = np.min([np.abs(np.arange(256) - other) for other in (self.ground, *others)], axis=0)
        return int(self.rng.choice(np.flatnonzero(apart >= min(_CONTRAST, apart.max()))))

    def fill(self, points: Points, grey: int) -> None:
        """A filled polygon."""
        cv2.fillPoly(self.pixels, [self._sites(points)], grey, shift=_SHIFT)

    def line(self, begin: Points, end: Points, width: float, grey: int) -> None:
        """A straight line with square ends; begin and end are in the middle of these."""
        along = (end - begin) / (np.linalg.norm(end - begin) + 1e-9)
        across = np.array([-along[1], along[0]]) * width / 2
        self.fill(np.array([begin - across, begin + across, end + across, end - across]), grey)

    def ellipse(self, centre: Points, axes: Points, angle_deg: float, grey: int) -> None:
        """A filled ellipse."""
        corners = cv2.ellipse2Poly((0, 0), (1000, 1000), 0, 0, 360, 2) / 1000 * axes
        angle = np.radians(angle_deg)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self.fill(corners @ turn.T + centre, grey)

    def places(self, least: int = 1) -> list[tuple[Points, float]]:
        """Centres and radii of discs that do not touch, in a random grid over the image."""
        columns, rows = (int(n) for n in self.rng.integers(least, 4, 2))
        cell = self.size / (columns, rows)
        radius = 0.45 * cell.min()
        centres = [(np.array([x, y]) + 0.5) * cell for y in range(rows) for x in range(columns)]
        return [(centre, radius) for centre in centres if self.rng.random() < 0.8] or [(centres[0], radius)]

    def _sites(self, points: Points) -> NDArray[np.int32]:
        fine = (np.asarray(points) + 0.5) * SUPERSAMPLING - 0.5
        return np.rint(fine * 2**_SHIFT).astype(np.int32)


def _lines(canvas: _Canvas) -> list[Points]:
    rng, kept = canvas.rng, []
    for _ in range(rng.integers(2, 12)):
        begin, end = rng.uniform(0, 1, (2, 2)) * canvas.size
        new = np.linspace(begin, end, 48)
        clear = all(np.linalg.norm(new[:, None] - old, axis=2).min() > 12 for old in kept)
        if np.linalg.norm(end - begin) > 0.15 * canvas.short_side and clear:
            canvas.line(begin, end, rng.uniform(1, 5), canvas.grey())
            kept.append(new)
    return [line[place] for line in kept for place in (0, -1)]


def _corners_of_polygon(rng: np.random.Generator, centre: Points, radius: float) -> Points:
    """Three to seven corners around a centre, none of them flat."""
    for _ in range(20):
        count = rng.integers(3, 8)
        angles = 2 * np.pi * (np.arange(count) + rng.uniform(-0.4, 0.4, count)) / count + rng.uniform(0, 2 * np.pi)
        reach = radius * rng.uniform(0.4, 1, count)
        corners = centre + reach[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
        edges = np.roll(corners, -1, axis=0) - corners
        edges /= np.linalg.norm(edges, axis=1, keepdims=True)
        if (np.sum(edges * np.roll(edges, 1, axis=0), axis=1) < _FLAT).all():
            break
    return corners


def _polygon(canvas: _Canvas) -> Points:
    centre = canvas.size * canvas.rng.uniform(0.35, 0.65, 2)
    corners = _corners_of_polygon(canvas.rng, centre, canvas.rng.uniform(0.2, 0.6) * canvas.short_side)
    canvas.fill(corners, canvas.grey())
    return corners


def _polygons(canvas: _Canvas) -> list[Points]:
    found: list[Points] = []
    for centre, radius in canvas.places(least=2):
        corners = _corners_of_polygon(canvas.rng, centre, radius)
        canvas.fill(corners, canvas.grey())
        found.extend(corners)
    return found


def _ellipses(canvas: _Canvas) -> list[Points]:
    for centre, radius in canvas.places():
        canvas.ellipse(centre, radius * canvas.rng.uniform(0.3, 1, 2), canvas.rng.uniform(0, 180), canvas.grey())
    return []


def _star(canvas: _Canvas) -> list[Points]:
    rng = canvas.rng
    centre, count = canvas.size * rng.uniform(0.35, 0.65, 2), rng.integers(3, 7)
    angles = 2 * np.pi * (np.arange(count) + rng.uniform(-0.25, 0.25, count)) / count + rng.uniform(0, 2 * np.pi)
    reach, width, grey = rng.uniform(0.2, 0.6, count) * canvas.short_side, rng.uniform(1.5, 5), canvas.grey()
    tips = centre + reach[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
    for tip in tips:
        canvas.line(centre, tip, width, grey)
    return [centre, *tips]


def _board(canvas: _Canvas, columns: int, rows: int) -> Points:
    """A warped board of squares, neighbours apart in grey; all its corners [(rows+1)*(columns+1),2]."""
    rng = canvas.rng
    dark = canvas.grey()
    light = canvas.grey(dark)
    outline = np.array([[0.12, 0.12], [0.88, 0.12], [0.88, 0.88], [0.12, 0.88]]) + rng.uniform(-0.12, 0.12, (4, 2))
    turned = np.roll(outline, rng.integers(4), axis=0) * canvas.size
    unit = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float32)
    H = cv2.getPerspectiveTransform(unit, turned.astype(np.float32))
    grid = np.stack(np.meshgrid(np.arange(columns + 1), np.arange(rows + 1)), axis=-1).astype(np.float64)
    corners = cv2.perspectiveTransform(grid, H)
    canvas.fill(corners[[0, 0, -1, -1], [0, -1, -1, 0]], dark)
    for row in range(rows):  # only every other square: OpenCV's polygons are a little wide, on all sides alike
        for column in range(row % 2, columns, 2):
            square = corners[[row, row, row + 1, row + 1], [column, column + 1, column + 1, column]]
            canvas.fill(square, light)
    return corners.reshape(-1, 2)


def _checkerboard(canvas: _Canvas) -> Points:
    columns, rows = canvas.rng.integers(3, 8, 2)
    return _board(canvas, int(columns), int(rows))


def _stripes(canvas: _Canvas) -> Points:
    return _board(canvas, int(canvas.rng.integers(3, 10)), 1)


def _cube(canvas: _Canvas) -> list[Points]:
    rng = canvas.rng
    angles = np.radians([0, 120, 240] + rng.uniform(-25, 25, 3)) + rng.uniform(0, 2 * np.pi)
    reach = rng.uniform(0.15, 0.35, 3) * canvas.short_side
    edges = reach[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
    front = canvas.size * rng.uniform(0.4, 0.6, 2)
    greys: list[int] = []
    for first in range(3):
        a, b = edges[first], edges[(first + 1) % 3]
        greys.append(canvas.grey(*greys))
        canvas.fill(np.array([front, front + a, front + a + b, front + b]), greys[-1])
    return [front, *(front + edges), *(front + edges + np.roll(edges, -1, axis=0))]


def _noise(canvas: _Canvas) -> list[Points]:
    coarse = canvas.rng.normal(canvas.ground, canvas.rng.uniform(5, 60), canvas.size[::-1].astype(int))
    full = canvas.pixels.shape[::-1]
    canvas.pixels = cv2.resize(np.clip(coarse, 0, 255).astype(np.uint8), full, interpolation=cv2.INTER_NEAREST)
    return []


KINDS: dict[str, Callable[[_Canvas], Sequence[Points] | Points]] = {
    "lines": _lines, "polygon": _polygon, "polygons": _polygons, "ellipses": _ellipses, "star": _star,
    "checkerboard": _checkerboard, "stripes": _stripes, "cube": _cube, "noise": _noise}
