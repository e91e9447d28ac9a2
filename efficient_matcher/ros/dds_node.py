"""The matcher node over plain DDS: the topics of node.py without ROS. One camera; no services, no parameters."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from efficient_matcher.config import Config
from efficient_matcher.errors import ConfigError, MatcherError
from efficient_matcher.ros.dds import DdsNode, DdsSubscription, latched_qos, reliable_qos, sensor_qos
from efficient_matcher.ros.diagnostics import Status
from efficient_matcher.ros.discovery import beside
from efficient_matcher.ros.matching import LAZY_PERIOD_S, Listeners, Matching, Publishers

_CLOUD = "sensor_msgs/msg/PointCloud2"


@dataclass(frozen=True)
class CameraTopics:
    """Full names; compressed: whether `image` is a sensor_msgs/CompressedImage."""

    image: str
    camera_info: str
    compressed: bool

    @classmethod
    def of(cls, node: DdsNode, image: str, camera_info: str | None, transport: str) -> CameraTopics:
        """Of the base topic of the images, or of its compressed twin; camera_info is beside it if not given."""
        base, compressed = node.resolve(image), transport == "compressed"
        if base.endswith("/compressed"):
            base, compressed = base[:-len("/compressed")], True
        return cls(f"{base}/compressed" if compressed else base,
                   node.resolve(camera_info or beside(base, "camera_info")), compressed)

    @property
    def image_type(self) -> str:
        """The type of the image topic."""
        return "sensor_msgs/msg/CompressedImage" if self.compressed else "sensor_msgs/msg/Image"


class DdsInputs:
    """The subscriptions of one camera, opened and closed as a whole; `open` and `close` in the thread that spins."""

    def __init__(self, node: DdsNode, topics: CameraTopics, on_error: Callable[[str], None],
                 on_images: Callable[[tuple[Any, ...]], None], on_info: Callable[[int, Any], None]) -> None:
        self._node, self._camera, self._on_error = node, topics, on_error
        self._on_images, self._on_info = on_images, on_info
        self._subscriptions: list[DdsSubscription] = []
        self._arrived = 0

    @property
    def is_open(self) -> bool:
        """Whether the node is subscribed."""
        return bool(self._subscriptions)

    @property
    def topics(self) -> list[str]:
        """The image topic."""
        return [self._camera.image]

    @property
    def info_topics(self) -> list[str]:
        """The topic of CameraInfo."""
        return [self._camera.camera_info]

    @property
    def arrived(self) -> tuple[int, ...]:
        """How many images came."""
        return (self._arrived,)

    @property
    def unpublished(self) -> list[str]:
        """The image topic, if nobody publishes it now."""
        return [] if self._camera.image in self._node.published_topics() else [self._camera.image]

    @property
    def unpaired(self) -> int:
        """None: it is one camera."""
        return 0

    def open(self) -> None:
        """Subscribes."""
        if self.is_open:
            return
        self._subscribe(self._camera.image_type, self._camera.image, self._take)
        self._subscribe("sensor_msgs/msg/CameraInfo", self._camera.camera_info, partial(self._on_info, 0))

    def close(self) -> None:
        """Unsubscribes."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    def _take(self, message: Any) -> None:
        self._arrived += 1
        self._on_images((message,))

    def _subscribe(self, kind: str, topic: str, callback: Callable[[Any], None]) -> None:
        self._subscriptions.append(
            self._node.create_subscription(kind, topic, sensor_qos(), callback, self._on_error))


class DdsMatcherNode:
    """Matches images of a camera; everything but the worker's part happens in the thread that calls `spin`.

    image: the images' topic, raw or its `/compressed`; camera_info: beside it if None; name: the node's with its
    namespace; domain: ROS_DOMAIN_ID if None. Raises MatcherError.
    """

    def __init__(self, config: Config, image: str, camera_info: str | None, name: str, domain: int | None,
                 listeners: Listeners) -> None:
        if config.node.stereo:
            raise ConfigError("node.stereo: a stereo pair needs the node of ROS")
        self._listeners = listeners
        self.node = DdsNode(name, domain)
        try:
            self.topics = CameraTopics.of(self.node, image, camera_info, config.node.image_transport)
            self.matching = Matching(config, self.node.types, self._create_publishers(),
                                     partial(DdsInputs, self.node, self.topics, listeners.on_failure), listeners)
        except BaseException:
            self.node.close()
            raise
        self.matching.start()

    def spin(self, keep_going: Callable[[], bool], on_status: Callable[[Status], None] = lambda status: None) -> None:
        """Works until `keep_going` says no, asked at least every quarter of a second; on_status: each diagnosis."""
        period = self.matching.config.node.diagnostics_period_s
        next_inputs = next_status = time.monotonic()
        while keep_going():
            now = time.monotonic()
            if now >= next_inputs:
                self.matching.update_inputs()
                next_inputs = now + LAZY_PERIOD_S
            if now >= next_status:
                self._diagnose(on_status)
                next_status = now + period
            self.node.spin_once(max(0.0, min(next_inputs, next_status) - time.monotonic()))

    def close(self) -> None:
        """Ends the worker after the image in work, then leaves the domain."""
        self.matching.stop()
        self.node.close()

    def _create_publishers(self) -> Publishers:
        create = self.node.create_publisher
        return Publishers(
            matches=create(_CLOUD, "~/matches", reliable_qos(10)),
            homography=create(_CLOUD, "~/homography", reliable_qos(10)),
            relative_pose=create(_CLOUD, "~/relative_pose", reliable_qos(10)),
            vins_features=create("sensor_msgs/msg/PointCloud", "~/vins_features", reliable_qos(10)),
            debug_image=create("sensor_msgs/msg/Image", "~/debug_image", reliable_qos(1)),
            info=create("std_msgs/msg/String", "~/info", latched_qos()),
            diagnostics=create("diagnostic_msgs/msg/DiagnosticArray", "/diagnostics", reliable_qos(10)))

    def _diagnose(self, on_status: Callable[[Status], None]) -> None:
        sec, nanosec = divmod(time.time_ns(), 1_000_000_000)
        name, stamp = self.node.full_name.lstrip("/"), self.node.types.time(sec=sec, nanosec=nanosec)
        try:
            on_status(self.matching.publish_diagnostics(name, stamp))
        except MatcherError as error:  # one subscriber that hangs must not end the node
            self._listeners.on_warning(str(error))
