"""Why a pair failed: what its homography would have been, had one thing at a time gone right.

The fit is repeated on the right matches alone, on every true correspondence of the keypoints, and on
these at their exact places. The first of them that would have saved the pair names the cause.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core.geometry import warp_points
from efficient_matcher.evaluate.fits import MINIMUM_MATCHES, strict_error_px
from efficient_matcher.evaluate.metrics import true_matches
from efficient_matcher.records import PairResult

FINE = "fine"
KEYPOINTS = "too few keypoints"
SPREAD = "keypoints badly spread"
IMPRECISE = "imprecise"
FEW = "too few matches"
WRONG = "wrong matches"
CHANCE = 30  # 512 keypoints each in two images of 640x480 meet within 3 px some 24 times without being the same
CAUSES = (KEYPOINTS, SPREAD, IMPRECISE, FEW, WRONG)


@dataclass(frozen=True)
class Diagnosis:
    """One pair held against its truth.

    cause: one of `CAUSES`, or `FINE`. visible: keypoints of each image that the other one shows. true: correspondences
    among them, within 3 px. right: [K] bool, one per match. location_px: median distance of the right matches from
    the truth. errors_px: corner error of the homography of the `matches` given, of the `right` ones, of all `true`
    correspondences and of these at their `exact` places; infinite below 12.
    """

    cause: str
    visible: tuple[int, int]
    true: int
    right: NDArray[np.bool_]
    location_px: float
    errors_px: dict[str, float]

    def sentence(self) -> str:
        """The cause with the numbers that show it, in one line."""
        wrong, right = int((~self.right).sum()), int(self.right.sum())
        errors = {name: _px(value) for name, value in self.errors_px.items()}
        return {
            FINE: f"corner error {errors['matches']}",
            KEYPOINTS: f"{self.visible[0]} and {self.visible[1]} keypoints in the overlap, {self.true} the same",
            SPREAD: f"the {self.true} keypoints found in both lie badly: {errors['exact']} at exact places",
            IMPRECISE: f"all {self.true} true correspondences give {errors['true']} too; "
                       f"median location error {_px(self.location_px)}",
            FEW: f"{right} right of {self.true} there were; all of them would give {errors['true']}",
            WRONG: f"{wrong} wrong beside {right} right, which alone would give {errors['right']}",
        }[self.cause]


def diagnose(result: PairResult, H_0to1: NDArray[np.float64], tolerance_px: float = 5.0) -> Diagnosis:
    """What keeps a pair's corner error (RANSAC's fit) above `tolerance_px`; H_0to1 [3,3] is the truth."""
    points0, points1 = result.features0.keypoints, result.features1.keypoints
    size = result.features0.image_size
    truth = true_matches(points0, points1, H_0to1)
    right = right_matches(result.matches.indices, truth)
    exact0 = warp_points(points0, H_0to1)
    distance = np.linalg.norm(warp_points(result.points0, H_0to1) - result.points1, axis=1)
    errors = {
        "matches": strict_error_px(result.points0, result.points1, H_0to1, size),
        "right": strict_error_px(result.points0[right], result.points1[right], H_0to1, size),
        "true": strict_error_px(points0[truth[:, 0]], points1[truth[:, 1]], H_0to1, size),
        "exact": strict_error_px(points0[truth[:, 0]], exact0[truth[:, 0]], H_0to1, size),
    }
    visible = _inside(exact0, result.features1.image_size), _inside(warp_points(points1, np.linalg.inv(H_0to1)), size)
    location = float(np.median(distance[right])) if right.any() else float("nan")
    return Diagnosis(_cause(len(truth), errors, tolerance_px), visible, len(truth), right, location, errors)


def right_matches(indices: NDArray[np.integer], truth: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which of the index pairs [K,2] are among the true ones [G,2]: [K] bool."""
    known = set(map(tuple, truth.tolist()))
    return np.array([pair in known for pair in map(tuple, indices.tolist())], bool)


def _cause(true: int, errors: dict[str, float], tolerance_px: float) -> str:
    if errors["matches"] <= tolerance_px:
        return FINE
    if true < MINIMUM_MATCHES:
        return KEYPOINTS
    if errors["exact"] > tolerance_px:
        return SPREAD
    if errors["right"] <= tolerance_px:
        return WRONG
    if errors["true"] <= tolerance_px:
        return FEW
    return IMPRECISE if true >= CHANCE else KEYPOINTS


def _inside(points: NDArray[np.float64], size: tuple[int, int]) -> int:
    with np.errstate(invalid="ignore"):  # NaN beyond the horizon is outside
        return int(((points >= 0) & (points <= np.array(size) - 1.0)).all(axis=1).sum())


def _px(value: float) -> str:
    return f"{value:.1f} px" if np.isfinite(value) else "no homography"
