"""CameraInfo -> viewing rays of keypoints.

Rays are (x, y, 1) in the camera's optical frame. With a raw image they are undistorted by K and D;
with a rectified one they come from P. Works on the messages of rclpy and of rosbags, ROS 1 (K, D, P)
and ROS 2 (k, d, p).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import GeometryConfig
from efficient_matcher.core.relative_pose import fit_pose_of_rays, no_pose
from efficient_matcher.errors import MatcherError
from efficient_matcher.records import PairResult, RelativePose

PINHOLE_MODELS = ("", "plumb_bob", "rational_polynomial")
FISHEYE_MODELS = ("equidistant", "fisheye")
_CRITERIA = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 50, 1e-9)
_MISSED_PX = 0.5  # a ray that is projected this far from its pixel is not its ray


@dataclass(frozen=True)
class CameraModel:
    """Intrinsics of one camera for the pixels its images really have (binning and region of interest applied).

    matrix: [3,3] K of the raw image; distortion: [n]; rectified: [3,3] left part of P; size: (width, height) px.
    problem: why rays of raw images are unknown, empty if they are not; those of rectified ones need neither model nor d.
    """

    matrix: NDArray[np.float64]
    distortion: NDArray[np.float64]
    rectified: NDArray[np.float64]
    size: tuple[int, int]
    fisheye: bool
    problem: str = ""

    @classmethod
    def from_message(cls, info: Any) -> CameraModel:
        """The model of a sensor_msgs/CameraInfo; raises MatcherError for an uncalibrated one."""
        whole = cls.from_calibration(info)
        return replace(whole, matrix=_cropped(whole.matrix, info), rectified=_cropped(whole.rectified, info),
                       size=_image_size(info))

    @classmethod
    def from_calibration(cls, calibration: Any) -> CameraModel:
        """The model of whole images: of a `Calibration`, or of what else has a CameraInfo's width, height, model and
        matrices. Raises MatcherError for an uncalibrated one."""
        model = str(calibration.distortion_model).strip().lower()
        matrix, distortion = _values(calibration, "k").reshape(3, 3), _values(calibration, "d")
        rectified = _values(calibration, "p").reshape(3, 4)[:, :3]
        if not all(np.isfinite(values).all() for values in (matrix, distortion, rectified)):
            raise MatcherError("camera_info: k, d or p is not finite")
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
            raise MatcherError("camera_info: not calibrated, k is zero")
        return cls(matrix, distortion, rectified, (int(calibration.width), int(calibration.height)),
                   model in FISHEYE_MODELS, _distortion_problem(model, distortion))

    def rays(self, points: NDArray[np.float32], image_size: tuple[int, int],
             undistort: bool = True) -> NDArray[np.float32]:
        """Rays [K,3] float32 of pixels [K,2]; NaN where the distortion cannot be inverted.

        image_size: (width, height) of the image the points lie in. undistort: True for a raw image, False for a
        rectified one. Raises MatcherError when the CameraInfo is of another image size, or lacks what it takes: a known
        distortion for a raw image, P for a rectified one.
        """
        if image_size != self.size:
            raise MatcherError("camera_info is for {}x{} images, the image is {}x{}".format(*self.size, *image_size))
        rays = np.ones((len(points), 3), np.float32)
        if problem := self.problem_of(undistort):
            raise MatcherError(problem)
        rays[:, :2] = self._undistorted(points) if undistort else _normalised(points, self.rectified)
        rays[~np.isfinite(rays).all(axis=1)] = np.nan
        return rays

    def problem_of(self, undistort: bool) -> str:
        """Why rays of raw images (`undistort`) or of rectified ones are unknown; empty if they are not."""
        if undistort:
            return self.problem
        return "" if self.rectified[0, 0] > 0 else "camera_info: p is zero, so rays of rectified images are unknown"

    def focal_px(self, undistort: bool = True) -> float:
        """Mean focal length of what `rays` takes: the raw image's, or the rectified one's."""
        matrix = self.matrix if undistort else self.rectified
        return float(matrix[0, 0] + matrix[1, 1]) / 2

    def _undistorted(self, points: NDArray[np.float32]) -> NDArray[np.float64]:
        if not len(points) or (not self.fisheye and not self.distortion.any()):
            return _normalised(points, self.matrix)
        source = points.astype(np.float64).reshape(-1, 1, 2)
        if not self.fisheye:
            # OpenCV 4 gives the variant with a stop criterion a name of its own, 5 an argument
            undistort = getattr(cv2, "undistortPointsIter", cv2.undistortPoints)
            rays = undistort(source, self.matrix, self.distortion, R=np.eye(3), P=np.eye(3), criteria=_CRITERIA)[:, 0]
        else:
            rays = cv2.fisheye.undistortPoints(source, self.matrix, self.distortion)[:, 0]
        rays[~(np.linalg.norm(self._projected(rays) - points, axis=1) < _MISSED_PX)] = np.nan
        return rays

    def _projected(self, rays: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels [K,2] of rays [K,2] at z = 1. What no ray leads to (past 90 degrees of a fisheye, past the turning
        point of a polynomial) OpenCV answers with the ray of another pixel; here it shows."""
        project = cv2.fisheye.projectPoints if self.fisheye else cv2.projectPoints
        ahead = np.column_stack([rays, np.ones(len(rays))]).reshape(-1, 1, 3)
        return project(ahead, np.zeros(3), np.zeros(3), self.matrix, self.distortion)[0][:, 0]


def pose_by_rays(result: PairResult, rays0: NDArray[np.float32] | None, rays1: NDArray[np.float32] | None,
                 focals_px: tuple[float, float], config: GeometryConfig) -> RelativePose:
    """Relative pose of a result's cameras from the rays [K,3] of its matches; none where rays are not known.

    focals_px: of either camera.
    """
    if rays0 is None or rays1 is None:
        return no_pose(len(result.matches))
    return fit_pose_of_rays(rays0, rays1, focals_px, config, result.matches.spreads(result.features0, result.features1))


def _normalised(points: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return (points - matrix[:2, 2]) / np.array([matrix[0, 0], matrix[1, 1]])


def _values(info: Any, name: str) -> NDArray[np.float64]:
    values = getattr(info, name) if hasattr(info, name) else getattr(info, name.upper())
    return np.array(values, np.float64)


def _distortion_problem(model: str, distortion: NDArray[np.float64]) -> str:
    """Why images of such a distortion model cannot be undistorted; empty if they can."""
    if model not in PINHOLE_MODELS + FISHEYE_MODELS:
        return f"camera_info: unknown distortion_model '{model}'"
    allowed = (4,) if model in FISHEYE_MODELS else (0, 4, 5, 8, 12, 14)
    if len(distortion) not in allowed:
        return f"camera_info: d has {len(distortion)} values, expected one of {allowed}"
    return ""


def _binning(info: Any) -> tuple[int, int]:
    return max(1, int(info.binning_x)), max(1, int(info.binning_y))  # the message's 0 means 1


def _image_size(info: Any) -> tuple[int, int]:
    width, height = int(info.roi.width) or int(info.width), int(info.roi.height) or int(info.height)
    return width // _binning(info)[0], height // _binning(info)[1]


def _cropped(matrix: NDArray[np.float64], info: Any) -> NDArray[np.float64]:
    """The matrix for the pixels after region of interest and binning; pixel centres at integers."""
    scale = np.array(_binning(info), np.float64)
    offset = np.array([info.roi.x_offset, info.roi.y_offset], np.float64)
    result = matrix.copy()
    result[0, 0], result[1, 1] = matrix[0, 0] / scale[0], matrix[1, 1] / scale[1]
    result[:2, 2] = (matrix[:2, 2] - offset + 0.5) / scale - 0.5
    return result
