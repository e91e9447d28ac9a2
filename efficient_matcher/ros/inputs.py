"""The camera subscriptions of the node: opened and closed as a whole, paired for stereo."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from efficient_matcher.config import NodeConfig
from efficient_matcher.errors import ConfigError
from efficient_matcher.ros.pairing import StampPairing

MONO = ("image",), ("camera_info",)
STEREO = ("left/image", "right/image"), ("left/camera_info", "right/camera_info")


def sensor_qos() -> QoSProfile:
    """SensorData with depth 1: best effort matches any publisher, and only the newest image counts."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT,
                      durability=DurabilityPolicy.VOLATILE)


@contextmanager
def named_overrides(topic: str, side: str) -> Iterator[None]:
    """Raises ConfigError naming the topic whose quality of service cannot be overridden by what was given.

    side: publisher or subscription.
    """
    try:
        yield
    except RuntimeError as error:  # such as a word that no policy has
        raise ConfigError(f"qos_overrides.{topic}.{side}: {' '.join(str(error).split())}") from None


class CameraInputs:
    """Subscribes to the images and CameraInfos of one camera or of a stereo pair.

    on_images takes a tuple of one image message, or of two with matching stamps; on_info the camera's index
    and its CameraInfo.
    """

    def __init__(self, node: Node, config: NodeConfig, on_images: Callable[[tuple[Any, ...]], None],
                 on_info: Callable[[int, Any], None]) -> None:
        self._node = node
        self._config = config
        self._on_images = on_images
        self._on_info = on_info
        self._images, self._infos = STEREO if config.stereo else MONO
        self._pairing = StampPairing(round(config.stereo_slop_s * 1e9))
        self._subscriptions: list[Any] = []
        self._arrived = [0] * len(self._images)

    @property
    def is_open(self) -> bool:
        """Whether the node is subscribed."""
        return bool(self._subscriptions)

    @property
    def topics(self) -> list[str]:
        """The image topics after remapping, as subscribed to."""
        return [self._node.resolve_topic_name(name) for name in self._names]

    @property
    def info_topics(self) -> list[str]:
        """The topics of CameraInfo after remapping."""
        return [self._node.resolve_topic_name(name) for name in self._infos]

    @property
    def arrived(self) -> tuple[int, ...]:
        """How many messages came on each of the image topics."""
        return tuple(self._arrived)

    @property
    def unpublished(self) -> list[str]:
        """Those of the image topics that nobody publishes now."""
        return [topic for topic in self.topics if not self._node.count_publishers(topic)]

    @property
    def unpaired(self) -> int:
        """How many images found no partner in the other camera's."""
        return self._pairing.unpaired

    def open(self) -> None:
        """Subscribes; quality of service can be overridden by parameters `qos_overrides.<topic>.subscription.*`."""
        if self.is_open:
            return
        kind = CompressedImage if self._config.image_transport == "compressed" else Image
        for index, topic in enumerate(self._names):
            self._subscribe(kind, topic, self._pair if self._config.stereo else self._single, index)
        for index, topic in enumerate(self._infos):
            self._subscribe(CameraInfo, topic, self._on_info, index)

    def close(self) -> None:
        """Unsubscribes and forgets images that wait for their partner."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        self._pairing.clear()

    @property
    def _names(self) -> list[str]:
        """The image topics before remapping, which is done once, by whoever subscribes: twice would undo a swap."""
        if self._config.image_transport != "compressed":
            return list(self._images)
        # the convention of image_transport: whoever remaps the base topic moves its compressed twin too
        return [self._node.resolve_topic_name(name) + "/compressed" for name in self._images]

    def _subscribe(self, kind: Any, topic: str, callback: Callable[[int, Any], None], index: int) -> None:
        with named_overrides(self._node.resolve_topic_name(topic), "subscription"):
            self._subscriptions.append(self._node.create_subscription(
                kind, topic, partial(callback, index), sensor_qos(),
                qos_overriding_options=QoSOverridingOptions.with_default_policies()))

    def _single(self, index: int, message: Any) -> None:
        self._arrived[index] += 1
        self._on_images((message,))

    def _pair(self, index: int, message: Any) -> None:
        self._arrived[index] += 1
        pair = self._pairing.add(index, message)
        if pair is not None:
            self._on_images(pair)
