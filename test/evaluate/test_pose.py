"""Relative pose against motions that are known, and matches that are exact."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from efficient_matcher.core.geometry import fit_homography
from efficient_matcher.config import GeometryConfig
from efficient_matcher.evaluate.pose import (_outcome, PoseOutcome, PosePair, epipolar_distances, estimate_pose, normalised,
                                             pose_errors_deg, run_pose, scaled_intrinsics, summarize_poses)
from efficient_matcher.records import Features, Homography, Matches, PairResult

K = np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]])
BLACK = np.zeros((480, 640), np.uint8)


def motion(turn_deg: float = 10.0, shift: tuple[float, float, float] = (0.5, 0.1, 0.2)) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(np.radians(turn_deg) * np.array([0, 1.0, 0]))[0]
    T[:3, 3] = shift
    return T


def points(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N,2] of points in space, before and after `motion`."""
    space = np.random.default_rng(0).uniform((-1, -1, 3), (1, 1, 6), (count, 3))
    moved = space @ motion()[:3, :3].T + motion()[:3, 3]
    return tuple((p @ K.T)[:, :2] / p[:, 2:] for p in (space, moved))


class Oracle:
    """Gives the matches it was made with, whatever the image."""

    def __init__(self, points0: np.ndarray, points1: np.ndarray) -> None:
        self._sides = [points0, points1]
        self._calls = 0

    def extract(self, image: np.ndarray) -> Features:
        side = self._sides[self._calls % 2].astype(np.float32)
        self._calls += 1
        return Features(side, np.ones(len(side), np.float32), np.zeros((len(side), 1), np.float32), (640, 480))

    def match(self, features0: Features, features1: Features) -> PairResult:
        count = min(len(features0), len(features1))
        matches = Matches(np.column_stack([np.arange(count)] * 2).astype(np.int32), np.ones(count, np.float32))
        fit = fit_homography(features0.keypoints[:count], features1.keypoints[:count], (640, 480), GeometryConfig())
        return PairResult(features0, features1, matches, fit)


def pair(**changes: object) -> PosePair:
    return PosePair(**{"name": "a b", "image0": BLACK, "image1": BLACK, "K0": K, "K1": K, "T_0to1": motion(),
                       **changes})


def outcome(error: float, correct: int = 10, group: str = "all", method: str = "m") -> PoseOutcome:
    return PoseOutcome(0, "a b", group, method, (50, 60), 20, correct, None, error, 0.0)


def test_exact_points_give_the_exact_pose() -> None:
    rays0, rays1 = (normalised(side, K) for side in points())
    pose = estimate_pose(rays0, rays1, 500.0)
    assert pose is not None and max(pose_errors_deg(pose, motion())) < 1e-3
    assert epipolar_distances(rays0, rays1, motion()).max() < 1e-12
    assert estimate_pose(rays0[:4], rays1[:4], 500.0) is None


def test_outliers_are_borne_and_counted() -> None:
    points0, points1 = points(100)
    points1 = points1.copy()
    points1[:30] += np.random.default_rng(1).uniform(60, 150, (30, 2))
    ((found,),) = run_pose([pair()], {"oracle": Oracle(points0, points1)})
    assert found.error_deg < 0.5
    assert 70 <= found.correct <= 80 and found.precision == found.correct
    assert found.matching_score == pytest.approx(found.correct) and found.placed is None


def test_a_pixel_off_the_line_is_as_far_as_the_focal_length_says() -> None:
    sideways = np.eye(4)
    sideways[0, 3] = 1.0  # lines are rows
    ray = np.array([[0.1, 0.2]])
    distance = epipolar_distances(ray, ray + [0.3, 1 / 500], sideways)
    assert distance == pytest.approx([2 / 500**2])


@pytest.mark.parametrize(("turned", "shift", "errors"), [
    (13.0, (0.5, 0.1, 0.2), (3.0, 0.0)), (10.0, (-0.5, -0.1, -0.2), (0.0, 0.0)), (10.0, (-0.1, 0.5, 0.0), (0.0, 90.0))])
def test_errors_are_angles_and_the_sign_of_translation_does_not_count(
        turned: float, shift: tuple[float, float, float], errors: tuple[float, float]) -> None:
    T = motion(turned, shift)
    estimate = T[:3, :3], T[:3, 3] / np.linalg.norm(T[:3, 3])
    assert pose_errors_deg(estimate, motion()) == pytest.approx(errors, abs=1e-6)
    assert pose_errors_deg(None, motion()) == (np.inf, np.inf)


def test_depth_tells_right_matches_from_those_merely_on_the_line() -> None:
    flat = np.full((480, 640), 2.0, np.float32)
    sideways = np.eye(4)
    sideways[0, 3] = -0.2  # on a wall 2 m away: 50 px to the left
    points0 = np.random.default_rng(0).uniform((100, 20), (600, 460), (40, 2))
    points1 = points0 - [50, 0]
    points1[:10, 0] += 20
    ((found,),) = run_pose([pair(T_0to1=sideways, depths=(flat, flat))], {"oracle": Oracle(points0, points1)})
    assert (found.correct, found.placed) == (40, 30)


def test_images_are_brought_to_one_size_with_their_intrinsics() -> None:
    large = pair(image0=np.zeros((960, 1280), np.uint8), K0=scaled_intrinsics(K, (480, 640), (1280, 960)))
    assert large.K0[0, 2] == pytest.approx(639.5) and large.K0[0, 0] == 1000
    small = large.resized()
    assert small.image0.shape == (480, 640) and small.K0 == pytest.approx(K)


def test_figures_by_hand() -> None:
    figures = summarize_poses([outcome(0.0), outcome(np.inf, 0), outcome(2.5, 20, method="other")])
    assert [(row["method"], row["pairs"], row["without_pose"]) for row in figures] == [("m", 2, 1), ("other", 1, 0)]
    assert figures[0]["auc"] == pytest.approx({"5": 50.0, "10": 50.0, "20": 50.0})
    assert figures[1]["auc"] == pytest.approx({"5": 75.0, "10": 87.5, "20": 93.75})
    assert figures[0]["precision"] == 25.0 and figures[0]["precision_3px"] is None
    assert figures[0]["matching_score"] == pytest.approx(10.0)


def test_our_own_fit_takes_points_as_measured_and_ransac_as_settled() -> None:
    rng = np.random.default_rng(5)
    points = rng.uniform((100, 80), (540, 400), (60, 2)).astype(np.float32)
    exact = points + np.column_stack([rng.uniform(5, 40, 60), np.zeros(60)]).astype(np.float32)  # by depth, along x
    moved = exact + rng.normal(0, 0.5, points.shape).astype(np.float32)
    features = [Features(own, np.ones(60, np.float32), np.zeros((60, 4), np.float32), (640, 480)) for own in (points, moved)]
    T = np.eye(4)
    T[0, 3] = 1
    pair = PosePair("pair", BLACK, BLACK, K, K, T)
    indices = np.repeat(np.arange(60, dtype=np.int32)[:, None], 2, axis=1)
    found = []
    for settled1 in (None, exact):
        matches = Matches(indices, np.ones(60, np.float32), settled1=settled1)
        result = PairResult(*features, matches, Homography(None, np.zeros(60, bool), np.eye(8), 0.0))
        found.append(_outcome(0, pair, "method", result, GeometryConfig()))
    assert found[0].fit_error_deg == found[1].fit_error_deg
    assert found[1].error_deg < 0.05 < found[0].error_deg


def test_no_keypoints_is_a_failure_not_an_error() -> None:
    none = np.zeros((0, 2))
    ((found,),) = run_pose([pair()], {"blind": Oracle(none, none)})
    assert found.error_deg == np.inf and found.precision == found.matching_score == 0.0
