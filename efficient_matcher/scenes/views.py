"""Cameras in a scene, and the pictures they take.

Two views of a scene differ by one of three levels: how far the camera turned, and how far it moved as a share of
the median depth. Light and exposure differ too, on every level alike. All is a function of (seed, level, index).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core.relative_pose import rotation_angle_deg
from efficient_matcher.scenes.depth import DepthView, transfer
from efficient_matcher.scenes.render import Array, Camera, Lamp, depth_map, render
from efficient_matcher.scenes.world import KINDS, Images, World, draw_world

SIZE = (640, 480)  # width, height
FIELD_OF_VIEW_DEG = (52.0, 75.0)  # horizontal
GLANCE = 1 / 8  # size of the small depth maps that candidate cameras are judged by
CLEAR_M = 0.35  # nearest thing before a camera
LEAST_MEDIAN_M = 1.0
CAMERA_TRIES = 40  # before another scene is drawn
SCENE_TRIES = 50


@dataclass(frozen=True)
class Level:
    """How views differ: rotation between them, baseline as a share of view 0's median depth, roll (bound).

    overlap: least share of either view that the other one sees.
    """

    rotation_deg: tuple[float, float]
    baseline: tuple[float, float]
    roll_deg: float
    overlap: float


LEVELS = {
    "easy": Level((3.0, 15.0), (0.08, 0.25), 5.0, 0.5),
    "medium": Level((15.0, 30.0), (0.2, 0.5), 15.0, 0.4),
    "hard": Level((30.0, 60.0), (0.4, 0.9), 30.0, 0.25),
}


@dataclass(frozen=True)
class SceneView(DepthView):
    """A view with its picture [H,W] uint8."""

    image: NDArray[np.uint8]


@dataclass(frozen=True)
class ScenePair:
    """Two views of a scene, and what kind of scene it is."""

    view0: SceneView
    view1: SceneView
    kind: str

    @property
    def T_0to1(self) -> Array:
        """Camera coordinates 0 to camera coordinates 1, [4,4], metres."""
        return self.view1.pose @ np.linalg.inv(self.view0.pose)


def draw_pair(images: Images, level: str, seed: int, index: int, size: tuple[int, int] = SIZE) -> ScenePair:
    """The pair of that index: the same for the same images, level of LEVELS, seed and size (width, height)."""
    rng = np.random.default_rng([seed, list(LEVELS).index(level), index])
    world, (camera0, camera1) = _world_with_cameras(images, [LEVELS[level]], rng, size)
    return ScenePair(take(world, camera0, rng), take(world, camera1, rng), world.kind)


def draw_views(images: Images, count: int, rng: np.random.Generator, size: tuple[int, int] = SIZE,
               levels: Sequence[str] = tuple(LEVELS)) -> list[SceneView]:
    """Several views of one scene; each but the first differs from the first by a random one of the levels."""
    chosen = [LEVELS[str(rng.choice(list(levels)))] for _ in range(count - 1)]
    world, cameras = _world_with_cameras(images, chosen, rng, size)
    return [take(world, camera, rng) for camera in cameras]


def take(world: World, camera: Camera, rng: np.random.Generator) -> SceneView:
    """A picture with its exact depth; light and exposure vary from picture to picture."""
    lamp = replace(world.lamp, position=world.lamp.position + rng.normal(0, 0.1 * world.lamp.reach_m, 3),
                   even=rng.uniform(0.55, 0.9), point=rng.uniform(0.3, 0.9))
    image, depth = render(world.rectangles, camera, lamp)
    return SceneView(camera.K, camera.pose, depth, expose(image, rng))


def expose(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """What a small camera makes of a picture [H,W]: gain, gamma, dark corners, blur, noise, JPEG."""
    height, width = image.shape
    gain, gamma, dark = rng.uniform(0.7, 1.3), rng.uniform(0.75, 1.3), rng.uniform(0, 0.25)
    curve = (255 * gain * (np.arange(256) / 255) ** gamma).astype(np.float32)
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    exposed = curve[image] * (1 - np.float32(dark / 2) * (x * x + y * y))
    sigma = rng.uniform(0, 0.9)
    if sigma > 0.3:
        exposed = cv2.GaussianBlur(exposed, (0, 0), sigma)
    noise = np.float32(rng.uniform(1, 5)) * rng.standard_normal(image.shape, np.float32)
    pixels = np.clip(np.rint(exposed + noise), 0, 255).astype(np.uint8)
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)


def look_at(position: Array, target: Array, roll_rad: float) -> Array:
    """T_world_to_camera [4,4] of a camera at `position` that has `target` in its centre; not straight up or down."""
    ahead = (target - position) / np.linalg.norm(target - position)
    right = np.cross([0.0, 1.0, 0.0], ahead)
    right /= np.linalg.norm(right)
    upright = np.stack([right, np.cross(ahead, right), ahead])
    c, s = np.cos(roll_rad), np.sin(roll_rad)
    R = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) @ upright
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = R, -R @ position
    return pose


def overlap(view0: DepthView, view1: DepthView) -> float:
    """The smaller of the shares of either view's pixels that the other one sees."""
    return min(_share_seen(view0, view1), _share_seen(view1, view0))


def _share_seen(view0: DepthView, view1: DepthView) -> float:
    height, width = view0.depth.shape
    x, y = np.meshgrid(np.arange(0, width, 2), np.arange(0, height, 2))
    return float(transfer(np.column_stack([x.ravel(), y.ravel()]), view0, view1).visible.mean())


def _world_with_cameras(images: Images, levels: Sequence[Level], rng: np.random.Generator,
                        size: tuple[int, int]) -> tuple[World, list[Camera]]:
    """A scene, a camera in it, and for each level one that differs by it from the first."""
    kind = str(rng.choice(KINDS))  # once: some kinds have room for a level more often than others
    for attempt in range(2 * SCENE_TRIES):
        world = draw_world(images, rng, kind if attempt < SCENE_TRIES else None)
        first = _first_camera(world, rng, size)
        if first is None:
            continue
        others = [_other_camera(world, first, level, rng) for level in levels]
        if None not in others:
            return world, [first, *(camera for camera in others if camera is not None)]
    raise RuntimeError("no scene has room for such cameras")


def _first_camera(world: World, rng: np.random.Generator, size: tuple[int, int]) -> Camera | None:
    for _ in range(CAMERA_TRIES):
        bearing, pitch = rng.uniform(0, 2 * np.pi), np.radians(rng.normal(5, 10))
        ahead = np.array([np.sin(bearing) * np.cos(pitch), np.sin(pitch), np.cos(bearing) * np.cos(pitch)])
        position = rng.uniform(*world.free)
        pose = look_at(position, position + ahead, np.radians(rng.uniform(-5, 5)))
        camera = Camera(_intrinsics(rng, size), pose, size)
        if _is_clear(_glance(world, camera)):
            return camera
    return None


def _other_camera(world: World, first: Camera, level: Level, rng: np.random.Generator) -> Camera | None:
    seen = _glance(world, first)
    distance = float(np.median(seen.depth))
    to_world = np.linalg.inv(first.pose)
    position, ahead = to_world[:3, 3], to_world[:3, 2]
    for _ in range(CAMERA_TRIES):
        target = position + distance * ahead + rng.normal(0, 0.15 * distance, 3)
        place = position + rng.uniform(*level.baseline) * distance * _direction(rng)
        if (place < world.free[0]).any() or (place > world.free[1]).any():
            continue
        pose = look_at(place, target, np.radians(rng.uniform(-level.roll_deg, level.roll_deg)))
        turned = rotation_angle_deg(pose[:3, :3] @ to_world[:3, :3])
        if not level.rotation_deg[0] <= turned <= level.rotation_deg[1]:
            continue
        camera = Camera(_intrinsics(rng, first.size), pose, first.size)
        glance = _glance(world, camera)
        if _is_clear(glance) and overlap(seen, glance) >= level.overlap:
            return camera
    return None


def _direction(rng: np.random.Generator) -> Array:
    bearing, rise = rng.uniform(0, 2 * np.pi), np.radians(rng.normal(0, 15))
    return np.array([np.sin(bearing) * np.cos(rise), np.sin(rise), np.cos(bearing) * np.cos(rise)])


def _intrinsics(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    focal = size[0] / 2 / np.tan(np.radians(rng.uniform(*FIELD_OF_VIEW_DEG)) / 2)
    centre = (np.array(size) - 1) / 2 + rng.uniform(-0.01, 0.01, 2) * size
    return np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1.0]])


def _glance(world: World, camera: Camera) -> DepthView:
    small = camera.resized(GLANCE)
    return DepthView(small.K, small.pose, depth_map(world.rectangles, small))


def _is_clear(view: DepthView) -> bool:
    return float(view.depth.min()) > CLEAR_M and float(np.median(view.depth)) > LEAST_MEDIAN_M
