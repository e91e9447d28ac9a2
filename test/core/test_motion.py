"""Local motions against derivatives and affine maps that are known."""

from __future__ import annotations

import numpy as np
import pytest

from efficient_matcher.core.motion import local_motions, neighbour_motions, project, zoom

pytestmark = pytest.mark.usefixtures("kernels")

H = np.array([[1.1, 0.1, 5.0], [-0.2, 0.9, 3.0], [2e-4, -1e-4, 1.0]])
AFFINE = np.array([[1.2, -0.3], [0.25, 0.8]])


def scattered(count: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(50, 250, (count, 2))


def test_the_derivative_of_a_homography() -> None:
    points = scattered()
    places, slopes = project(points, H)
    for axis in range(2):
        ahead, _ = project(points + 1e-5 * np.eye(2)[axis], H)
        np.testing.assert_allclose(slopes[:, :, axis], (ahead - places) / 1e-5, atol=1e-5)


def test_beyond_the_horizon_is_nan() -> None:
    places, slopes = project(np.array([[200.0, 0.0]]), np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1.0]]))
    assert np.isnan(places).all() and np.isnan(slopes).all()


def test_zoom_is_the_root_of_the_area() -> None:
    assert zoom(np.array([np.diag([2.0, 8.0]), np.diag([0.5, -0.5])])) == pytest.approx([4.0, 0.5])


def test_neighbours_agree_on_their_affine_map_in_spite_of_wrong_ones() -> None:
    points0 = scattered(120)
    points1 = points0 @ AFFINE.T + [10, 20]
    wrong = np.arange(0, 120, 6)
    points1[wrong] += np.random.default_rng(1).uniform(20, 60, (len(wrong), 2))
    motions, known = neighbour_motions(points0, points1, np.arange(120))
    assert not known[wrong].any()
    right = np.setdiff1d(np.arange(120), wrong)
    assert known[right].mean() > 0.85
    np.testing.assert_allclose(motions[known], np.broadcast_to(AFFINE, motions[known].shape), atol=0.05)


@pytest.mark.parametrize("points", [np.zeros((0, 2)), scattered(4), np.tile([[9.0, 9.0]], (30, 1)),
                                    np.column_stack([np.linspace(0, 90, 30)] * 2)])
def test_what_determines_no_motion_is_finite(points: np.ndarray) -> None:
    motions, known, agreeing = local_motions(points, points[::-1], None, 4.0)
    assert not agreeing.any()
    assert motions.shape == (len(points), 2, 2) and known.shape == (len(points),)
    assert np.isfinite(motions[known]).all()


def test_far_neighbours_say_nothing() -> None:
    apart = np.stack(np.meshgrid(np.arange(6.0), np.arange(5.0)), -1).reshape(-1, 2) * 100
    assert not local_motions(apart, apart, None, 4.0)[1].any()


def test_the_homography_holds_where_matches_agree_with_it() -> None:
    points0 = scattered()
    points1 = project(points0, H)[0]
    points1[:5] += 30
    motions, known, agreeing = local_motions(points0, points1, H, 4.0)
    assert not known[:5].any() and agreeing[5:].all()
    np.testing.assert_allclose(motions[5:], project(points0, H)[1][5:])


@pytest.mark.parametrize("matrix", [np.diag([-1.0, 1, 1]), np.diag([20.0, 20, 1]), np.diag([0.01, 0.01, 1]),
                                    np.diag([6.0, 1, 1])])
def test_mirrors_and_extremes_are_no_motion(matrix: np.ndarray) -> None:
    points0 = scattered()
    assert not local_motions(points0, project(points0, matrix)[0], matrix, 4.0)[1].any()
