"""Image files as frames."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from efficient_matcher.config import InputConfig
from efficient_matcher.errors import SourceError
from efficient_matcher.sources.images import list_images, read_frames, read_image, stamps_of


def test_decimals_come_in_their_order(tmp_path: Path) -> None:
    for name in ("1.5.png", "1.25.png", "0.75.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8), np.uint8))
    assert [path.name for path in list_images(tmp_path)] == ["0.75.png", "1.25.png", "1.5.png"]


@pytest.mark.parametrize(("names", "stamps"), [
    (["1311868169.163498.jpg", "1311868169.263274.jpg"], [1311868169163498000, 1311868169263274000]),
    (["1403636579763555584.png"], [1403636579763555584]),
    (["1403636579763.png"], [1403636579763 * 10**6]),
    (["1403636579763555.png"], [1403636579763555 * 10**3]),
    (["1403636579.png"], [1403636579 * 10**9]),
    (["000000.png", "000003.png"], [0, 300_000_000]),
    (["left.png", "000003.png"], [0, 100_000_000]),
    (["0000000000.png", "0000000001.png"], [0, 100_000_000]),
    (["0.5.png", "1.png", "1.5.png"], [500_000_000, 1_000_000_000, 1_500_000_000]),
    (["99999999999999999.png", "1403636579763555584.png"], [99999999999999999, 1403636579763555584]),
    (["20240115123045.png", "20240115123046.png"], [0, 100_000_000]),
    (["2\u00b2.png", "3.png"], [0, 100_000_000]),
])
def test_stamps_come_from_numeric_names(names: list[str], stamps: list[int]) -> None:
    assert stamps_of([Path(name) for name in names]) == stamps


def test_a_digit_that_is_no_decimal_is_ordered_as_a_letter(tmp_path: Path) -> None:
    for name in ("x2\u00b2.png", "x10.png", "x2.png"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in list_images(tmp_path)] == ["x2.png", "x2\u00b2.png", "x10.png"]


def test_numbers_are_ordered_by_value(tmp_path: Path) -> None:
    for name in ("frame10.png", "frame9.png", "frame1.PNG", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in list_images(tmp_path)] == ["frame1.PNG", "frame9.png", "frame10.png"]


def test_frames_keep_the_scale_to_file_pixels(tmp_path: Path, textured_image: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "2.5.png"), textured_image)
    frames = list(read_frames(tmp_path, InputConfig(width=160, height=120)))
    assert [frame.stamp_ns for frame in frames] == [2_500_000_000]
    assert frames[0].image.shape == (120, 160)
    assert frames[0].scale == (2.0, 2.0)


def test_grey_files_are_read_unchanged(tmp_path: Path, textured_image: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), textured_image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), textured_image)


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="a.png: cannot be read: No such file"):
        read_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(SourceError, match="a.png: data is empty"):
        read_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match="a.png: data is no image"):
        read_image(tmp_path / "a.png")


def test_folders_without_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no images"):
        list_images(tmp_path)
    with pytest.raises(SourceError, match="is not a folder"):
        list_images(tmp_path / "missing")
