"""The fit of relative poses against motions and scenes that are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from efficient_matcher.core.relative_pose import fit_pose_of_rays, fit_relative_pose, pose_difference_deg
from efficient_matcher.errors import MatcherError
from efficient_matcher.records import RelativePose

K = np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]])
TURN = cv2.Rodrigues(np.radians(8) * np.array([0.2, 1.0, 0.1]))[0]
WAY = np.array([0.5, 0.1, 0.2])
COUNT = 200


def scene(seed: int = 0, flat: bool = False, turn: np.ndarray = TURN, way: np.ndarray = WAY,
          K1: np.ndarray = K) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N,2] of points in space, or on a slanted plane, in both images."""
    space = np.random.default_rng(seed).uniform((-1.5, -1.2, 3), (1.5, 1.2, 7), (COUNT, 3))
    if flat:
        space[:, 2] = 5 + 0.4 * space[:, 0]
    return tuple((p @ camera.T)[:, :2] / p[:, 2:] for p, camera in ((space, K), (space @ turn.T + way, K1)))


def noisy(points: tuple[np.ndarray, np.ndarray], noise_px: float | np.ndarray,
          seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(side + rng.normal(0, 1, side.shape) * np.reshape(noise_px, (-1, 1)) for side in points)


def error_deg(found: RelativePose, turn: np.ndarray = TURN, way: np.ndarray = WAY) -> float:
    assert found.rotation is not None and found.translation is not None
    return max(pose_difference_deg((found.rotation, found.translation), (turn, way / np.linalg.norm(way))))


def test_exact_points_give_the_exact_pose_and_its_sign() -> None:
    for way in (WAY, -WAY):
        found = fit_relative_pose(*scene(way=way), K, K)
        assert found.valid and error_deg(found, way=way) < 1e-3 and found.inliers.all()
        assert np.linalg.norm(found.translation) == pytest.approx(1) and found.margin > 2


def test_each_camera_has_its_own_intrinsics() -> None:
    wide = np.array([[300.0, 0, 200], [0, 320.0, 180], [0, 0, 1]])
    assert error_deg(fit_relative_pose(*scene(K1=wide), K, wide)) < 1e-3
    assert error_deg(fit_relative_pose(*scene(K1=wide), K, K)) > 1


def test_errors_of_rays_are_judged_in_the_pixels_of_their_own_camera() -> None:
    rng, K0, K1 = np.random.default_rng(3), np.diag([300.0, 300, 1]), np.diag([1200.0, 1200, 1])
    points = rng.uniform((-1, -1, 2), (1, 1, 5), (150, 3))
    there = points @ TURN.T + WAY
    rays0, rays1 = points / points[:, 2:], there / there[:, 2:]
    noise = rng.normal(0, 0.4, (2, 150, 2))
    rays0[:, :2] += noise[0] / 300
    rays1[:, :2] += noise[1] / 1200
    found = fit_pose_of_rays(rays0, rays1, (300.0, 1200.0))
    assert found.inliers.sum() > 140 > fit_pose_of_rays(rays0, rays1, (1200.0, 1200.0)).inliers.sum()
    by_pixels = fit_relative_pose(rays0[:, :2] * 300, rays1[:, :2] * 1200, K0, K1)
    assert np.allclose(found.rotation, by_pixels.rotation, atol=1e-6)


def test_wrong_matches_are_found_out() -> None:
    points0, points1 = noisy(scene(), 0.3)
    points1[:80] = np.random.default_rng(2).uniform((0, 0), (640, 480), (80, 2))
    found = fit_relative_pose(points0, points1, K, K)
    assert error_deg(found) < 0.7
    assert found.inliers[80:].mean() > 0.95 and found.inliers[:80].mean() < 0.1  # some lie on their line by chance


def test_least_squares_is_nearer_than_where_it_began() -> None:
    from efficient_matcher.evaluate.pose import estimate_pose, normalised
    own, ransac = [], []
    for seed in range(10):
        points = noisy(scene(seed), 0.7, seed)
        R, t = estimate_pose(*(normalised(side, K) for side in points), 500.0)
        ransac.append(max(pose_difference_deg((R, t), (TURN, WAY / np.linalg.norm(WAY)))))
        own.append(error_deg(fit_relative_pose(*points, K, K)))
    assert np.mean(own) < 0.5 * np.mean(ransac)


def test_a_plane_leaves_two_poses_and_says_so() -> None:
    found = fit_relative_pose(*noisy(scene(flat=True), 0.3), K, K)
    assert found.valid and found.margin < 1.2
    assert fit_relative_pose(*noisy(scene(), 0.3), K, K).margin > 1.2


def test_a_turn_without_translation_is_known_by_its_parallax() -> None:
    turned = [fit_relative_pose(*noisy(scene(way=np.zeros(3)), 0.3, seed), K, K) for seed in range(8)]
    errors = [pose_difference_deg((found.rotation, WAY), (TURN, WAY))[0] for found in turned]
    assert np.median(errors) < 0.1 and max(found.parallax_px for found in turned if found.margin > 1.2) < 2
    points0, points1 = scene()
    still = points0 @ (K @ TURN @ np.linalg.inv(K))[:, :2].T + (K @ TURN @ np.linalg.inv(K))[:, 2]
    moved = np.linalg.norm(still[:, :2] / still[:, 2:] - points1, axis=1)
    assert fit_relative_pose(points0, points1, K, K).parallax_px == pytest.approx(np.median(moved), rel=1e-3)


def test_points_that_are_known_to_be_good_count_for_more() -> None:
    spread = np.where(np.arange(COUNT) % 2, 0.15, 1.0)
    blind, knowing = [], []
    for seed in range(10):
        points = noisy(scene(seed), spread, seed)
        blind.append(error_deg(fit_relative_pose(*points, K, K)))
        knowing.append(error_deg(fit_relative_pose(*points, K, K, spreads=(spread, spread))))
    assert np.mean(knowing) < 0.8 * np.mean(blind)
    for useless in (np.zeros(COUNT), np.full(COUNT, np.nan)):
        assert fit_relative_pose(*points, K, K, spreads=(useless, useless)).valid


def test_the_covariance_is_that_of_the_errors() -> None:
    squares = []
    for seed in range(40):
        found = fit_relative_pose(*noisy(scene(0), 0.5, seed), K, K)
        turned = cv2.Rodrigues(TURN @ found.rotation.T)[0][:, 0]
        apart = np.concatenate([turned, WAY / np.linalg.norm(WAY) - found.translation])
        values, vectors = np.linalg.eigh(found.covariance)
        squares.append(float(((apart @ vectors[:, 1:]) ** 2 / values[1:]).sum()))  # the first is along t: nothing
    assert 3 < np.mean(squares) < 8  # five degrees of freedom


@pytest.mark.parametrize("points", [np.zeros((0, 2)), np.zeros((5, 2)), np.zeros((40, 2)), np.full((40, 2), np.nan)])
def test_what_determines_no_pose_is_none_and_not_an_error(points: np.ndarray) -> None:
    found = fit_relative_pose(points, points, K, K)
    assert len(found.inliers) == len(points) and found.covariance.shape == (6, 6)
    assert found.valid or (found.translation is None and not found.inliers.any() and np.isnan(found.margin))


@pytest.mark.parametrize("camera", [np.eye(4), np.zeros((3, 3)), np.hstack([K, np.zeros((3, 1))]), K.T, K * np.nan])
def test_intrinsics_that_are_none_are_named(camera: np.ndarray) -> None:
    with pytest.raises(MatcherError, match=r"K1 must be intrinsics \[3,3\]"):
        fit_relative_pose(*scene(), K, camera)


@pytest.mark.parametrize("breadth_px", [0.3, 1.5])
def test_points_along_a_line_have_no_pose(breadth_px: float) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x, depth = rng.uniform(60, 580, 60), rng.uniform(3, 7, 60)
        y = 200 + 0.2 * x + rng.normal(0, breadth_px, 60)
        space = np.column_stack([x, y, np.ones(60)]) @ np.linalg.inv(K).T * depth[:, None]
        moved = space @ TURN.T + WAY
        points1 = (moved @ K.T)[:, :2] / moved[:, 2:] + rng.normal(0, 0.3, (60, 2))
        found = fit_relative_pose(np.column_stack([x, y]), points1, K, K)
        assert not found.valid or error_deg(found) < 5


def test_exact_points_are_no_infinitely_good_measurement() -> None:
    deviation = np.sqrt(np.diag(fit_relative_pose(*scene(), K, K).covariance)[:3])
    assert (deviation > 1e-7).all() and (deviation < 1e-4).all()


def test_random_points_have_no_pose() -> None:
    rng = np.random.default_rng(0)
    assert not fit_relative_pose(rng.uniform(0, 480, (30, 2)), rng.uniform(0, 480, (30, 2)), K, K).valid


def test_points_that_are_no_numbers_are_left_out() -> None:
    points0, points1 = scene()
    points0[3] = np.nan
    found = fit_relative_pose(points0, points1, K, K)
    assert error_deg(found) < 1e-3 and not found.inliers[3] and found.inliers.sum() == COUNT - 1


def test_the_same_points_give_the_same_pose() -> None:
    points = noisy(scene(), 0.5)
    first, second = (fit_relative_pose(*points, K, K) for _ in range(2))
    assert np.array_equal(first.rotation, second.rotation) and np.array_equal(first.covariance, second.covariance)
