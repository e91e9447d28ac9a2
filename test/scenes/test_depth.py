"""Points moved by depth and pose, against positions worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from efficient_matcher.scenes.depth import DepthView, depth_at, transfer

K = np.array([[100.0, 0, 50], [0, 100.0, 40], [0, 0, 1]])


def view(depth: np.ndarray, x: float = 0.0) -> DepthView:
    """A camera `x` metres to the right of the origin, looking along z."""
    pose = np.eye(4)
    pose[0, 3] = -x
    return DepthView(K, pose, depth.astype(np.float32))


def flat(z: float) -> np.ndarray:
    return np.full((80, 100), z)


def test_on_a_wall_all_points_move_by_focal_length_times_baseline_over_depth() -> None:
    points = np.array([[50.0, 40], [20.25, 30.5], [10, 40]])
    moved = transfer(points, view(flat(2.0)), view(flat(2.0), 0.4))
    assert moved.points == pytest.approx(points - [20, 0])
    assert moved.visible.tolist() == [True, True, False] and moved.sure.all()


def test_what_something_nearer_hides_is_not_visible() -> None:
    screen = flat(2.0)
    screen[:, :45] = 1.0
    moved = transfer(np.array([[60.0, 40], [75, 40]]), view(flat(2.0)), view(screen, 0.4))
    assert moved.points[:, 0] == pytest.approx([40, 55])
    assert moved.visible.tolist() == [False, True]


def test_depth_between_pixels_is_that_of_the_plane() -> None:
    x = np.arange(100) - 50
    askew = np.broadcast_to(2 / (1 - 0.5 * x / 100), (80, 100))
    depth, sure = depth_at(askew.astype(np.float32), np.array([[20.37, 31.8]]))
    assert depth == pytest.approx(2 / (1 - 0.5 * (20.37 - 50) / 100), rel=1e-6) and sure.all()


def test_at_an_edge_the_nearer_surface_is_taken_and_said_to_be_unsure() -> None:
    step = flat(3.0)
    step[:, 50:] = 1.0
    depth, sure = depth_at(step.astype(np.float32), np.array([[49.0, 40], [40, 40], [60, 40]]))
    assert depth == pytest.approx([1.0, 3.0, 1.0])
    assert sure.tolist() == [False, True, True]


def test_unknown_depth_gives_no_position() -> None:
    moved = transfer(np.array([[50.0, 40]]), view(flat(0.0)), view(flat(2.0)))
    assert np.isnan(moved.points).all() and not moved.visible.any() and not moved.sure.any()


def test_behind_the_other_camera_there_is_no_position() -> None:
    passed = DepthView(K, np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -3.0], [0, 0, 0, 1]]), view(flat(2.0)).depth)
    moved = transfer(np.array([[50.0, 40]]), view(flat(2.0)), passed)
    assert np.isnan(moved.points).all() and not moved.visible.any()
