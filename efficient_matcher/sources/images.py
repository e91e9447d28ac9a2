"""Image files as a sequence of frames."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import InputConfig
from efficient_matcher.core.image import decode_compressed, to_frame
from efficient_matcher.errors import ImageError, SourceError
from efficient_matcher.records import Frame

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FRAME_PERIOD_NS = 100_000_000  # between files whose names are no stamps
SECOND_NS = 1_000_000_000
LATEST_NS = 2**31 * SECOND_NS


def read_image(path: Path | str, depth_bits: int = 16) -> NDArray[np.uint8]:
    """The image file as grey [H,W] uint8, by the decoder of live compressed images; depth_bits: of those with 16-bit
    channels. Raises SourceError naming it."""
    # Through bytes: cv2.imread cannot tell a missing file from a damaged one, nor open every name.
    try:
        return decode_compressed(Path(path).read_bytes(), depth_bits)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from None
    except ImageError as error:
        raise SourceError(f"{path}: {error}") from None


def list_images(source: Path | str | Sequence[Path | str]) -> list[Path]:
    """Image files of a folder in the order of their names (numbers by value), or the files given, as given.

    Raises SourceError when the folder is missing or holds no image.
    """
    if not isinstance(source, (str, Path)):
        return [Path(path) for path in source]
    folder = Path(source)
    if not folder.is_dir():
        raise SourceError(f"{folder}: is not a folder of images")
    paths = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise SourceError(f"{folder}: holds no images ({' '.join(SUFFIXES)})")
    return sorted(paths, key=_by_number)


def usable_images(folder: Path | str, minimum_side_px: int = 64) -> tuple[dict[Path, tuple[int, int]], dict[str, str]]:
    """(width, height) of each image of a folder that can be read and is not tiny; why not, of the others by name.

    Raises SourceError when the folder is missing or holds no usable image.
    """
    sizes: dict[Path, tuple[int, int]] = {}
    skipped: dict[str, str] = {}
    for path in list_images(folder):
        try:
            height, width = read_image(path).shape
        except SourceError:
            skipped[path.name] = "unreadable"
            continue
        if min(width, height) < minimum_side_px:
            skipped[path.name] = f"smaller than {minimum_side_px} px"
        else:
            sizes[path] = width, height
    if not sizes:
        raise SourceError(f"{folder}: no usable image ({len(skipped)} skipped)")
    return sizes, skipped


def stamps_of(paths: Sequence[Path]) -> list[int]:
    """A stamp in ns for each file: its name where all names are numeric, else its place at 10 Hz.

    Names are seconds where any has a point, or where the largest number has nine to eleven digits; with about 13, 16
    and 19 they are ms, us and ns, as data sets write them, and with fewer frame numbers at 10 Hz. Zeros in front do
    not count. What would be past the year 2038, which no message can hold, is no stamp.
    """
    names = [path.stem for path in paths]
    if names and all(re.fullmatch(r"[0-9]+(\.[0-9]+)?", name) for name in names):
        unit_ns = _unit_ns(names)
        stamps = [int(Decimal(name) * unit_ns) for name in names]
        if max(stamps) < LATEST_NS:
            return stamps
    return [index * FRAME_PERIOD_NS for index in range(len(paths))]


def read_frames(source: Path | str | Sequence[Path | str], config: InputConfig) -> Iterator[Frame]:
    """Frames of a folder or list of image files. Raises SourceError naming the file that cannot be read."""
    paths = list_images(source)
    for path, stamp in zip(paths, stamps_of(paths)):
        yield to_frame(read_image(path, config.depth_bits), config, stamp_ns=stamp, frame_id="")


def _unit_ns(names: Sequence[str]) -> int:
    """What one is, of numbers that name images."""
    if any("." in name for name in names):
        return SECOND_NS
    digits = len(str(max(map(int, names))))
    if digits < 9:
        return FRAME_PERIOD_NS
    thousands = round((digits - 10) / 3)  # 1 for milliseconds, 2 for microseconds, 3 for nanoseconds
    return int(10 ** max(0, 9 - 3 * max(0, thousands)))


def _by_number(path: Path) -> list[tuple[int, Decimal, str]]:
    if re.fullmatch(r"[0-9]+\.[0-9]+", path.stem):
        return [(0, Decimal(path.stem), "")]
    parts = re.findall(r"[0-9]+|[^0-9]+", path.stem)
    return [(0, Decimal(part), "") if part[0] in "0123456789" else (1, Decimal(0), part) for part in parts]
