"""Which earlier frame each new frame is matched with, and names for keypoints that last over frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import Config, TrackConfig
from efficient_matcher.records import Features, Frame, Matches, PairResult

_NS_PER_S = 1_000_000_000


class PairMatcher(Protocol):
    """What tracking needs of `pipeline.Matcher`."""

    config: Config

    def to_frame(self, image: Frame | NDArray[Any]) -> Frame: ...

    def extract(self, image: Frame) -> Features: ...

    def match(self, a: Features, b: Frame | Features, *, frame0: Frame | None = None,
              frame1: Frame | None = None) -> PairResult: ...


@dataclass(frozen=True)
class _Reference:
    frame: Frame
    features: Features
    ids: NDArray[np.uint32]  # one per keypoint


class Tracker:
    """Follows one camera: `process(frame)` matches each frame with the reference that the mode asks for.

    sequential: the reference is the previous frame. keyframe: the last keyframe; too few inliers or too small a share
    of its keypoints matched make the new frame the keyframe. reference: the first frame, or the one after
    `set_reference()`, for as long as no other is set.

    Track ids: a matched keypoint takes over its partner's id, all others get ids never used before. A match need
    not fit the homography for that, as the scene need not be a plane. So ids survive from frame to frame
    (sequential), or for as long as keypoints of the keyframe are seen, and over a change of keyframe for those seen
    in both.

    A change of resolution, a stamp going back, or a gap longer than `max_gap_s` starts afresh: `restarts` counts
    these and `restart_reason` says why the last one happened. In reference mode only the resolution matters, since
    that reference is meant to outlive the motion. A frame with too few keypoints for any homography never takes the
    place of a reference that has enough: one black frame costs one result, not the tracks. A reference with too few, in
    any mode, gives way to the first frame that has enough.

    `process` belongs to one thread; `set_reference` and `reset` may be called from any.
    """

    def __init__(self, matcher: PairMatcher, config: TrackConfig | None = None) -> None:
        self.restarts = 0
        self.restart_reason = ""
        self._matcher = matcher
        self._fixed_config = config
        self._reference: _Reference | None = None
        self._last_stamp_ns = 0
        self._next_id = 0
        self._afresh = False

    @property
    def config(self) -> TrackConfig:
        """The settings given at the start, else those of the matcher, which may change while running."""
        return self._fixed_config or self._matcher.config.track

    def process(self, image: Frame | NDArray[Any], features: Features | None = None) -> PairResult | None:
        """The next image against the reference, with track ids; None when this image is the new reference itself.

        features: the image's, where they were extracted before.

        Raises ImageError for an image that is none and MatcherError when a network fails; what was tracked before
        is kept then.
        """
        frame = self._matcher.to_frame(image)
        self._forget_if_asked()
        reason = self._restart_reason(frame)
        if self._reference is None or reason:
            self._start(frame, self._matcher.extract(frame) if features is None else features, reason)
            return None
        result = self._matcher.match(self._reference.features, frame if features is None else features,
                                     frame0=self._reference.frame, frame1=frame)
        result = replace(result, frame0=self._reference.frame,
                         track_ids=self._reference.ids[result.matches.indices[:, 0]])
        if self._is_replaced_by(result):
            ids = self._carried_ids(result.matches, len(result.features1))
            self._reference = _Reference(frame, result.features1, ids)
        self._last_stamp_ns = frame.stamp_ns
        return result

    def set_reference(self) -> None:
        """Make the next frame the reference (in keyframe mode the keyframe); its track ids are new."""
        self.start_afresh()

    def start_afresh(self, reason: str = "") -> None:
        """Forget the reference; counted as a restart where a reason is given."""
        if reason:
            self.restarts += 1
            self.restart_reason = reason
        self._afresh = True

    def reset(self) -> None:
        """Forget the reference and the count of restarts; ids go on, so that none comes twice."""
        self.restarts, self.restart_reason = 0, ""
        self._afresh = True

    def _forget_if_asked(self) -> None:
        if self._afresh:
            self._afresh = False
            self._reference = None

    def _restart_reason(self, frame: Frame) -> str:
        if self._reference is None:
            return ""
        before, after = _sizes(self._reference.frame), _sizes(frame)
        if before != after:
            return f"resolution changed from {before} to {after}"
        if self.config.mode == "reference":
            return ""
        gap_s = (frame.stamp_ns - self._last_stamp_ns) / _NS_PER_S
        if gap_s < 0:
            return f"stamp went back by {-gap_s:.3f} s"
        if gap_s > self.config.max_gap_s:
            return f"gap of {gap_s:.3f} s between stamps"
        return ""

    def _start(self, frame: Frame, features: Features, reason: str) -> None:
        if reason:
            self.restarts += 1
            self.restart_reason = reason
        self._reference = _Reference(frame, features, self._fresh_ids(len(features)))
        self._last_stamp_ns = frame.stamp_ns

    def _is_replaced_by(self, result: PairResult) -> bool:
        config = self.config
        blind0, blind1 = self._is_blind(result.features0), self._is_blind(result.features1)
        if config.mode == "reference":
            return blind0 and not blind1
        if blind1 and not blind0:
            return False
        if config.mode == "sequential":
            return True
        inliers = np.count_nonzero(result.homography.inliers) if result.homography.valid else 0
        wanted = config.keyframe_min_share * len(result.features0)
        return inliers < config.keyframe_min_inliers or len(result.matches) < wanted

    def _is_blind(self, features: Features) -> bool:
        return len(features) < self._matcher.config.geometry.min_inliers

    def _carried_ids(self, matches: Matches, count: int) -> NDArray[np.uint32]:
        ids = np.empty(count, np.uint32)
        new = np.ones(count, bool)
        ids[matches.indices[:, 1]] = self._reference.ids[matches.indices[:, 0]]
        new[matches.indices[:, 1]] = False
        ids[new] = self._fresh_ids(np.count_nonzero(new))
        return ids

    def _fresh_ids(self, count: int) -> NDArray[np.uint32]:
        ids = np.arange(self._next_id, self._next_id + count, dtype=np.int64)
        self._next_id += count
        return (ids & 0xFFFFFFFF).astype(np.uint32)  # wraps after days of a busy camera


def _sizes(frame: Frame) -> str:
    (width, height), (rows, columns) = frame.input_size, frame.image.shape
    return f"{width}x{height}" + ("" if (columns, rows) == (width, height) else f" (seen at {columns}x{rows})")
