"""The homography that published figures are made with, and how far it is off."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core.geometry import corner_error

MINIMUM_MATCHES = 12  # a pair with fewer is a failure
RANSAC_THRESHOLD_PX = 3.0
RANSAC_ITERATIONS = 3000


def fit_ransac(points0: NDArray[np.floating], points1: NDArray[np.floating]) -> NDArray[np.float64] | None:
    """OpenCV's RANSAC homography of matched points [K,2], as published figures use it; None when it finds none."""
    if len(points0) < 4:
        return None
    cv2.setRNGSeed(0)
    H, _ = cv2.findHomography(points0, points1, cv2.RANSAC, RANSAC_THRESHOLD_PX, maxIters=RANSAC_ITERATIONS)
    return H


def strict_error_px(points0: NDArray[np.floating], points1: NDArray[np.floating], H_0to1: NDArray[np.float64],
                    size: tuple[int, int]) -> float:
    """Corner error of the RANSAC fit to matched points [K,2], image of `size` (w, h); infinite with too few."""
    if len(points0) < MINIMUM_MATCHES:
        return float("inf")
    return corner_error(fit_ransac(points0, points1), H_0to1, size)
