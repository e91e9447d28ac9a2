"""The node without its transport: what is matched and published, for rclpy and plain DDS alike.

A transport brings messages to `Inputs`' callbacks, offers `Publishers`, and calls `update_inputs` and
`publish_diagnostics` in its own rhythm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from efficient_matcher.config import Config
from efficient_matcher.core.backend import available_threads
from efficient_matcher.core.live import LatestFrameWorker, OverlappingWorker, WorkerStats
from efficient_matcher.core.pipeline import Matcher
from efficient_matcher.errors import MatcherError
from efficient_matcher.records import PairResult
from efficient_matcher.ros.diagnostics import (AFRESH, ONE_SIDED, QUIET, QUIET_S, Health, Status, Trouble,
                                               diagnostics_message)
from efficient_matcher.ros.messages import MessageTypes, info_message
from efficient_matcher.ros.stream import CameraStream, Output

NAME = "efficient_matcher"
LAZY_PERIOD_S = 0.25  # how often a transport that has no event for it asks whether somebody subscribes
LOG_PERIOD_S = 5.0


class Publisher(Protocol):
    """The part of an rclpy publisher that is needed."""

    def publish(self, message: Any) -> None:
        """Sends a message; callable from any thread."""

    def get_subscription_count(self) -> int:
        """How many subscriptions are matched."""


@dataclass(frozen=True)
class Publishers:
    """One per topic."""

    matches: Publisher
    homography: Publisher
    relative_pose: Publisher
    vins_features: Publisher
    debug_image: Publisher
    info: Publisher
    diagnostics: Publisher


class Inputs(Protocol):
    """The camera subscriptions, opened and closed as a whole."""

    @property
    def is_open(self) -> bool:
        """Whether they are subscribed."""

    @property
    def topics(self) -> list[str]:
        """The image topics, with their full names."""

    @property
    def info_topics(self) -> list[str]:
        """The topics of CameraInfo, with their full names."""

    @property
    def arrived(self) -> tuple[int, ...]:
        """How many messages came on each of the image topics, in all."""

    @property
    def unpublished(self) -> list[str]:
        """Those of the image topics that nobody publishes now."""

    @property
    def unpaired(self) -> int:
        """How many images of a stereo camera found no partner."""

    def open(self) -> None:
        """Subscribes; nothing happens when subscribed already."""

    def close(self) -> None:
        """Unsubscribes."""


MakeInputs = Callable[[Callable[[tuple[Any, ...]], None], Callable[[int, Any], None]], Inputs]


@dataclass(frozen=True)
class Listeners:
    """What a transport wants to hear; all but on_warning are called in the worker thread.

    on_warning: one line, once of each kind. on_failure: one line for each image that could not be used.
    on_result: each result that was published. is_up: False once nothing can be published any more.
    """

    on_warning: Callable[[str], None]
    on_failure: Callable[[str], None]
    on_result: Callable[[PairResult], None] = lambda result: None
    is_up: Callable[[], bool] = lambda: True


class Matching:
    """Images to results on the topics of the node, in a worker thread that takes the newest image.

    make_inputs is given the callbacks for images (a tuple of one message, or of a stereo pair) and for CameraInfos
    (index of the camera, message). Raises MatcherError when the model cannot be loaded.
    """

    def __init__(self, config: Config, types: MessageTypes, publishers: Publishers, make_inputs: MakeInputs,
                 listeners: Listeners) -> None:
        self._config, self._types, self._publishers, self._listeners = config, types, publishers, listeners
        self._threads = _shared_threads(config)
        self._matcher = Matcher.from_bundle(config.model.bundle, self._shared_out(config))
        self._health, self._trouble = Health(self._matcher.card), Trouble()
        self._frame_ids: tuple[str, ...] | None = None
        self._enabled = True
        self._uncalibrated_since: float | None = None
        self.stream = CameraStream(self._matcher, listeners.on_warning)
        report = self._publish, self._report_failure
        self.worker = (OverlappingWorker(self.stream.prepare, self.stream.finish, *report) if config.node.overlap
                       else LatestFrameWorker(self.stream.process, *report))
        self.inputs = make_inputs(self.worker.submit, self.stream.set_camera_info)

    @property
    def matcher(self) -> Matcher:
        """The matcher in use."""
        return self._matcher

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self._config

    def stats(self) -> WorkerStats:
        """Counters and latencies of the worker."""
        return self.worker.stats()

    def start(self) -> None:
        """Subscribes if results are wanted, and publishes `~/info`. Raises ConfigError for quality of service that is
        none, now and not when somebody first wants results."""
        self.inputs.open()
        if not self._wanted():
            self.inputs.close()
        self._publish_info()

    def stop(self) -> bool:
        """Ends the worker after the image in work; whether it did in time. To be called before publishers go away."""
        return self.worker.stop()

    def enable(self, enabled: bool) -> None:
        """Goes on, or pauses without subscriptions."""
        self._enabled = enabled
        self.update_inputs()

    def reconfigure(self, config: Config) -> None:
        """Takes new values of dynamic settings from the next image on."""
        self._matcher.reconfigure(self._shared_out(config))
        self._config = config

    def update_inputs(self) -> None:
        """Subscribes to the cameras while results are wanted, else not."""
        if self._wanted() and not self.inputs.is_open:
            if self._config.track.mode != "reference":  # that was chosen, and outlives a pause
                self.stream.start_afresh()
            self.inputs.open()
        elif not self._wanted():
            self.inputs.close()

    def publish_diagnostics(self, name: str, stamp: Any) -> Status:
        """Publishes what happened since the last call as `name`, and returns it; stamp: a builtin_interfaces/Time."""
        status = self._health.status(self.worker.stats(), self.stream.restarts, self.inputs.is_open,
                                     self.inputs.unpaired, self.inputs.arrived)
        self._publishers.diagnostics.publish(diagnostics_message(self._types, status, name, stamp))
        if message := self._trouble.lasting(status, monotonic()):
            self._listeners.on_warning(self._explained(message))
        return status

    def _explained(self, message: str) -> str:
        if message == AFRESH:
            return f"{message}: {self.stream.restarts[1]}"
        if message == ONE_SIDED:
            return f"{message}; none {self._where()}"
        return f"{message} {self._where()}" if message == QUIET else message

    def _where(self) -> str:
        silent = [self.inputs.topics[camera] for camera in self._health.silent] or self.inputs.topics
        unpublished = [topic for topic in self.inputs.unpublished if topic in silent]
        if unpublished:
            return f"on {', '.join(unpublished)}: nobody publishes there"
        return (f"on {', '.join(silent)}, though somebody publishes there: its type or quality of service may differ, "
                "or it stands still")

    def _wanted(self) -> bool:
        out = self._publishers
        results = out.matches, out.homography, out.relative_pose, out.vins_features, out.debug_image
        lazy = self._config.node.lazy
        return self._enabled and (not lazy or any(p.get_subscription_count() for p in results))

    def _publish(self, output: Output) -> None:
        if not self._listeners.is_up():
            return
        if self.stream.frame_ids != self._frame_ids:
            self._publish_info()
        publishers = self._publishers
        publishers.matches.publish(output.matches(self._types))
        publishers.homography.publish(output.homography(self._types))
        self._publish_motion(output)
        self._health.add(output.result)
        self._listeners.on_result(output.result)
        if publishers.debug_image.get_subscription_count():
            publishers.debug_image.publish(output.debug_image(self._types, self._config.node.debug_max_matches))

    def _publish_motion(self, output: Output) -> None:
        """What takes a relative pose to make, for who asks."""
        poses, features = self._publishers.relative_pose, self._publishers.vins_features
        wanted = [publisher for publisher in (poses, features) if publisher.get_subscription_count()]
        if not wanted:
            return
        self._look_for_camera_info(output)
        rays0 = self.stream.rays0(output)
        pose = self.stream.relative_pose(output, rays0)
        if poses in wanted:
            poses.publish(output.relative_pose(self._types, pose))
        if features not in wanted:
            return
        if output.cameras == (0, 0) and self._config.track.mode == "sequential":
            features.publish(output.vins_features(self._types, rays0, pose))
        else:
            self.stream.warn("vins_features are of one camera from image to image: track.mode must be sequential, and "
                             "node.stereo false")

    def _look_for_camera_info(self, output: Output) -> None:
        """Warns once where there is none for a while: it may come after the first images, but not much later."""
        missing = [camera for camera in dict.fromkeys(output.cameras) if not self.stream.has_camera_info(camera)]
        if not missing:
            self._uncalibrated_since = None
            return
        now = monotonic()
        self._uncalibrated_since = now if self._uncalibrated_since is None else self._uncalibrated_since
        if now - self._uncalibrated_since >= QUIET_S:
            topics = ", ".join(self.inputs.info_topics[camera] for camera in missing)
            self.stream.warn(f"no camera_info arrives on {topics}: no rays and no poses")

    def _publish_info(self) -> None:
        self._frame_ids = self.stream.frame_ids
        self._publishers.info.publish(info_message(self._types, self._matcher.card, self._frame_ids))

    def _shared_out(self, config: Config) -> Config:
        return config.with_values({"model.threads": self._threads})

    def _report_failure(self, error: Exception) -> None:
        """The image is counted in the diagnostics, and the next one is taken."""
        self._listeners.on_failure(str(error) if isinstance(error, MatcherError)
                                   else f"{type(error).__name__}: {error}")


def _shared_threads(config: Config) -> int:
    """Where two networks run at a time, each gets half of the threads. As at the start: the number cannot change."""
    threads = config.model.threads or available_threads()
    return max(1, threads // 2) if config.node.overlap else config.model.threads
