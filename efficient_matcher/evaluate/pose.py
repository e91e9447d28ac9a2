"""Relative pose: pairs with a known motion between the views, matched by several methods side by side.

As SuperGlue's evaluation does it: essential matrix by OpenCV's RANSAC with 1 px at the mean focal length, error =
the larger of the angles of rotation and of translation direction; beside it the pose that this package fits. A match is right when its symmetric epipolar
distance in normalised coordinates is below 5e-4; matching score = right matches per keypoint of image 0. Where depth
is known, matches are also held against it: right within 3 px of where the point really is, and visible there.

T_0to1 [4,4] takes camera coordinates 0 (x right, y down, z ahead, metres) to camera coordinates 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import GeometryConfig
from efficient_matcher.core.pipeline import Matcher
from efficient_matcher.core.relative_pose import fit_relative_pose, rotation_angle_deg
from efficient_matcher.evaluate.homography import PairMatcher
from efficient_matcher.evaluate.metrics import TRUTH_THRESHOLD_PX, area_under_curve
from efficient_matcher.records import PairResult
from efficient_matcher.scenes.depth import DepthView, transfer

Array = NDArray[np.float64]

SIZE = (640, 480)  # width, height every image is brought to
THRESHOLDS_DEG = (5.0, 10.0, 20.0)
RANSAC_THRESHOLD_PX = 1.0
RANSAC_CONFIDENCE = 0.99999
EPIPOLAR_THRESHOLD = 5e-4
MINIMUM_MATCHES = 5  # of the essential matrix


@dataclass(frozen=True)
class PosePair:
    """Two views and the truth: images [H,W] uint8, intrinsics K [3,3] of them, T_0to1 [4,4].

    group: what pairs are reported together, such as a level. depths: of both images, [H,W] float32 m, 0 unknown;
    None where there are none.
    """

    name: str
    image0: NDArray[np.uint8]
    image1: NDArray[np.uint8]
    K0: Array
    K1: Array
    T_0to1: Array
    group: str = "all"
    depths: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    def resized(self, size: tuple[int, int] = SIZE) -> PosePair:
        """The pair with both images (and depths) brought to `size` (width, height), the proportions not kept."""
        depths = None if self.depths is None else tuple(
            cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST) for depth in self.depths)
        return replace(self, image0=_resized(self.image0, size), image1=_resized(self.image1, size), depths=depths,
                       K0=scaled_intrinsics(self.K0, self.image0.shape, size),
                       K1=scaled_intrinsics(self.K1, self.image1.shape, size))


@dataclass(frozen=True)
class PoseOutcome:
    """One pair, one method. Errors in degrees, infinite without a pose: of RANSAC's, and of our own fit's (fit_..), with
    that fit's margin and time.

    keypoints: of image 0 and 1. correct: matches on the epipolar lines; placed: those within 3 px of where depth
    says, None without depth.
    """

    index: int
    name: str
    group: str
    method: str
    keypoints: tuple[int, int]
    matches: int
    correct: int
    placed: int | None
    rotation_error_deg: float
    translation_error_deg: float
    fit_rotation_error_deg: float = float("inf")
    fit_translation_error_deg: float = float("inf")
    fit_margin: float = float("nan")
    fit_ms: float = float("nan")

    @property
    def error_deg(self) -> float:
        """The larger of RANSAC's errors."""
        return max(self.rotation_error_deg, self.translation_error_deg)

    @property
    def fit_error_deg(self) -> float:
        """The larger of our own fit's errors."""
        return max(self.fit_rotation_error_deg, self.fit_translation_error_deg)

    @property
    def precision(self) -> float:
        """Share of the matches that lie on the epipolar lines, percent; 0 without matches."""
        return 100.0 * self.correct / self.matches if self.matches else 0.0

    @property
    def precision_3px(self) -> float:
        """Share of the matches that are where depth says, percent; NaN without depth."""
        return float("nan") if self.placed is None else 100.0 * self.placed / max(1, self.matches)

    @property
    def matching_score(self) -> float:
        """Right matches per keypoint of image 0, percent."""
        return 100.0 * self.correct / max(1, self.keypoints[0])


def run_pose(pairs: Iterable[PosePair], methods: Mapping[str, PairMatcher],
             config: GeometryConfig = GeometryConfig()) -> Iterator[list[PoseOutcome]]:
    """Evaluate pair after pair, each brought to `SIZE`; one list per pair, of every method. config: of our own fit."""
    for index, given in enumerate(pairs):
        pair = given.resized()
        yield [_outcome(index, pair, method, match_images(matcher, pair.image0, pair.image1), config)
               for method, matcher in methods.items()]


def match_images(matcher: PairMatcher, image0: NDArray[np.uint8], image1: NDArray[np.uint8]) -> PairResult:
    """Match two grey images; core's Matcher gets them whole, as refinement looks at pixels."""
    if isinstance(matcher, Matcher):
        return matcher.match(image0, image1)
    return matcher.match(matcher.extract(image0), matcher.extract(image1))


def _outcome(index: int, pair: PosePair, method: str, result: PairResult, config: GeometryConfig) -> PoseOutcome:
    rays0, rays1 = normalised(result.points0, pair.K0), normalised(result.points1, pair.K1)
    pose = estimate_pose(rays0, rays1, _mean_focal_length(pair))
    rotation, translation = pose_errors_deg(pose, pair.T_0to1)
    correct = epipolar_distances(rays0, rays1, pair.T_0to1) < EPIPOLAR_THRESHOLD
    begun = perf_counter()
    fit = fit_relative_pose(result.points0, result.measured1, pair.K0, pair.K1, config,
                            spreads=result.matches.spreads(result.features0, result.features1))
    spent_ms = 1e3 * (perf_counter() - begun)
    own = pose_errors_deg(None if fit.rotation is None else (fit.rotation, fit.translation), pair.T_0to1)
    return PoseOutcome(index, pair.name, pair.group, method, (len(result.features0), len(result.features1)),
                       len(result.matches), int(correct.sum()), _placed(pair, result), rotation, translation, *own,
                       fit.margin, spent_ms)


def estimate_pose(rays0: Array, rays1: Array, focal_px: float) -> tuple[Array, Array] | None:
    """Rotation [3,3] and unit translation [3] from matched normalised points [K,2]; None when there is none.

    focal_px: what turns 1 px into a distance of normalised points.
    """
    if len(rays0) < MINIMUM_MATCHES:
        return None
    cv2.setRNGSeed(0)
    try:
        matrices, mask = cv2.findEssentialMat(rays0, rays1, np.eye(3), method=cv2.RANSAC, prob=RANSAC_CONFIDENCE,
                                              threshold=RANSAC_THRESHOLD_PX / focal_px)
    except cv2.error:
        return None  # some versions raise on degenerate points where others return nothing
    if matrices is None or len(matrices) == 0:
        return None
    best: tuple[int, tuple[Array, Array] | None] = 0, None
    for E in np.split(matrices, len(matrices) // 3):  # up to ten solutions, one below the other
        count, R, t = cv2.recoverPose(E, rays0, rays1, np.eye(3), 1e9, mask=mask.copy())[:3]
        if count > best[0]:
            best = count, (R, t[:, 0])
    return best[1]


def pose_errors_deg(pose: tuple[Array, Array] | None, T_0to1: Array) -> tuple[float, float]:
    """Angles, degrees, of the rotation and of the translation direction; infinite without a pose.

    The sign of the translation is not judged, as in SuperGlue's evaluation.
    """
    if pose is None:
        return float("inf"), float("inf")
    R, t = pose
    truth = T_0to1[:3, 3] / np.linalg.norm(T_0to1[:3, 3])
    angle = np.degrees(np.arctan2(np.linalg.norm(np.cross(t, truth)), abs(t @ truth)))
    return rotation_angle_deg(R.T @ T_0to1[:3, :3]), float(angle)


def epipolar_distances(rays0: Array, rays1: Array, T_0to1: Array) -> Array:
    """Symmetric squared epipolar distances [K] of normalised points [K,2]."""
    t = T_0to1[:3, 3]
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    E = cross @ T_0to1[:3, :3]
    ones = np.ones((len(rays0), 1))
    homogeneous0, homogeneous1 = np.hstack([rays0, ones]), np.hstack([rays1, ones])
    line1, line0 = homogeneous0 @ E.T, homogeneous1 @ E
    along = (homogeneous1 * line1).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0: a point on the epipole, which is on its line
        distances = along**2 * (1 / (line1[:, :2] ** 2).sum(1) + 1 / (line0[:, :2] ** 2).sum(1))
    return np.nan_to_num(distances, nan=0.0)


def normalised(points: NDArray[np.floating], K: Array) -> Array:
    """Pixels [K,2] as normalised camera coordinates (z = 1) [K,2]."""
    rays = np.column_stack([np.asarray(points, np.float64).reshape(-1, 2), np.ones(len(points))])
    return np.ascontiguousarray((rays @ np.linalg.inv(K).T)[:, :2])


def scaled_intrinsics(K: Array, shape: tuple[int, ...], size: tuple[int, int]) -> Array:
    """K [3,3] of an image of shape (h, w) once that is resized to `size` (width, height); pixel centres at integers."""
    sx, sy = size[0] / shape[1], size[1] / shape[0]
    return np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1.0]]) @ K


def summarize_poses(outcomes: Iterable[PoseOutcome]) -> list[dict[str, Any]]:
    """Figures per method and group, in the order they first appear; percent, and degrees for the median error."""
    groups: dict[tuple[str, str], list[PoseOutcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.group, outcome.method), []).append(outcome)
    return [_figures(group, method, rows) for (group, method), rows in groups.items()]


def _figures(group: str, method: str, rows: Sequence[PoseOutcome]) -> dict[str, Any]:
    errors = [row.error_deg for row in rows]
    fit_errors = [row.fit_error_deg for row in rows]
    median, fit_median = float(np.median(errors)), float(np.median(fit_errors))
    return {
        "group": group, "method": method, "pairs": len(rows), "auc": _areas(errors), "fit_auc": _areas(fit_errors),
        "precision": float(np.mean([row.precision for row in rows])),
        "matching_score": float(np.mean([row.matching_score for row in rows])),
        "precision_3px": None if rows[0].placed is None else float(np.mean([row.precision_3px for row in rows])),
        "matches": float(np.mean([row.matches for row in rows])),
        "keypoints": float(np.mean([sum(row.keypoints) / 2 for row in rows])),
        "median_error_deg": median if np.isfinite(median) else None,
        "fit_median_error_deg": fit_median if np.isfinite(fit_median) else None,
        "fit_ms": float(np.median([row.fit_ms for row in rows])),
        "without_pose": sum(not np.isfinite(error) for error in errors),
    }


def _areas(errors: Sequence[float]) -> dict[str, float]:
    return {f"{threshold:g}": area for threshold, area in zip(THRESHOLDS_DEG, area_under_curve(errors, THRESHOLDS_DEG))}


def _mean_focal_length(pair: PosePair) -> float:
    return float(np.mean([pair.K0[0, 0], pair.K0[1, 1], pair.K1[0, 0], pair.K1[1, 1]]))


def _placed(pair: PosePair, result: PairResult) -> int | None:
    if pair.depths is None:
        return None
    view0 = DepthView(pair.K0, np.eye(4), pair.depths[0])
    moved = transfer(result.points0, view0, DepthView(pair.K1, pair.T_0to1, pair.depths[1]))
    near = np.linalg.norm(moved.points - result.points1, axis=1) < TRUTH_THRESHOLD_PX  # False for NaN
    return int((near & moved.visible).sum())


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if image.shape == size[::-1]:
        return image
    shrinks = image.shape[1] > size[0]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
