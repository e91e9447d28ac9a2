"""What happens to the messages of one camera, or of one stereo pair, whatever transport brings them.

Knows the fields of ROS messages but no ROS: decode, match, rays, messages out. The node (and any other
transport) calls `process` in its worker thread, and all else from wherever its callbacks run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core.pipeline import Matcher, Tracker
from efficient_matcher.draw import draw_matches, draw_overlay
from efficient_matcher.errors import MatcherError
from efficient_matcher.records import Features, Frame, PairResult, RelativePose
from efficient_matcher.ros import messages
from efficient_matcher.ros.camera import CameraModel, pose_by_rays
from efficient_matcher.ros.pose_message import pose_message
from efficient_matcher.ros.slam.vins import features_message, pack_features

Prepared = tuple[tuple[Any, ...], list[tuple[Frame, Union[Features, None]]]]  # messages; of each, frame and features


@dataclass(frozen=True)
class Output:
    """One result under the current image's header; cameras: index of the reference's and the current camera."""

    result: PairResult
    header: Any
    cameras: tuple[int, int]
    rays: NDArray[np.float32] | None

    def matches(self, types: messages.MessageTypes) -> Any:
        """`~/matches`."""
        return messages.matches_message(types, self.header, self.result, self.rays, *self.cameras)

    def homography(self, types: messages.MessageTypes) -> Any:
        """`~/homography`."""
        return messages.homography_message(types, self.header, self.result, *self.cameras)

    def relative_pose(self, types: messages.MessageTypes, pose: RelativePose) -> Any:
        """`~/relative_pose`."""
        return pose_message(types, self.header, self.result, pose, *self.cameras)

    def vins_features(self, types: messages.MessageTypes, rays0: NDArray[np.float32] | None, pose: RelativePose) -> Any:
        """`~/vins_features`."""
        return features_message(types, self.header, pack_features(self.result, rays0, self.rays, pose))

    def debug_image(self, types: messages.MessageTypes, max_matches: int) -> Any:
        """`~/debug_image`: tails over the current image, or a stereo pair side by side."""
        draw = draw_overlay if self.cameras[0] == self.cameras[1] else draw_matches
        return messages.image_message(types, self.header, draw(self.result, max_matches))


class CameraStream:
    """Messages of one camera (tracked), or of two (matched left with right), to outputs.

    on_warning: is told once of each thing that does not stop the matching, such as an unusable CameraInfo.
    `process` belongs to one thread, and so does `prepare`, which may be another; all else may be called from any, and
    takes effect with the next image.
    """

    def __init__(self, matcher: Matcher, on_warning: Callable[[str], None]) -> None:
        self._matcher = matcher
        self._tracker = Tracker(matcher)
        self._on_warning = on_warning
        self._warned: set[str] = set()
        self._cameras: dict[int, tuple[tuple[Any, ...], CameraModel | None]] = {}
        self.frame_ids: tuple[str, ...] = ()  # of each camera, as in the newest images

    @property
    def restarts(self) -> tuple[int, str]:
        """How often tracking started afresh by itself, and why it did so last."""
        return self._tracker.restarts, self._tracker.restart_reason

    def process(self, images: tuple[Any, ...]) -> Output | None:
        """One image message (mono) or two (left, right) to a result; None while there is nothing to match with.

        Raises ImageError naming the field when an image cannot be decoded.
        """
        return self._matched(images, [(self._frame(image), None) for image in images])

    def prepare(self, images: tuple[Any, ...]) -> Prepared:
        """The part of `process` that needs no other image, for `finish`. Raises ImageError as `process` does."""
        frames = [self._frame(image) for image in images]
        return images, [(frame, self._matcher.extract(frame)) for frame in frames]

    def finish(self, prepared: Prepared) -> Output | None:
        """The rest of `process`, in the order the images came in."""
        return self._matched(*prepared)

    def _frame(self, image: Any) -> Frame:
        return messages.frame_of(image, self._matcher.config.input)

    def _matched(self, images: tuple[Any, ...], sides: list[tuple[Frame, Features | None]]) -> Output | None:
        self.frame_ids = tuple(frame.frame_id for frame, _ in sides)
        if len(sides) == 1:
            result = self._tracker.process(*sides[0])
        else:
            result = self._matcher.match(*(frame if features is None else features for frame, features in sides),
                                         frame0=sides[0][0], frame1=sides[1][0])
        if result is None:
            return None
        current = len(images) - 1
        rays = self._rays(current, result.points1, result.features1)
        return Output(result, images[current].header, (0, current), rays)

    def has_camera_info(self, camera: int) -> bool:
        """Whether any CameraInfo of a camera has come, be it of use or not."""
        return camera in self._cameras

    def relative_pose(self, output: Output, rays0: NDArray[np.float32] | None) -> RelativePose:
        """Of the two cameras of an output, from the rays of its matches as they were measured; none while a CameraInfo is
        missing. rays0: see `rays0`."""
        config = self._matcher.config
        models = [self._cameras.get(camera, ((), None))[1] for camera in output.cameras]
        focals = tuple(1.0 if model is None else model.focal_px(config.node.undistort) for model in models)
        rays1 = self._rays(output.cameras[1], output.result.measured1, output.result.features1)
        return pose_by_rays(output.result, rays0, rays1, focals, config.geometry)

    def rays0(self, output: Output) -> NDArray[np.float32] | None:
        """[K,3] of an output's matches in the reference image, or None."""
        return self._rays(output.cameras[0], output.result.points0, output.result.features0)

    def set_camera_info(self, index: int, info: Any) -> None:
        """Takes the CameraInfo of camera 0 (mono, left) or 1 (right); a useless one leaves rays NaN and warns once."""
        key = _fingerprint(info)
        if index in self._cameras and self._cameras[index][0] == key:
            return
        try:
            model: CameraModel | None = CameraModel.from_message(info)
        except MatcherError as error:
            self.warn(str(error))
            model = None
        self._cameras[index] = (key, model)

    def reset(self) -> None:
        """Starts afresh with the next image, and so does the count of restarts."""
        self._tracker.reset()

    def start_afresh(self, reason: str = "") -> None:
        """Starts afresh with the next image; counted among the restarts, which stay, where a reason is given."""
        self._tracker.start_afresh(reason)

    def set_reference(self) -> None:
        """Makes the next image the reference."""
        self._tracker.set_reference()

    def _rays(self, index: int, points: NDArray[np.float32], features: Features) -> NDArray[np.float32] | None:
        _, model = self._cameras.get(index, ((), None))
        if model is None:
            return None
        try:
            return model.rays(points, features.image_size, self._matcher.config.node.undistort)
        except MatcherError as error:
            self.warn(str(error))
            return None

    def warn(self, text: str) -> None:
        """Tells a line that was not told before."""
        if text not in self._warned:
            self._warned.add(text)
            self._on_warning(text)


def _fingerprint(info: Any) -> tuple[Any, ...]:
    """All that the rays depend on: CameraInfo comes with every image and hardly ever changes."""
    arrays = tuple(tuple(getattr(info, name) if hasattr(info, name) else getattr(info, name.upper())) for name in "kdp")
    roi = info.roi
    sizes = (info.width, info.height, info.binning_x, info.binning_y, roi.x_offset, roi.y_offset, roi.width, roi.height)
    return info.distortion_model, sizes, arrays
