"""What is counted: area under the error curve, precision, recall.

Conventions: points are [N,2], x right, y down, pixels; H_0to1 maps image 0 to image 1; index pairs
are [K,2], first column into keypoints 0. Figures are in percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core.geometry import warp_points

TRUTH_THRESHOLD_PX = 3.0
TRUTH_ROUNDS = 3


@dataclass(frozen=True)
class MatchCounts:
    """Matches of one pair held against the truth.

    predicted: matches given. correct: those the truth holds too. missed: true correspondences whose
    keypoint 0 was left unmatched; one matched wrongly costs precision, not recall.
    """

    predicted: int
    correct: int
    missed: int

    @property
    def precision(self) -> float:
        """Correct share of the predicted matches, percent; 0 when nothing was predicted."""
        return 100.0 * self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Correct / (correct + missed), percent; NaN when there was nothing to find."""
        wanted = self.correct + self.missed
        return 100.0 * self.correct / wanted if wanted else float("nan")


def area_under_curve(errors: Sequence[float], thresholds: Sequence[float]) -> list[float]:
    """Area under the cumulative error curve up to each threshold, as percent of the threshold.

    Exact: trapezoids over the sorted errors, no bins. Infinite or NaN errors are failures: they
    lower the curve and never reach a threshold. No errors at all give 0.
    """
    failed_last = np.sort(np.nan_to_num(np.asarray(errors, np.float64), nan=np.inf, posinf=np.inf))
    if len(failed_last) == 0:
        return [0.0] * len(thresholds)
    error = np.concatenate([[0.0], failed_last])
    share = np.arange(len(error)) / len(failed_last)
    return [_area_up_to(error, share, threshold) for threshold in thresholds]


def _area_up_to(error: NDArray[np.float64], share: NDArray[np.float64], threshold: float) -> float:
    end = int(np.searchsorted(error, threshold))
    x = np.append(error[:end], threshold)
    y = np.append(share[:end], share[end - 1])
    return float(100.0 * np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / threshold)


def true_matches(
    keypoints0: NDArray[np.floating], keypoints1: NDArray[np.floating], H_0to1: NDArray[np.float64],
    threshold_px: float = TRUTH_THRESHOLD_PX, rounds: int = TRUTH_ROUNDS,
) -> NDArray[np.int32]:
    """Correspondences [G,2] that H_0to1 makes true: mutual nearest in image 1, closer than the threshold.

    Keypoints left over by one round may be mutual nearest in the next, up to `rounds` times.
    """
    if len(keypoints0) == 0 or len(keypoints1) == 0:
        return np.zeros((0, 2), np.int32)
    projected = warp_points(np.asarray(keypoints0, np.float64), H_0to1)
    distance = np.linalg.norm(projected[:, None] - np.asarray(keypoints1, np.float64)[None], axis=-1)
    distance = np.where(distance < threshold_px, distance, np.inf)  # NaN, behind the horizon, becomes inf too
    found = []
    for _ in range(rounds):
        pairs = _mutual_nearest(distance)
        distance[pairs[:, 0]] = np.inf
        distance[:, pairs[:, 1]] = np.inf
        found.append(pairs)
    return np.concatenate(found).astype(np.int32)


def _mutual_nearest(distance: NDArray[np.float64]) -> NDArray[np.intp]:
    rows = np.arange(len(distance))
    nearest = distance.argmin(axis=1)
    mutual = (distance.argmin(axis=0)[nearest] == rows) & np.isfinite(distance[rows, nearest])
    return np.column_stack([rows[mutual], nearest[mutual]])


def count_matches(indices: NDArray[np.integer], truth: NDArray[np.integer]) -> MatchCounts:
    """Hold predicted index pairs [K,2] against true ones [G,2]."""
    predicted = {(int(a), int(b)) for a, b in indices}
    matched0 = {a for a, _ in predicted}
    correct = sum((int(a), int(b)) in predicted for a, b in truth)
    missed = sum(int(a) not in matched0 for a, _ in truth)
    return MatchCounts(len(indices), correct, missed)
