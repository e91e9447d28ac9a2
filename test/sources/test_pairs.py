"""Lists of homography pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from efficient_matcher.errors import SourceError
from efficient_matcher.sources.pairs import read_named_pairs, read_pairs

IDENTITY = "1 0 0 0 1 0 0 0 1"


def write(folder: Path, text: str) -> Path:
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(b"x")
    (folder / "pairs.txt").write_text(text)
    return folder / "pairs.txt"


def test_matrix_is_read_row_by_row(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, "# comment\n\na.png 1 2 3 4 5.5 6 7e-4 8e-4 1\n"))
    assert [pair.name for pair in pairs] == ["a.png"]
    assert pairs[0].path == tmp_path / "images" / "a.png"
    np.testing.assert_array_equal(pairs[0].homography, [[1, 2, 3], [4, 5.5, 6], [7e-4, 8e-4, 1]])


def test_images_may_lie_elsewhere(tmp_path: Path) -> None:
    file = write(tmp_path, f"a.png {IDENTITY}")
    (tmp_path / "images").rename(tmp_path / "other")
    assert read_pairs(file, tmp_path / "other")[0].path == tmp_path / "other" / "a.png"


@pytest.mark.parametrize(("text", "message"), [
    ("", "lists no pairs"),
    ("a.png 1 2 3", "line 1: needs a file name and the nine numbers"),
    (f"a.png {IDENTITY}\na.png 1 0 0 0 x 0 0 0 1", "line 2: needs"),
    ("a.png 1 0 0 0 1 0 0 0 0", "cannot be inverted"),
    ("a.png nan 0 0 0 1 0 0 0 1", "cannot be inverted"),
    (f"b.png {IDENTITY}", "b.png does not exist"),
])
def test_wrong_lists_are_named_by_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_pairs(write(tmp_path, text))


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="pairs.txt: cannot be read"):
        read_pairs(tmp_path / "pairs.txt")
    (tmp_path / "pairs.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="is not a text file"):
        read_pairs(tmp_path / "pairs.txt")


def test_named_pairs_count_once_whatever_else_stands_there(tmp_path: Path) -> None:
    file = write(tmp_path, "a.png b/c.png 0 0 1.5\n\n# none\nb/./c.png a.png\n")
    (tmp_path / "images" / "b").mkdir()
    (tmp_path / "images" / "b" / "c.png").write_bytes(b"x")
    assert read_named_pairs(file) == [("a.png", "b/c.png")]


@pytest.mark.parametrize(("text", "message"), [
    ("a.png", "line 1: needs the file names of two images"),
    ("# x\na.png b.png", "line 2: .*b.png does not exist"),
    ("a.png a.png", "line 1: a.png is paired with itself"),
    ("a.png ../images/a.png", "is no path below"),
    ("", "lists no pairs"),
])
def test_wrong_named_pairs_are_told_by_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_named_pairs(write(tmp_path, text))
