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


def read_image(path: Path | str) -> NDArray[np.uint8]:
    """The image file as grey [H,W] uint8, by the decoder of live compressed images. Raises SourceError naming it."""
    # Through bytes: cv2.imread cannot tell a missing file from a damaged one, nor open every name.
    try:
        return decode_compressed(Path(path).read_bytes())
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

    Names with a point or of nine to eleven digits are seconds; 13, 16 and 19 digits are ms, us and ns, as
    data sets write them; shorter ones are frame numbers at 10 Hz.
    """
    stamps = [_stamp_of_name(path.stem) for path in paths]
    if any(stamp is None for stamp in stamps):
        return [index * FRAME_PERIOD_NS for index in range(len(paths))]
    return [stamp for stamp in stamps if stamp is not None]


def read_frames(source: Path | str | Sequence[Path | str], config: InputConfig) -> Iterator[Frame]:
    """Frames of a folder or list of image files. Raises SourceError naming the file that cannot be read."""
    paths = list_images(source)
    for path, stamp in zip(paths, stamps_of(paths)):
        yield to_frame(read_image(path), config, stamp_ns=stamp, frame_id="")


def _stamp_of_name(stem: str) -> int | None:
    if not re.fullmatch(r"\d+(\.\d+)?", stem):
        return None
    digits = len(stem.split(".")[0])
    if "." in stem or 9 <= digits < 12:
        return int(Decimal(stem) * 1_000_000_000)
    if digits < 9:
        return int(stem) * FRAME_PERIOD_NS
    thousands = round((digits - 10) / 3)  # 1 for milliseconds, 2 for microseconds, 3 for nanoseconds
    return int(stem) * 10 ** max(0, 9 - 3 * thousands)


def _by_number(path: Path) -> list[tuple[int, Decimal, str]]:
    if re.fullmatch(r"\d+\.\d+", path.stem):
        return [(0, Decimal(path.stem), "")]
    parts = re.findall(r"\d+|\D+", path.stem)
    return [(0, Decimal(part), "") if part.isdigit() else (1, Decimal(0), part) for part in parts]
