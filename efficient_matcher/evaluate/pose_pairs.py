"""Where pairs with a known relative pose come from: lists, synthetic scenes, bags."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import InputConfig
from efficient_matcher.errors import SourceError
from efficient_matcher.evaluate.pose import Array, PosePair, scaled_intrinsics
from efficient_matcher.records import Frame
from efficient_matcher.ros.camera import CameraModel
from efficient_matcher.scenes.views import LEVELS, draw_pair
from efficient_matcher.sources.bags import ImageBag
from efficient_matcher.sources.poses import ListedPose, read_depth, read_upright
from efficient_matcher.sources.trajectory import camera_in_body, read_trajectory

LEAST_BASELINE_M = 0.02  # in a bag: below it the truth's direction of translation is noise


def listed_pairs(listed: Sequence[ListedPose], images: Path, depth: Path | None = None) -> Iterator[PosePair]:
    """The pairs of a list, images turned upright.

    depth: folder of 16-bit depth images (mm) of the same names; where both are there they are used. Raises
    SourceError naming an image that cannot be read.
    """
    for pair in listed:
        image0, K0, turn0 = read_upright(images / pair.name0, pair.turns0, pair.K0)
        image1, K1, turn1 = read_upright(images / pair.name1, pair.turns1, pair.K1)
        T_0to1 = _homogeneous(turn1) @ pair.T_0to1 @ _homogeneous(turn0).T
        yield PosePair(f"{pair.name0} {pair.name1}", image0, image1, K0, K1, T_0to1,
                       depths=_listed_depths(pair, depth, image0.shape, image1.shape))


def scene_pairs(textures: Sequence[NDArray[np.uint8]], levels: Sequence[str], count: int,
                seed: int) -> Iterator[PosePair]:
    """`count` pairs of each of `scenes.views.LEVELS`, rendered from grey images [h,w]; the same for the same seed."""
    for level in levels:
        for index in range(count):
            pair = draw_pair(textures, level, seed, index)
            yield PosePair(f"{level} {index} ({pair.kind})", pair.view0.image, pair.view1.image, pair.view0.K,
                           pair.view1.K, pair.T_0to1, level, (pair.view0.depth, pair.view1.depth))


@dataclass
class BagPairs:
    """Pairs of frames of a bag, `gap` frames apart and each `gap` frames after the last pair; iterate once.

    undistort: False for images that are rectified already. depth_bits: of 16-bit images. skipped: why frames and pairs
    were left out. notes: what was assumed. Raises SourceError where the bag has no calibration, none that serves, or no
    poses.
    """

    bag: ImageBag
    gap: int
    pose_topic: str | None = None
    undistort: bool = True
    depth_bits: int = 16
    skipped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[PosePair]:
        camera = self._camera()
        trajectory = read_trajectory(self.bag, self.pose_topic)
        if not trajectory.body:
            self.notes.append("the poses name no child_frame_id, so they are taken as those of the camera's optical "
                              "frame")
        to_body: Array | None = None
        recent: deque[tuple[Frame, Array | None]] = deque(maxlen=self.gap + 1)
        for number, item in enumerate(self.bag.frames(InputConfig(width=0, height=0, depth_bits=self.depth_bits))):
            frame = item.frame
            if to_body is None:
                to_body = camera_in_body(self.bag, trajectory.body, frame.frame_id)
            body = trajectory.at(frame.stamp_ns)
            recent.append((frame, None if body is None else body @ to_body))
            if number >= self.gap and number % self.gap == 0:
                pair = self._pair(recent[0], recent[-1], camera)
                if pair is not None:
                    yield pair

    def _camera(self) -> CameraModel:
        info = self.bag.camera_info()
        if info is None:
            raise SourceError(f"{self.bag.path}: has no camera_info beside {self.bag.topic}")
        camera = CameraModel.from_message(info)
        problem = camera.problem_of(self.undistort)
        if problem:
            raise SourceError(f"{self.bag.path}: {problem}")
        return camera

    def _pair(self, first: tuple[Frame, Array | None], second: tuple[Frame, Array | None],
              camera: CameraModel) -> PosePair | None:
        (frame0, pose0), (frame1, pose1) = first, second
        if pose0 is None or pose1 is None:
            self.skipped["no pose at its stamp"] += 1
            return None
        T_0to1 = np.linalg.inv(pose1) @ pose0
        if np.linalg.norm(T_0to1[:3, 3]) < LEAST_BASELINE_M:
            self.skipped[f"baseline below {LEAST_BASELINE_M} m"] += 1
            return None
        image0, K0 = self._undistorted(frame0, camera)
        image1, K1 = self._undistorted(frame1, camera)
        return PosePair(f"{frame0.stamp_ns} {frame1.stamp_ns}", image0, image1, K0, K1, T_0to1)

    def _undistorted(self, frame: Frame, camera: CameraModel) -> tuple[NDArray[np.uint8], Array]:
        """The image without distortion, and its intrinsics."""
        if frame.input_size != camera.size:
            raise SourceError("{}: camera_info is for {}x{} images, the images are {}x{}".format(
                self.bag.path, *camera.size, *frame.input_size))
        height, width = frame.image.shape
        matrix = camera.matrix if self.undistort else camera.rectified
        K = scaled_intrinsics(matrix, (camera.size[1], camera.size[0]), (width, height))
        if not self.undistort or not (camera.fisheye or camera.distortion.any()):
            return frame.image, K
        if camera.fisheye:
            return cv2.fisheye.undistortImage(frame.image, K, camera.distortion, Knew=K), K
        return cv2.undistort(frame.image, K, camera.distortion), K


def _listed_depths(pair: ListedPose, folder: Path | None, shape0: tuple[int, ...],
                   shape1: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    if folder is None:
        return None
    paths = [(folder / name).with_suffix(".png") for name in (pair.name0, pair.name1)]
    if not all(path.is_file() for path in paths):
        return None
    depths = [np.ascontiguousarray(np.rot90(read_depth(path), turns))
              for path, turns in zip(paths, (pair.turns0, pair.turns1))]
    for path, depth, shape in zip(paths, depths, (shape0, shape1)):
        if depth.shape != shape:
            raise SourceError(f"{path}: is not of the size of its image")
    return depths[0], depths[1]


def _homogeneous(R: Array) -> Array:
    matrix = np.eye(4)
    matrix[:3, :3] = R
    return matrix


def known_levels(level: str) -> tuple[str, ...]:
    """The levels that "all" or one of their names stands for."""
    return tuple(LEVELS) if level == "all" else (level,)
