"""core/settle.py on matches whose true places are known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from efficient_matcher.config import GeometryConfig
from efficient_matcher.core.geometry import warp_points
from efficient_matcher.core.settle import CONTRADICTED, LEAST_MATCHES, NOISE, USUAL_SPREAD, settle
from efficient_matcher.records import Features, Homography, Matches

pytestmark = pytest.mark.usefixtures("kernels")

SIZE = (640, 480)
H = np.array([[1.1, 0.08, -20.0], [-0.05, 0.95, 15.0], [2e-4, -1e-4, 1.0]])
THRESHOLD_PX = 3.0


def scattered(count: int = 300, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform((0, 0), SIZE, (count, 2))


def noise(count: int, px: float, seed: int = 1) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, px, (count, 2))


def settled(points0: NDArray, points1: NDArray, spread_px: float | NDArray = 1.0, *, matrix: NDArray | None = H,
            size: tuple[int, int] = SIZE, threshold_px: float = THRESHOLD_PX,
            refined: NDArray | None = None, known: bool = True) -> NDArray | None:
    """spread_px: of points 0 and 1, each. refined: which of them refinement has moved."""
    count = len(points0)
    spreads = np.broadcast_to(np.float32(spread_px), count).copy() if known else None
    features = [Features(points.astype(np.float32), np.ones(count, np.float32), np.zeros((count, 4), np.float32), size, spreads)
                for points in (points0, points1)]
    indices = np.repeat(np.arange(count, dtype=np.int32)[:, None], 2, axis=1)
    places: tuple = (None, None)
    if refined is not None:
        places = features[0].keypoints, features[1].keypoints.copy()
        features[1].keypoints[refined] += 0.4
    near = np.zeros(count, bool) if matrix is None else np.linalg.norm(warp_points(points0, matrix) - points1, axis=1) < threshold_px
    return settle(Matches(indices, np.ones(count, np.float32), *places), *features, Homography(matrix, near, np.eye(8), 0.5),
                  GeometryConfig(threshold_px=threshold_px))


def rms(errors: NDArray) -> float:
    return float(np.sqrt(np.square(errors).mean()))


@pytest.mark.parametrize("count", [40, 300, 1000])
def test_on_a_plane_the_noise_of_many_is_averaged_out(count: int) -> None:
    points0 = scattered(count)
    truth = warp_points(points0, H)
    points1 = truth + noise(count, 0.5)
    found = settled(points0, points1)
    assert found.dtype == np.float32 and found.shape == (count, 2)
    assert rms(found - truth) < (0.5 if count > 100 else 0.7) * rms(points1 - truth)


def test_a_surface_off_the_plane_settles_as_well() -> None:
    points0 = scattered(400)
    near = points0[:, 0] < 200
    other = np.array([[1.0, 0.1, 20.0], [0.0, 1.05, 5.0], [1e-4, 0.0, 1.0]])
    truth = np.where(near[:, None], warp_points(points0, other), warp_points(points0, H))
    points1 = truth + noise(400, 0.5)
    found = settled(points0, points1)
    for surface in (near, ~near):
        assert rms((found - truth)[surface]) < 0.6 * rms((points1 - truth)[surface])


def test_where_the_surface_is_rough_points_stay() -> None:
    points0 = scattered(300)
    truth = warp_points(points0, H) + noise(300, 4.0, seed=5)
    points1 = truth + noise(300, 0.3)
    found = settled(points0, points1, 0.5)
    assert rms(found - truth) < 1.1 * rms(points1 - truth)


def test_what_the_neighbours_contradict_stays_where_it_was_and_disturbs_nobody() -> None:
    points0 = scattered(300)
    truth = warp_points(points0, H)
    points1 = truth + noise(300, 0.5)
    strays = np.arange(0, 300, 5)
    points1[strays] += np.where(noise(60, 1.0, seed=3) > 0, 1, -1) * np.random.default_rng(4).uniform(30, 90, (60, 2))
    found = settled(points0, points1)
    np.testing.assert_array_equal(found[strays], points1[strays].astype(np.float32))
    rest = np.setdiff1d(np.arange(300), strays)
    assert rms((found - truth)[rest]) < 0.6 * rms((points1 - truth)[rest])


def test_a_contradiction_is_counted_in_standard_deviations() -> None:
    points0 = scattered(300)
    points1 = warp_points(points0, H)
    deviation = NOISE * np.sqrt(1 + abs(np.linalg.det(H)) / (H[2] @ (*points0[7], 1)) ** 3)
    for share, moves in ((0.8, True), (1.3, False)):
        shifted = points1.copy()
        shifted[7, 0] += share * CONTRADICTED * deviation
        assert (np.abs(settled(points0, shifted)[7] - shifted[7]).max() > 0.5) == moves


def test_a_keypoint_placed_well_moves_less_than_a_blurred_one() -> None:
    points0 = scattered(400)
    sharp = np.arange(400) % 2 == 0
    truth = warp_points(points0, H)
    points1 = truth + np.where(sharp[:, None], noise(400, 0.1), noise(400, 1.0, seed=2))
    found = settled(points0, points1, np.where(sharp, 0.2, 2.0))
    assert rms((found - truth)[~sharp]) < 0.3 * rms((points1 - truth)[~sharp])
    assert rms((found - truth)[sharp]) < 1.05 * rms((points1 - truth)[sharp])


def test_points_that_refinement_placed_move_less_and_the_others_as_before() -> None:
    points0 = scattered(400)
    refined = np.arange(400) % 2 == 0
    points1 = warp_points(points0, H) + noise(400, 0.8)  # more than any of them is said to have: the surface is rough
    plain, told = (settled(points0, points1, 0.5, **given) - points1 for given in ({}, {"refined": refined}))
    assert rms(told[refined]) < 0.6 * rms(plain[refined])
    assert rms(told[~refined]) > 1.5 * rms(told[refined])


def test_spreads_need_not_be_known() -> None:
    points0 = scattered(300)
    points1 = warp_points(points0, H) + noise(300, 0.5)
    np.testing.assert_allclose(settled(points0, points1, known=False), settled(points0, points1, USUAL_SPREAD), atol=1e-4)


def test_larger_images_settle_as_small_ones_do() -> None:
    points0 = scattered(200)
    points1 = warp_points(points0, H) + noise(200, 0.5)
    scale = np.diag([3.0, 3.0, 1.0])
    larger = settled(3 * points0, 3 * points1, 3.0, matrix=scale @ H @ np.linalg.inv(scale), size=(1920, 1440),
                     threshold_px=3 * THRESHOLD_PX)
    np.testing.assert_allclose(larger / 3, settled(points0, points1), atol=0.01)


def test_without_a_homography_or_with_few_matches_nothing_settles() -> None:
    points0 = scattered(LEAST_MATCHES)
    points1 = warp_points(points0, H)
    assert settled(points0, points1) is not None
    assert settled(points0, points1, matrix=None) is None
    assert settled(points0[1:], points1[1:]) is None
    assert settled(points0[:0], points1[:0]) is None


def test_beyond_the_horizon_points_stay() -> None:
    tilted = np.array([[1.0, 0, 0], [0, 1, 0], [0, -1 / 300, 1]])  # the horizon is the row 300
    points0 = scattered(400)
    ahead = points0[:, 1] < 200
    points1 = np.where(ahead[:, None], warp_points(points0, tilted), scattered(400, seed=6)) + noise(400, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = settled(points0, points1, matrix=tilted)
        beyond = points0[:, 1] > 301
        assert settled(points0[beyond], points1[beyond], matrix=tilted) is None
    np.testing.assert_array_equal(found[beyond], points1[beyond].astype(np.float32))
    assert np.isfinite(found).all() and rms((found - points1)[ahead]) > 0.2


@pytest.mark.parametrize("points0", [np.full((20, 2), 100.0), np.column_stack([np.arange(20.0), np.arange(20.0)])],
                         ids=["one place", "a line"])
def test_points_at_one_place_or_on_a_line_stay_finite(points0: NDArray) -> None:
    points1 = warp_points(points0, H) + noise(20, 0.5)
    found = settled(points0, points1, 1e-9)
    assert np.isfinite(found).all() and np.abs(found - points1).max() < 3
