"""Folders, tar files and bags give the same images; what is damaged is named."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from efficient_matcher.errors import SourceError
from efficient_matcher.sources.image_sets import open_images, read_images


def picture(value: int, height: int = 72, width: int = 96) -> np.ndarray:
    return np.full((height, width), value, np.uint8)


def png(value: int) -> bytes:
    return cv2.imencode(".png", picture(value))[1].tobytes()


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def values(source: Path, **how: object) -> list[tuple[str, int | None]]:
    return [(name, None if image is None else int(image[0, 0])) for name, image in read_images(source, **how)]


MEMBERS = [("a/000.png", png(10)), ("a/000.cls", b"7"), ("a/._000.png", b"resource fork"), ("a/001.jpg", b"no image"),
           ("a/000.png", png(20))]


@pytest.mark.parametrize("name, mode", [("set.tar", "w"), ("set.tar.gz", "w:gz"), ("SET.TGZ", "w:gz")])
def test_images_of_a_tar_file_are_told_apart_and_others_passed_over(tmp_path: Path, name: str, mode: str) -> None:
    path = write_tar(tmp_path / name, MEMBERS, mode)
    assert values(path) == [("a/000.png", 10), ("a/001.jpg", None), ("a/000.png (2)", 20)]
    assert values(path, limit=1) == [("a/000.png", 10)]


def test_a_folder_gives_its_files_by_name_and_then_its_tar_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, value in (("b.png", 2), ("sub/a.png", 3)):
        cv2.imwrite(str(tmp_path / name), picture(value))
    write_tar(tmp_path / "part-0.tar", [("x.png", png(4))])
    write_tar(tmp_path / "part-1.tar", [("x.png", png(5)), ("y.png", png(6))])
    everything = [("b.png", 2), ("sub/a.png", 3), ("part-0.tar/x.png", 4), ("part-1.tar/x.png", 5),
                  ("part-1.tar/y.png", 6)]
    assert values(tmp_path) == everything
    assert values(tmp_path, limit=4) == everything[:4]
    assert values(tmp_path, limit=3, spread=True) == everything[::2]


def test_a_bag_gives_its_images_spread_over_time(tmp_path: Path, write_bag: Callable[..., Path]) -> None:
    bag = write_bag(tmp_path / "bag", [picture(value) for value in range(5)], alter={3: {"encoding": "nonsense"}})
    assert values(bag) == [(f"/camera/image_raw/{i:06d}", None if i == 3 else i) for i in range(5)]
    assert [value for _, value in values(bag, limit=3)] == [0, 2, 4]


def test_a_bag_of_two_cameras_needs_a_topic(tmp_path: Path, write_bag: Callable[..., Path]) -> None:
    bag = write_bag(tmp_path / "bag", [picture(1)], topics=("/left", "/right"))
    with pytest.raises(SourceError, match="several image topics, choose one with --topic: /left, /right"):
        open_images(bag)
    assert values(bag, topic="/right") == [("/right/000000", 1)]


def test_what_is_no_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "text.tar").write_text("x" * 2000)
    (tmp_path / "zip.tar.gz").write_bytes(b"\x1f\x8b" + bytes(30))
    (tmp_path / "zip.tar.xz").write_bytes(b"\xfd7zXZ\x00" + bytes(60))
    for name, message in [("none", "none: no such folder or file"), ("notes.txt", "neither a folder of images, a tar"),
                          ("text.tar", "text.tar: cannot be read as a tar file"),
                          ("zip.tar.gz", "zip.tar.gz: cannot be read as a tar file"),
                          ("zip.tar.xz", "zip.tar.xz: cannot be read as a tar file")]:
        with pytest.raises(SourceError, match=message):
            open_images(tmp_path / name)
    with pytest.raises(SourceError, match="a topic belongs to a bag"):
        open_images(tmp_path, "/camera")


@pytest.mark.parametrize("name, mode", [("cut.tar", "w"), ("cut.tar.gz", "w:gz")])
def test_a_tar_file_cut_short_says_where(tmp_path: Path, name: str, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 80, 80), np.uint8)
    data = [cv2.imencode(".png", layer)[1].tobytes() for layer in noise]
    path = write_tar(tmp_path / name, [("0.png", data[0]), ("1.png", data[1])], mode)
    path.write_bytes(path.read_bytes()[:int(1.5 * len(data[0]))])
    with pytest.raises(SourceError, match=f"{name}: breaks off in image [12]: "):
        list(read_images(path))
