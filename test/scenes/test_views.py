"""Pairs of random scenes: the same for the same seed, within their level, and true to the pictures."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from efficient_matcher.scenes.depth import transfer
from efficient_matcher.scenes.render import Camera, Lamp, render
from efficient_matcher.scenes.views import (LEVELS, SceneView, draw_pair, draw_views, look_at, overlap,
                                             rotation_angle_deg)
from efficient_matcher.scenes.world import KINDS, draw_world

SIZE = (320, 240)


@pytest.fixture(scope="module")
def images(make_textured: Callable[..., np.ndarray]) -> list[np.ndarray]:
    return [make_textured(200, 260, seed) for seed in range(6)]


def test_the_same_seed_gives_the_same_pair(images: list[np.ndarray]) -> None:
    first, second = (draw_pair(images, "medium", 3, 1, SIZE) for _ in range(2))
    assert np.array_equal(first.view0.image, second.view0.image)
    assert np.array_equal(first.view1.depth, second.view1.depth) and np.array_equal(first.T_0to1, second.T_0to1)
    other = draw_pair(images, "medium", 4, 1, SIZE)
    assert not np.array_equal(first.view0.image, other.view0.image)


@pytest.mark.parametrize("level", LEVELS)
def test_pairs_keep_to_their_level(images: list[np.ndarray], level: str) -> None:
    bounds = LEVELS[level]
    pair = draw_pair(images, level, 0, 0, SIZE)
    turned = rotation_angle_deg(pair.T_0to1[:3, :3])
    assert bounds.rotation_deg[0] - 0.01 <= turned <= bounds.rotation_deg[1] + 0.01
    share = np.linalg.norm(pair.T_0to1[:3, 3]) / np.median(pair.view0.depth)
    assert 0.9 * bounds.baseline[0] <= share <= 1.1 * bounds.baseline[1]
    assert overlap(pair.view0, pair.view1) > bounds.overlap - 0.05
    assert pair.view0.image.shape == pair.view0.depth.shape == (240, 320) and (pair.view0.depth > 0).all()


def test_view_0_is_found_in_view_1_where_depth_and_pose_say(images: list[np.ndarray]) -> None:
    """Image 1 looked up at the transferred pixels is image 0: no shift is left, not even of a fraction of a pixel."""
    K = np.array([[250.0, 0, 158], [0, 250.0, 121], [0, 0, 1]])
    for kind in KINDS:
        world = draw_world(images, np.random.default_rng(1), kind)
        start = look_at(world.free.mean(0), world.free.mean(0) + [1.0, 0.3, 1.0], 0.1)
        nudged = start.copy()
        nudged[:3, 3] += [0.11, 0.03, 0.07]
        views = []
        for pose in (start, nudged):
            image, depth = render(world.rectangles, Camera(K, pose, SIZE), Lamp(np.zeros(3), even=1.0, point=0.0))
            views.append(SceneView(K, pose, depth, image))
        assert residual_shift(*views) < 0.03


def residual_shift(view0: SceneView, view1: SceneView) -> float:
    """Length of the common shift, px, left between image 0 and what image 1 shows at the transferred pixels."""
    y, x = np.mgrid[:SIZE[1], :SIZE[0]]
    moved = transfer(np.column_stack([x.ravel(), y.ravel()]), view0, view1)
    maps = np.nan_to_num(moved.points).astype(np.float32).reshape(*x.shape, 2)
    found = cv2.remap(view1.image, maps, None, cv2.INTER_CUBIC).astype(float)
    good = (moved.visible & moved.sure).reshape(x.shape)
    assert good.mean() > 0.4
    wanted = view0.image.astype(float)
    dy, dx = np.gradient(wanted)
    design = np.column_stack([dx[good], dy[good]])
    step = np.linalg.lstsq(design, (found - wanted)[good], rcond=None)[0]
    assert np.abs(found - wanted)[good].mean() < 2.5  # grey levels
    return float(np.linalg.norm(step))


def test_more_views_of_one_scene(images: list[np.ndarray]) -> None:
    views = draw_views(images, 3, np.random.default_rng(0), SIZE, ["easy"])
    assert len(views) == 3
    assert all(overlap(views[0], view) > 0.4 for view in views[1:])


def test_rotation_angle_of_tiny_and_of_large_turns() -> None:
    for angle in (1e-7, 0.5, 3.0):
        R = cv2.Rodrigues(angle * np.array([0.6, 0, 0.8]))[0]
        assert rotation_angle_deg(R) == pytest.approx(np.degrees(angle), rel=1e-6)
