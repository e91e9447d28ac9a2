"""Video files as a sequence of stamped images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.errors import SourceError
from efficient_matcher.sources.images import SECOND_NS


def video_images(path: Path, hz: float | None = None) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(stamp_ns, [H,W,3] blue-green-red uint8) of each image of a video, the first at 0, `hz` a second or as many as
    the file says.

    Raises SourceError naming the file that is no video, or that does not say how fast it is.
    """
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise SourceError(f"{path}: is neither a folder of images nor a video that OpenCV can read")
        rate = hz or video.get(cv2.CAP_PROP_FPS)
        if not 0 < rate < float("inf"):  # also NaN
            raise SourceError(f"{path}: does not say how many images a second it has; give --hz")
        index = 0
        while (image := _next(video)) is not None:
            yield round(index * SECOND_NS / rate), image
            index += 1
        if not index:
            raise SourceError(f"{path}: holds no image that OpenCV can read")
    finally:
        video.release()


def _next(video: cv2.VideoCapture) -> NDArray[np.uint8] | None:
    found, image = video.read()
    return np.asarray(image, np.uint8) if found else None
