"""Writing rosbag2 bags without ROS: images for tests and figures, results of a replay."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Union

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.errors import MatcherError, SourceError
from efficient_matcher.ros.discovery import beside
from efficient_matcher.ros.messages import MessageTypes, image_message, make_header
from efficient_matcher.sources.calibration import Calibration
from efficient_matcher.stopping import signals_deferred

Storage = Literal["mcap", "sqlite3"]
StoredImage = Union[NDArray[np.uint8], NDArray[np.uint16]]
BAG_VERSION = 8  # what ROS 2 Iron and Jazzy write; Humble and Lyrical read it


def output_typestore() -> Any:
    """The rosbags typestore of the messages written here; stock messages are alike in all ROS 2 releases."""
    from rosbags.typesys import Stores, get_typestore
    return get_typestore(Stores.ROS2_HUMBLE)


class BagWriter:
    """A rosbag2 bag that takes its name when it is whole: leaving the `with` block closes it, whatever happened.

    path: the bag's folder, which must not exist. Raises MatcherError when it does or cannot be made. Until it is
    closed it is `.<name>.partial/<name>` beside that; a killed program or a full disk leaves it there, and the next
    writer of the same bag removes it.
    """

    def __init__(self, path: Path | str, storage: Storage = "mcap") -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer
        self.path = Path(path).absolute() if not Path(path).name else Path(path)
        self._typestore = output_typestore()
        self.types = MessageTypes.from_typestore(self._typestore)
        self._connections: dict[str, Any] = {}
        self._partial = self.path.with_name(f".{self.path.name}.partial") / self.path.name
        if self.path.exists():
            raise MatcherError(f"{self.path}: exists already")
        try:
            if self._partial.parent.exists():
                shutil.rmtree(self._partial.parent)
            self._writer = Writer(self._partial, version=BAG_VERSION, storage_plugin=StoragePlugin[storage.upper()])
            self._writer.open()
        except OSError as error:
            raise MatcherError(f"{self.path}: cannot be written: {error.strerror}") from None

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        # rosbags drops the index when an error passes through; what was written must stay readable.
        with signals_deferred(), self._one_line_failures(f"; unfinished in {self._partial.parent}"):
            self._writer.close()
            os.replace(self._partial, self.path)
            self._partial.parent.rmdir()

    def add_topic(self, topic: str, message_type: str, latched: bool = False) -> None:
        """Declare a topic; `latched` marks it transient-local for `ros2 bag play`."""
        self._connections[topic] = self._writer.add_connection(
            topic, message_type, typestore=self._typestore, offered_qos_profiles=[_latched_qos()] if latched else [])

    def write(self, topic: str, time_ns: int, message: Any) -> None:
        """Append a message of the topic's type, logged at `time_ns`."""
        connection = self._connections[topic]
        with self._one_line_failures():
            self._writer.write(connection, time_ns, self._typestore.serialize_cdr(message, connection.msgtype))

    def camera_info(self, header: Any, calibration: Calibration) -> Any:
        """The sensor_msgs/CameraInfo of a calibration, of whole images in full resolution."""
        types = self._typestore.types
        whole = types["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
        return types["sensor_msgs/msg/CameraInfo"](header=header, binning_x=0, binning_y=0, roi=whole,
                                                   **vars(calibration))

    @contextmanager
    def _one_line_failures(self, consequence: str = "") -> Iterator[None]:
        """A full disk shows as an error of the system or of SQLite."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise MatcherError(f"{self.path}: cannot be written: {error}{consequence}") from None


@contextmanager
def _whole_or_none(path: Path) -> Iterator[None]:
    """Without the bag where an image could not be read, or the user stopped: what ends before its time would look like
    a whole one. To be entered once the bag is this writer's: one that was there before would go as well."""
    try:
        yield
    except (SourceError, KeyboardInterrupt):
        shutil.rmtree(path, ignore_errors=True)
        raise


def write_image_bag(path: Path | str, images: Iterable[tuple[int, StoredImage]], *,
                    topic: str = "/camera/image_raw", frame_id: str = "camera", storage: Storage = "mcap",
                    compressed: bool = False, calibration: Calibration | None = None) -> int:
    """Write (stamp_ns, image) pairs to a new bag; returns how many.

    image: [H,W] uint8 (mono8) or uint16 (mono16), or [H,W,3] uint8 (bgr8). compressed: JPEG, of 16 bits PNG, under
    `<topic>/compressed`. calibration: of the camera, goes as CameraInfo beside each image. Raises MatcherError when the
    bag exists or there is no image. After an interrupt, an image that cannot be read, or one that is not of the
    calibration's size (SourceError), there is no bag.
    """
    rest = iter(images)
    first = next(rest, None)  # before the bag is made: a bag without images is of no use
    if first is None:
        raise SourceError(f"{path}: there was no image to write")
    count = 0
    writer = BagWriter(path, storage)
    with _whole_or_none(Path(path)), writer as bag:
        name = f"{topic}/compressed" if compressed else topic
        bag.add_topic(name, "sensor_msgs/msg/CompressedImage" if compressed else "sensor_msgs/msg/Image")
        info_name = beside(topic, "camera_info")
        if calibration is not None:
            bag.add_topic(info_name, "sensor_msgs/msg/CameraInfo")
        for stamp, image in chain([first], rest):
            header = make_header(bag.types, stamp, frame_id)
            if calibration is not None:
                _check_size(path, image, calibration)
                bag.write(info_name, stamp, bag.camera_info(header, calibration))
            message = _compressed(bag.types, header, image) if compressed else image_message(bag.types, header, image)
            bag.write(name, stamp, message)
            count += 1
    return count


def _check_size(path: Path | str, image: StoredImage, calibration: Calibration) -> None:
    height, width = image.shape[:2]
    if (width, height) != (calibration.width, calibration.height):
        raise SourceError(f"{path}: the calibration is of {calibration.width} x {calibration.height} images, "
                          f"one is {width} x {height}")


def _compressed(types: MessageTypes, header: Any, image: StoredImage) -> Any:
    """As compressed_image_transport does: JPEG has no 16 bits."""
    kind, options = (".png", []) if image.dtype == np.uint16 else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95])
    name = "mono16; png compressed mono16" if image.dtype == np.uint16 else "jpeg"
    encoded = cv2.imencode(kind, image, options)[1]
    return types.compressed_image(header=header, format=name, data=types.to_data(encoded.tobytes()))


def _latched_qos() -> Any:
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
    forever = QosTime(2147483647, 4294967295)
    return Qos(QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, forever, forever,
               QosLiveliness.AUTOMATIC, forever, False)
