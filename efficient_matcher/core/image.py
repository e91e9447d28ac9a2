"""Raw image messages and compressed images -> grey images -> frames the networks take.

One decoder for live topics, bags and files. The fields of a raw image mean what sensor_msgs/Image
says they mean: `step` is the length of a row in bytes, padding included; `is_bigendian` concerns
16-bit channels only. Grey is the usual 0.299 R + 0.587 G + 0.114 B, or the luma a camera sends.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Any, Union

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import InputConfig
from efficient_matcher.errors import ImageError
from efficient_matcher.records import Frame

Buffer = Union[bytes, bytearray, memoryview, NDArray[np.generic]]  # or whatever else has the buffer protocol

CELL = 8  # the networks need sides that are multiples of this
BAYER_MINIMUM_SIDE = 3  # OpenCV answers smaller mosaics with a black image
# Of a JPEG; not the bytes that stand for themselves in a scan, fill bytes, or markers without a length.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


@dataclass(frozen=True)
class _Layout:
    """How one pixel is stored: channels of depth_bytes each; its grey is one channel, or a cv2 conversion of all."""

    channels: int = 1
    depth_bytes: int = 1
    luma: int | None = None
    conversion: int | None = None
    mosaic: bool = False


def _colours(depth_bytes: int) -> dict[str, _Layout]:
    bits = 8 * depth_bytes
    return {
        f"rgb{bits}": _Layout(3, depth_bytes, conversion=cv2.COLOR_RGB2GRAY),
        f"bgr{bits}": _Layout(3, depth_bytes, conversion=cv2.COLOR_BGR2GRAY),
        f"rgba{bits}": _Layout(4, depth_bytes, conversion=cv2.COLOR_RGBA2GRAY),
        f"bgra{bits}": _Layout(4, depth_bytes, conversion=cv2.COLOR_BGRA2GRAY),
        # ROS names a mosaic by its first four pixels, OpenCV's two-letter codes by the pixels at (1,1) and (1,2).
        f"bayer_rggb{bits}": _Layout(1, depth_bytes, conversion=cv2.COLOR_BAYER_BG2GRAY, mosaic=True),
        f"bayer_bggr{bits}": _Layout(1, depth_bytes, conversion=cv2.COLOR_BAYER_RG2GRAY, mosaic=True),
        f"bayer_gbrg{bits}": _Layout(1, depth_bytes, conversion=cv2.COLOR_BAYER_GR2GRAY, mosaic=True),
        f"bayer_grbg{bits}": _Layout(1, depth_bytes, conversion=cv2.COLOR_BAYER_GB2GRAY, mosaic=True),
    }


_UYVY, _YUYV = _Layout(2, luma=1), _Layout(2, luma=0)
_LAYOUTS: dict[str, _Layout] = {
    "mono8": _Layout(),
    "8UC1": _Layout(),
    "mono16": _Layout(depth_bytes=2),
    "16UC1": _Layout(depth_bytes=2),
    "8UC3": _Layout(3, conversion=cv2.COLOR_BGR2GRAY),  # unnamed channels: OpenCV's own order
    "8UC4": _Layout(4, conversion=cv2.COLOR_BGRA2GRAY),
    **_colours(1),
    **_colours(2),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
}

ENCODINGS = frozenset(_LAYOUTS)
"""Encodings that `decode_image` knows."""


def decode_image(data: Buffer, height: int, width: int, encoding: str, step: int, is_bigendian: bool = False,
                 depth_bits: int = 16) -> NDArray[np.uint8]:
    """Decode the fields of a raw image to grey [height,width] uint8.

    data: height rows of step bytes. Images that are grey already are not copied: the result may be
    a read-only view of `data`, with the padding of its rows as stride.
    depth_bits: bits in use of 16-bit channels, 8 to 16. The default keeps the upper byte (v >> 8);
    a camera that leaves its upper bits at zero needs its true depth, 12 say, else it comes out dark.
    It is never guessed from the image: contrast would jump from frame to frame.

    Raises ImageError naming the field that is wrong.
    """
    layout = _layout(encoding)
    height, width, step = _positive("height", height), _positive("width", width), _positive("step", step)
    row_bytes = width * layout.channels * layout.depth_bytes
    if step < row_bytes:
        raise ImageError(f"step is {step} bytes, but a row of {width} pixels {encoding} takes {row_bytes}")
    if layout.mosaic and min(height, width) < BAYER_MINIMUM_SIDE:
        raise ImageError(f"height x width is {height} x {width}, too small for encoding {encoding}")
    rows = _rows(data, height, step)[:, :row_bytes]
    if layout.depth_bytes == 2:
        rows = _to_8_bit(rows, is_bigendian, depth_bits)
    return _to_grey(rows, width, layout)


def decode_compressed(data: Buffer, depth_bits: int = 16) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG or other image file in memory to grey [H,W] uint8.

    An orientation tag is ignored: calibration and pixel positions refer to the pixels as stored. depth_bits: bits in
    use of 16-bit channels, as in `decode_image`.

    Raises ImageError when the data is empty, cut short, or in no known format.
    """
    image = _decoded(data, cv2.IMREAD_GRAYSCALE | (cv2.IMREAD_ANYDEPTH if depth_bits != 16 else 0))
    if image.dtype == np.uint16:
        return _scaled_to_8_bit(image, depth_bits)
    return image if image.dtype == np.uint8 else _decoded(data, cv2.IMREAD_GRAYSCALE)


def decode_stored(data: Buffer) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """As `decode_compressed`, but what the file holds: [H,W] uint8 or uint16 where it is grey, else [H,W,3] uint8,
    blue-green-red."""
    image = _decoded(data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    known = image.dtype == np.uint8 or (image.dtype == np.uint16 and image.ndim == 2)
    return image if known else _decoded(data, cv2.IMREAD_COLOR)


def _decoded(data: Buffer, kind: int) -> NDArray[np.uint8]:
    view = _byte_view(data)
    if not view.nbytes:
        raise ImageError("data is empty")
    content = np.frombuffer(view, np.uint8)
    if _is_cut_jpeg(content):
        raise ImageError(f"data is a JPEG cut short ({view.nbytes} bytes, no end marker)")
    try:
        image = cv2.imdecode(content, kind | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError(_unknown_pixels(content) or "data is no image in a known compressed format, or cut short "
                                                     f"({view.nbytes} bytes)")
    return image


def to_frame(image: NDArray[np.uint8], config: InputConfig, stamp_ns: int = 0, frame_id: str = "") -> Frame:
    """Make a frame of an image [H,W] grey or [H,W,3] blue-green-red, uint8.

    Resized to config.width x config.height (0: as the image), each rounded to a multiple of 8 as
    the networks need. The frame keeps the scale back to the pixels of `image`, and has memory of its own: a
    camera's buffer may be used again.

    Raises ImageError naming what is wrong with the image's shape or type.
    """
    grey = _grey(image)
    height, width = grey.shape
    size = network_side(config.width or width), network_side(config.height or height)
    shrunk = min(size[0], width), min(size[1], height)
    if shrunk != (width, height):  # averaged: aliasing would look like texture to the detector
        grey = cv2.resize(grey, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != size:
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR)
    own = grey.copy() if np.may_share_memory(grey, image) else np.ascontiguousarray(grey)
    return Frame(own, int(stamp_ns), frame_id, (width / size[0], height / size[1]))


def _layout(encoding: str) -> _Layout:
    try:
        return _LAYOUTS[encoding]
    except (KeyError, TypeError):
        raise ImageError(f"encoding {encoding!r} is unknown (known: {', '.join(sorted(ENCODINGS))})") from None


def _positive(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ImageError(f"{name} is {value!r}, must be an integer") from None
    if number <= 0:
        raise ImageError(f"{name} is {number}, must be positive")
    return number


def _byte_view(data: Buffer) -> memoryview:
    try:
        view = memoryview(data)
    except (TypeError, ValueError, BufferError):
        raise ImageError(f"data is a {type(data).__name__}, must be bytes or an array") from None
    if not view.c_contiguous:
        raise ImageError("data is an array with gaps, must be contiguous")
    return view


def _rows(data: Buffer, height: int, step: int) -> NDArray[np.uint8]:
    """The bytes as [height,step], not copied."""
    view = _byte_view(data)
    # More bytes than step x height is as wrong as fewer: some field lies, and the image would come out sheared.
    if view.nbytes != height * step:
        raise ImageError(f"data has {view.nbytes} bytes, but step {step} x height {height} makes {height * step}")
    return np.frombuffer(view, np.uint8).reshape(height, step)


def _to_8_bit(rows: NDArray[np.uint8], is_bigendian: bool, depth_bits: int) -> NDArray[np.uint8]:
    """Bytes of 16-bit values [H,2n] -> their depth_bits bits brought to 8 bits, [H,n]."""
    if depth_bits == 16:
        return cv2.extractChannel(rows.reshape(len(rows), -1, 2), 0 if is_bigendian else 1)
    return _scaled_to_8_bit(rows.view(">u2" if is_bigendian else "<u2"), depth_bits)


def _scaled_to_8_bit(values: NDArray[np.uint16], depth_bits: int) -> NDArray[np.uint8]:
    """The lower depth_bits bits of values [H,n] brought to 8 bits; what exceeds them saturates."""
    if not 8 <= depth_bits <= 16:
        raise ImageError(f"depth_bits is {depth_bits}, must be from 8 to 16")
    return np.minimum(values >> (depth_bits - 8), 255).astype(np.uint8)


def _to_grey(rows: NDArray[np.uint8], width: int, layout: _Layout) -> NDArray[np.uint8]:
    if layout.luma is not None:
        return cv2.extractChannel(rows.reshape(len(rows), width, layout.channels), layout.luma)
    if layout.conversion is None:
        return rows
    pixels = rows if layout.channels == 1 else rows.reshape(len(rows), width, layout.channels)
    return cv2.cvtColor(pixels, layout.conversion)


def _unknown_pixels(content: NDArray[np.uint8]) -> str | None:
    """What is wrong with an image that OpenCV reads only as it is, such as floating point numbers in a TIFF; None of
    any other."""
    try:
        image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if image is None or image.dtype in (np.uint8, np.uint16):
        return None
    return f"data is an image of {image.dtype} pixels, must be uint8 or uint16"


def _is_cut_jpeg(content: NDArray[np.uint8]) -> bool:
    """Whether a JPEG lacks its end marker; some OpenCV versions fill what is missing with flat grey.

    Looked for from marker to marker, over the contents of segments: a thumbnail in one has an end of its own, and
    behind the image's own end cameras put films and notes.
    """
    if content[:2].tobytes() != _JPEG_START:
        return False
    data, at = content.tobytes(), len(_JPEG_START)
    while marker := _MARKER.search(data, at):
        if marker.group() == _JPEG_END:
            return False
        length = int.from_bytes(data[marker.end():marker.end() + 2], "big")
        at = marker.end() + length
    return True


def _grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"image is of type {kind}, must be a uint8 array")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ImageError(f"image has shape {image.shape}, must be [height, width] or [height, width, 3]")
    if image.size == 0:
        raise ImageError(f"image has shape {image.shape}, must not be empty")
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def network_side(pixels: int) -> int:
    """The side of a frame that is made of a side of an image, in pixels: a multiple of 8."""
    return max(CELL, (pixels + CELL // 2) // CELL * CELL)
