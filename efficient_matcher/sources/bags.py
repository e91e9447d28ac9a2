"""Frames from recorded bags: rosbag2 (sqlite3, mcap) and ROS 1, without ROS.

Images go through the decoder the live node uses. A message that cannot be decoded is counted under its
reason and skipped; a bag that cannot be read is a SourceError naming it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from efficient_matcher.config import InputConfig
from efficient_matcher.errors import ImageError, SourceError
from efficient_matcher.records import Frame
from efficient_matcher.ros.discovery import beside
from efficient_matcher.ros.messages import frame_of

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
_MISSING = "message is missing, though the bag counts it"
_REASON_LENGTH = 200
_HINTS = {  # what rosbags says of a recording that was killed or copied in part
    "File end magic is invalid": " (cut short; the mcap tool's `recover` may save what is there)",
    "database disk image is malformed": " (cut short or damaged; sqlite3's `.recover` may save what is there)",
    "Bag index looks damaged": " (cut short; `rosbag reindex` may save what is there)",
}


@dataclass(frozen=True)
class BagFrame:
    """A frame and when the bag logged its message, in ns."""

    frame: Frame
    time_ns: int


class ImageBag:
    """The images of one topic of a bag, as a context manager.

    topic: may be left out when the bag has exactly one image topic.
    Raises SourceError when the bag is missing, empty, cut short or no bag, or the topic is not an image topic.
    """

    def __init__(self, path: Path | str, topic: str | None = None) -> None:
        self.path = Path(path)
        self.received = 0
        self.skipped: Counter[str] = Counter()  # reason -> messages that could not be decoded
        self._reader = _open(self.path)
        try:
            self.topic = self._choose(topic)
        except SourceError:
            self._reader.close()
            raise

    def __enter__(self) -> ImageBag:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._reader.close()

    @property
    def storage(self) -> Literal["mcap", "sqlite3"]:
        """The storage to write results with: the bag's own, mcap for a ROS 1 bag."""
        files = [self.path] if self.path.is_file() else list(self.path.iterdir())
        return "sqlite3" if any(".db3" in file.suffixes for file in files) else "mcap"

    @property
    def message_count(self) -> int:
        """How many messages the topic has, as far as the bag tells."""
        return sum(connection.msgcount or 0 for connection in self._connections(self.topic))

    def frames(self, config: InputConfig, limit: int | None = None) -> Iterator[BagFrame]:
        """Decoded images in the order they were recorded; at most `limit` messages are read.

        Raises SourceError naming the bag when it breaks off in the middle.
        """
        for connection, time_ns, raw in self._messages(self.topic):
            if limit is not None and self.received >= limit:
                return
            self.received += 1
            try:
                frame = frame_of(self._deserialize(raw, connection.msgtype), config)
            except ImageError as error:
                self.skipped[str(error)] += 1
            else:
                yield BagFrame(frame, time_ns)
        # A damaged index hides messages without any error.
        self.skipped[_MISSING] += max(0, min(self.message_count, limit or self.message_count) - self.received)
        self.skipped += Counter()  # drops the entry when it is zero

    def camera_info(self) -> Any | None:
        """The first CameraInfo beside the image topic, or None. Raises MatcherError when it cannot be read."""
        for connection, _, raw in self._messages(beside(self.topic.removesuffix("/compressed"), "camera_info")):
            if connection.msgtype == CAMERA_INFO_TYPE:
                return self._deserialize(raw, connection.msgtype)
        return None

    def topics(self, message_types: Container[str]) -> list[str]:
        """The topics of these message types that hold messages, by name."""
        return sorted({c.topic for c in self._reader.connections if c.msgtype in message_types and c.msgcount})

    def messages(self, topic: str) -> Iterator[Any]:
        """All messages of any topic. Raises MatcherError when one cannot be read."""
        for connection, _, raw in self._messages(topic):
            yield self._deserialize(raw, connection.msgtype)

    def _choose(self, topic: str | None) -> str:
        images = [c for c in self._reader.connections if c.msgtype in IMAGE_TYPES]
        if topic is not None and topic not in {c.topic for c in images}:
            raise SourceError(f"{self.path}: '{topic}' is not an image topic of this bag; {self._topics()}")
        found = sorted({c.topic for c in images if c.msgcount and topic in (None, c.topic)})
        if len(found) == 1:
            return found[0]
        if found:
            raise SourceError(f"{self.path}: has several image topics, choose one with --topic: {', '.join(found)}")
        raise SourceError(f"{self.path}: has no image {'message on ' + topic if topic else 'topic'}; {self._topics()}")

    def _topics(self) -> str:
        counts: Counter[str] = Counter()
        for connection in self._reader.connections:
            counts[f"{connection.topic} ({connection.msgtype}"] += connection.msgcount or 0
        return "it has " + ", ".join(f"{name}, {count})" for name, count in sorted(counts.items()))

    def _connections(self, topic: str) -> list[Any]:
        return [c for c in self._reader.connections if c.topic == topic]

    def _messages(self, topic: str) -> Iterator[tuple[Any, int, bytes]]:
        connections = self._connections(topic)
        if not connections:
            return
        messages = self._reader.messages(connections)
        while True:
            try:
                item = next(messages)
            except StopIteration:
                return
            except Exception as error:  # a damaged file shows itself in many types of error
                raise SourceError(f"{self.path}: topic {topic} breaks off: {_reason(error)}") from None
            yield item

    def _deserialize(self, raw: bytes, message_type: str) -> Any:
        try:
            return self._reader.deserialize(raw, message_type)
        except Exception as error:  # whatever the bytes of one message provoke concerns that message only
            raise ImageError(f"message cannot be parsed: {_reason(error)}") from None


class _Folder(type(Path())):  # type: ignore[misc]
    """A folder under whatever name: rosbags takes every path that ends in .bag for a ROS 1 file."""

    suffix = ""


def _open(path: Path) -> Any:
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise SourceError(f"reading bags needs the module '{error.name}': "
                          "pip install 'efficient-matcher[replay]'") from None
    _check(path)
    reader = None
    try:
        # Bags of Humble and older carry no definitions; stock messages are alike in all ROS 2 releases.
        reader = AnyReader([_Folder(path) if path.is_dir() else path],
                           default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        reader.open()
    except Exception as error:  # rosbags raises its own, sqlite's, YAML's and Python's own errors on damaged files
        raise SourceError(f"{path}: cannot be read as a bag: {_reason(error)}") from None
    if not reader.connections or not reader.message_count:
        reader.close()
        raise SourceError(f"{path}: the bag holds no messages")
    return reader


def _check(path: Path) -> None:
    if not path.exists():
        raise SourceError(f"{path}: does not exist")
    if path.is_dir() and not (path / "metadata.yaml").exists():
        raise SourceError(f"{path}: is not a bag folder (no metadata.yaml in it)")
    if path.is_file() and not path.stat().st_size:
        raise SourceError(f"{path}: is an empty file")
    if path.is_file() and path.suffix not in (".bag", ".db3", ".mcap"):
        raise SourceError(f"{path}: is not a bag (a rosbag2 folder, .mcap, .db3 or .bag)")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:_REASON_LENGTH] + next((hint for sign, hint in _HINTS.items() if sign in text), "")
