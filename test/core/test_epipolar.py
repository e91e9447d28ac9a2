"""Distances from the epipolar geometry and their derivatives, against differences and the plain formula."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from efficient_matcher.core import epipolar

K0 = np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]])
K1 = np.array([[400.0, 0, 300], [0, 420.0, 200], [0, 0, 1]])
R = cv2.Rodrigues(np.radians([2.0, 8.0, -3.0]))[0]
T = np.array([0.8, 0.0, 0.6])


@pytest.fixture()
def view() -> epipolar.View:
    rng = np.random.default_rng(0)
    space = rng.uniform((-1.5, -1.2, 3), (1.5, 1.2, 7), (60, 3))
    points0, points1 = ((p @ K.T)[:, :2] / p[:, 2:] for p, K in ((space, K0), (space @ R.T + T, K1)))
    noise = rng.normal(0, 2, (2, 60, 2))
    return epipolar.view_of(points0 + noise[0], points1 + noise[1], K0, K1, tuple(rng.uniform(0.5, 2, (2, 60))))


def distances(view: epipolar.View, R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Sampson's, by the textbook: x1' E x0 over the length of its slope by all four coordinates, weighted."""
    E = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]]) @ R
    line1, line0 = E @ view.rays0, E.T @ view.rays1
    slope = view.variance1 * (line1[:2] ** 2).sum(0) + view.variance0 * (line0[:2] ** 2).sum(0)
    return (view.rays1 * line1).sum(0) / np.sqrt(slope) * view.focal_px


def test_distances_are_sampsons(view: epipolar.View) -> None:
    np.testing.assert_allclose(epipolar._epipolar(view, (R, T)).distance, distances(view, R, T), rtol=1e-9)


def test_slopes_are_those_of_the_distances(view: epipolar.View) -> None:
    slopes, tangents = epipolar._slopes(view, epipolar._epipolar(view, (R, T)), (R, T))
    np.testing.assert_allclose(tangents.T @ np.column_stack([T, tangents]), [[0, 1, 0], [0, 0, 1]], atol=1e-12)
    for index, step in enumerate(1e-6 * np.eye(5)):
        ends = []
        for sign in (1, -1):
            t = T + sign * tangents @ step[3:]
            ends.append(distances(view, cv2.Rodrigues(sign * step[:3])[0] @ R, t / np.linalg.norm(t)))
        np.testing.assert_allclose(slopes[index], (ends[0] - ends[1]) / 2e-6, atol=1e-4)


def test_polishing_lowers_the_cost_and_finds_the_sign(view: epipolar.View) -> None:
    off = cv2.Rodrigues(np.radians([0.5, -0.5, 0.5]))[0] @ R
    found = epipolar.polish(view, (off, -T), 12)
    assert epipolar.msac_cost(view, found)[0] < epipolar.msac_cost(view, (off, T))[0]
    assert found[1] @ T > 0.9


def test_points_behind_a_camera_are_wrong(view: epipolar.View) -> None:
    cost, inliers = epipolar.msac_cost(view, (R, T))
    assert epipolar.msac_cost(view, (R, -T))[0] == pytest.approx(cost)  # the sign is chosen by these points
    mirrored = 2 * np.outer(T, T) @ R - R  # the other rotation of the same essential matrix
    np.testing.assert_allclose(np.abs(distances(view, mirrored, T)), np.abs(distances(view, R, T)), rtol=1e-6)
    assert epipolar.msac_cost(view, (mirrored, T))[1].sum() < 0.2 * inliers.sum()
