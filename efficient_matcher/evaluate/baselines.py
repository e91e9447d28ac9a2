"""OpenCV's SIFT and ORB with mutual nearest neighbours, behind the interface of the networks.

Descriptors stay as OpenCV makes them (SIFT: [N,128] float32, ORB: [N,32] uint8 of 256 bits) and are
compared by OpenCV's own brute-force matcher, so that speed is compared with what people really run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import GeometryConfig
from efficient_matcher.core.geometry import fit_matches
from efficient_matcher.records import Features, Matches, PairResult


@dataclass(frozen=True)
class _Kind:
    norm: int
    worst_distance: float  # scores fall from 1 at distance 0 to 0 here
    empty: NDArray[np.generic]  # descriptors of an image without keypoints


_KINDS = {
    "sift": _Kind(cv2.NORM_L2, 512.0 * np.sqrt(2.0), np.zeros((0, 128), np.float32)),
    "orb": _Kind(cv2.NORM_HAMMING, 256.0, np.zeros((0, 32), np.uint8)),
}
BASELINES = tuple(_KINDS)


def matched(features0: Features, features1: Features, nearest: Callable[[Features, Features], Matches],
            geometry: GeometryConfig) -> PairResult:
    """The matches that `nearest` finds and the project's own robust homography; timings in ms."""
    start = time.perf_counter()
    matches = nearest(features0, features1)
    found = time.perf_counter()
    homography = fit_matches(features0, features1, matches, geometry)
    fitted = time.perf_counter()
    timings = {"match": 1e3 * (found - start), "homography": 1e3 * (fitted - found)}
    return PairResult(features0, features1, matches, homography, timings)


class Baseline:
    """A classical matcher: `extract` and `match` as core's Matcher has them.

    name: "sift" or "orb". max_keypoints: kept per image, strongest response first.
    """

    def __init__(self, name: str, max_keypoints: int = 512, geometry: GeometryConfig = GeometryConfig()) -> None:
        self.name = name
        self._max_keypoints = max_keypoints
        self._geometry = geometry
        self._kind = _KINDS[name]
        create = cv2.SIFT_create if name == "sift" else cv2.ORB_create
        self._detector = create(nfeatures=max_keypoints)
        self._nearest = cv2.BFMatcher(self._kind.norm, crossCheck=True)

    def extract(self, image: NDArray[np.uint8]) -> Features:
        """Keypoints of a grey image [H,W], pixels, best first."""
        size = (image.shape[1], image.shape[0])
        keypoints, descriptors = self._detector.detectAndCompute(image, None)
        if descriptors is None or len(keypoints) == 0:
            return Features(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), self._kind.empty, size)
        responses = np.array([keypoint.response for keypoint in keypoints], np.float32)
        best = np.argsort(-responses, kind="stable")[: self._max_keypoints]  # OpenCV keeps ties beyond the number asked
        points = cv2.KeyPoint.convert(keypoints)
        sizes = np.array([keypoint.size for keypoint in keypoints], np.float32)  # how far off grows with these
        return Features(np.asarray(points, np.float32)[best], responses[best], descriptors[best], size, sizes[best])

    def match(self, features0: Features, features1: Features) -> PairResult:
        """Mutual nearest neighbours and the project's own robust homography; timings in ms."""
        return matched(features0, features1, self._mutual_nearest, self._geometry)

    def _mutual_nearest(self, features0: Features, features1: Features) -> Matches:
        if len(features0) == 0 or len(features1) == 0:
            return Matches(np.zeros((0, 2), np.int32), np.zeros(0, np.float32))
        found = self._nearest.match(features0.descriptors, features1.descriptors)
        indices = np.array([(m.queryIdx, m.trainIdx) for m in found], np.int32).reshape(-1, 2)
        distance = np.array([m.distance for m in found], np.float32)
        order = np.argsort(distance, kind="stable")
        scores = np.clip(1.0 - distance / self._kind.worst_distance, 0.0, 1.0)
        return Matches(indices[order], scores[order].astype(np.float32))
