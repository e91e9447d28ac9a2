"""What a replay shows: an annotated video, or a strip of some pairs where no video can be encoded."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.draw import TrackDrawing, draw_matches, strip
from efficient_matcher.errors import MatcherError
from efficient_matcher.files import write_bytes_atomic
from efficient_matcher.records import PairResult

VIDEO_NAME = "video.mp4"
STRIP_NAME = "strip.png"
STRIP_PAIRS = 6


class Pictures:
    """Takes every result of a run; `close` finishes `video.mp4`, or `strip.png` where `video` is off or impossible."""

    def __init__(self, folder: Path, video: bool) -> None:
        self._folder = folder
        self._video = _Video(folder / VIDEO_NAME) if video else None
        self._strip = _Strip()
        self._tracks = TrackDrawing()

    def add(self, result: PairResult) -> None:
        """Draw one pair."""
        if self._video is not None and not self._video.add(self._tracks.draw(result), _period_s(result)):
            self._video = None
        if self._video is None:
            self._strip.add(result)

    def close(self) -> Path | None:
        """Finish; returns the file, or None when nothing was drawn."""
        if self._video is not None:
            return self._video.close()
        return self._strip.write(self._folder / STRIP_NAME)


class _Video:
    """An MPEG-4 file that takes its name only when finished."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".partial-{path.name}")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def add(self, picture: NDArray[np.uint8], period_s: float) -> bool:
        """Append a picture; False when this OpenCV has no encoder (known at the first one)."""
        picture = _even(picture)
        if self._writer is None:
            self._size = picture.shape[1], picture.shape[0]
            rate = min(60.0, max(1.0, 1 / period_s)) if period_s > 0 else 10.0
            self._writer = cv2.VideoWriter(str(self._partial), cv2.VideoWriter_fourcc(*"mp4v"), rate, self._size)
            if not self._writer.isOpened():
                self._partial.unlink(missing_ok=True)
                return False
        self._writer.write(_fitted(picture, self._size))
        return True

    def close(self) -> Path | None:
        if self._writer is None:
            return None
        self._writer.release()
        # OpenCV says nothing when the disk is full.
        if not is_whole_mp4(self._partial):
            self._partial.unlink(missing_ok=True)
            raise MatcherError(f"{self._path}: cannot be written, the disk may be full")
        os.replace(self._partial, self._path)
        return self._path


class _Strip:
    """Keeps some pairs spread evenly over a run whose length is not known beforehand."""

    def __init__(self) -> None:
        self._kept: list[PairResult] = []
        self._seen = 0
        self._every = 1

    def add(self, result: PairResult) -> None:
        if self._seen % self._every == 0:
            self._kept.append(result)
        self._seen += 1
        if len(self._kept) == 2 * STRIP_PAIRS:
            self._kept = self._kept[::2]
            self._every *= 2

    def write(self, path: Path) -> Path | None:
        if not self._kept:
            return None
        chosen = np.unique(np.linspace(0, len(self._kept) - 1, STRIP_PAIRS).round().astype(int))
        picture = strip([draw_matches(self._kept[index]) for index in chosen])
        write_bytes_atomic(path, cv2.imencode(".png", picture)[1].tobytes())
        return path


def is_whole_mp4(path: Path) -> bool:
    """Whether the file's boxes (size, type, content) fill it exactly and its index is among them."""
    types, position = set(), 0
    length = path.stat().st_size if path.exists() else 0
    with open(path if length else os.devnull, "rb") as stream:
        while position < length:
            stream.seek(position)
            head = stream.read(16)
            size = int.from_bytes(head[:4], "big")
            size = int.from_bytes(head[8:], "big") if size == 1 else size  # 64 bits for more than 4 GiB
            types.add(head[4:8])
            position += size if size >= 8 else length + 1
    return position == length and b"moov" in types


def _period_s(result: PairResult) -> float:
    if result.frame0 is None or result.frame1 is None:
        return 0.0
    return (result.frame1.stamp_ns - result.frame0.stamp_ns) / 1e9


def _even(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # The encoder halves the colour planes, so sides must be even.
    return picture[:picture.shape[0] // 2 * 2, :picture.shape[1] // 2 * 2]


def _fitted(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture shrunk or padded to (width, height): the camera may change its resolution, a video may not."""
    width, height = size
    scale = min(1.0, width / picture.shape[1], height / picture.shape[0])
    if scale < 1:
        picture = cv2.resize(picture, (int(picture.shape[1] * scale), int(picture.shape[0] * scale)))
    if (picture.shape[1], picture.shape[0]) == size:
        return np.ascontiguousarray(picture)
    fitted = np.zeros((height, width, 3), np.uint8)
    fitted[:picture.shape[0], :picture.shape[1]] = picture
    return fitted
