"""Whether the same points are found in both images of a pair, and how exactly they are placed.

Conventions: points are [N,2], x right, y down, pixels; H_0to1 maps image 0 to image 1; distances are
measured in image 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core.geometry import warp_points
from efficient_matcher.evaluate.metrics import TRUTH_THRESHOLD_PX, true_matches

MARGIN_PX = 8.0  # detectors differ in how near to the border they look; nearer points do not count


@dataclass(frozen=True)
class Repeated:
    """visible: keypoints of image 0 and 1 that the other image shows too. errors_px: [G], of those found in both."""

    visible: tuple[int, int]
    errors_px: NDArray[np.float64]

    @property
    def share(self) -> float:
        """Repeatability in percent: found in both / the smaller number visible; NaN where nothing is."""
        return 100.0 * len(self.errors_px) / min(self.visible) if min(self.visible) else float("nan")

    @property
    def mean_error_px(self) -> float:
        """Mean distance of those found in both; NaN without any."""
        return float(self.errors_px.mean()) if len(self.errors_px) else float("nan")


def repeatability(
    points0: NDArray[np.floating], points1: NDArray[np.floating], size0: tuple[int, int], size1: tuple[int, int],
    H_0to1: NDArray[np.float64], threshold_px: float = TRUTH_THRESHOLD_PX,
) -> Repeated:
    """Hold the keypoints of two images of size (width, height) against each other.

    A point is repeated when a keypoint of image 1 and its projection are each other's nearest, closer than the
    threshold; so no keypoint counts twice.
    """
    seen0 = _inside(points0, size0) & _inside(warp_points(points0, H_0to1), size1)
    seen1 = _inside(points1, size1) & _inside(warp_points(points1, np.linalg.inv(H_0to1)), size0)
    points0, points1 = points0[seen0], points1[seen1]
    both = true_matches(points0, points1, H_0to1, threshold_px, rounds=1)
    errors = np.linalg.norm(warp_points(points0[both[:, 0]], H_0to1) - points1[both[:, 1]], axis=1)
    return Repeated((int(seen0.sum()), int(seen1.sum())), errors)


def _inside(points: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):  # NaN beyond the horizon is outside
        return ((points >= MARGIN_PX) & (points <= np.array(size) - 1.0 - MARGIN_PX)).all(axis=1)
