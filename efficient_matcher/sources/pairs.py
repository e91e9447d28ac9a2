"""Image pairs with known homographies: a text file of names and matrices beside a folder of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.errors import SourceError
from efficient_matcher.files import write_text_atomic


@dataclass(frozen=True)
class HomographyPair:
    """An image and the homography that makes its partner: homography [3,3] float64, in the image file's pixels."""

    name: str
    path: Path
    homography: NDArray[np.float64]


def read_pairs(file: Path | str, images: Path | str | None = None) -> list[HomographyPair]:
    """Pairs of a file with lines `name h00 h01 ... h22`; blank lines and lines from `#` on are skipped.

    images: folder of the images, by default `images` beside the file.
    Raises SourceError naming file and line, or the image that is missing.
    """
    file = Path(file)
    folder = file.parent / "images" if images is None else Path(images)
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise SourceError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SourceError(f"{file}: is not a text file") from None
    pairs = [_pair(line, f"{file}, line {number}", folder) for number, line in enumerate(lines, 1)
             if line.strip() and not line.startswith("#")]
    if not pairs:
        raise SourceError(f"{file}: lists no pairs")
    return pairs


def write_pairs(file: Path | str, pairs: Iterable[HomographyPair], comment: str = "") -> None:
    """Write a list that `read_pairs` reads back to the last bit; `comment` becomes its first line.

    Raises MatcherError naming the file when it cannot be written.
    """
    lines = [f"# {comment}"] if comment else []
    lines += [" ".join([pair.name, *(repr(float(value)) for value in pair.homography.ravel())]) for pair in pairs]
    write_text_atomic(file, "\n".join(lines) + "\n")


def _pair(line: str, where: str, folder: Path) -> HomographyPair:
    name, *numbers = line.split()
    try:
        homography = np.array([float(number) for number in numbers]).reshape(3, 3)
    except ValueError:
        raise SourceError(f"{where}: needs a file name and the nine numbers of a homography") from None
    if not np.isfinite(homography).all() or abs(np.linalg.det(homography)) < 1e-12:
        raise SourceError(f"{where}: the homography cannot be inverted")
    if not (folder / name).is_file():
        raise SourceError(f"{where}: {folder / name} does not exist")
    return HomographyPair(name, folder / name, homography)
