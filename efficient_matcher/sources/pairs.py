"""Lists of image pairs: text files beside a folder of images, of names alone or with known homographies."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.errors import SourceError
from efficient_matcher.files import write_text_atomic
from efficient_matcher.sources.lists import listed_lines


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
    folder = _folder_of(file, images)
    return [_pair(line, where, folder) for where, line in listed_lines(file)]


def read_named_pairs(file: Path | str, images: Path | str | None = None) -> list[tuple[str, str]]:
    """Names, below the images' folder, of a file with lines `name0 name1`; what else stands in a line is passed over.

    A pair that comes again, also the other way round, counts once. images, raises: as `read_pairs`.
    """
    folder = _folder_of(file, images)
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for where, line in listed_lines(file):
        words = line.split()
        if len(words) < 2:
            raise SourceError(f"{where}: needs the file names of two images")
        name0, name1 = (_checked_name(name, where, folder) for name in words[:2])
        if name0 == name1:
            raise SourceError(f"{where}: {name0} is paired with itself")
        pairs.setdefault(frozenset((name0, name1)), (name0, name1))
    return list(pairs.values())


def write_pairs(file: Path | str, pairs: Iterable[HomographyPair], comment: str = "") -> None:
    """Write a list that `read_pairs` reads back to the last bit; `comment` becomes its first line.

    Raises MatcherError naming the file when it cannot be written.
    """
    lines = [f"# {comment}"] if comment else []
    lines += [" ".join([pair.name, *(repr(float(value)) for value in pair.homography.ravel())]) for pair in pairs]
    write_text_atomic(file, "\n".join(lines) + "\n")


def _folder_of(file: Path | str, images: Path | str | None) -> Path:
    return Path(file).parent / "images" if images is None else Path(images)


def _checked_name(name: str, where: str, folder: Path) -> str:
    """A name without detours, so that one image has one name."""
    plain = posixpath.normpath(name)
    if plain.startswith(("/", "..")):
        raise SourceError(f"{where}: {name} is no path below {folder}")
    if not (folder / plain).is_file():
        raise SourceError(f"{where}: {folder / plain} does not exist")
    return plain


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
