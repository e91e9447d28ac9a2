"""`make-pairs`: the list it writes is one that `evaluate homography` reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from efficient_matcher.commands import evaluate
from efficient_matcher.commands.make_pairs import MakePairsOptions, run
from efficient_matcher.errors import MatcherError, SourceError
from efficient_matcher.sources.pairs import read_pairs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture()
def images(tmp_path: Path, make_textured: Callable[..., np.ndarray]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, shape in enumerate([(240, 320), (320, 240), (200, 300)]):
        cv2.imwrite(str(folder / f"{seed}.png"), make_textured(*shape, seed))
    return folder


def test_list_is_read_back_and_evaluated(images: Path, tmp_path: Path) -> None:
    assert run(MakePairsOptions(images, tmp_path / "pairs.txt")) == 3
    pairs = read_pairs(tmp_path / "pairs.txt", images)
    assert [pair.name for pair in pairs] == ["0.png", "1.png", "2.png"]
    figures = evaluate.run(tmp_path / "pairs.txt", images=images, methods=["sift"], variant="clean")
    assert figures[0]["pairs"] == 3


def test_same_seed_same_list_other_seed_another(images: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(MakePairsOptions(images, tmp_path / name, count=4, seed=seed))
    a, b, c = ((tmp_path / name).read_text() for name in "abc")
    assert a == b != c


def test_every_image_comes_equally_often(images: Path, tmp_path: Path) -> None:
    run(MakePairsOptions(images, tmp_path / "pairs.txt", count=7))
    names = [pair.name for pair in read_pairs(tmp_path / "pairs.txt", images)]
    assert len(names) == 7 and {names.count(name) for name in names} <= {2, 3}


def test_what_cannot_be_used_is_skipped_by_name(images: Path, tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    (images / "broken.jpg").write_bytes(b"no image")
    cv2.imwrite(str(images / "tiny.png"), np.zeros((20, 300), np.uint8))
    for name in ("my photo.png", "#1.png"):
        cv2.imwrite(str(images / name), np.zeros((200, 300), np.uint8))
    (images / os.fsdecode(b"caf\xe9.png")).write_bytes((images / "my photo.png").read_bytes())
    run(MakePairsOptions(images, tmp_path / "pairs.txt", json=tmp_path / "report.json"))
    printed = capsys.readouterr().out
    assert "broken.jpg: unreadable" in printed and "tiny.png: smaller" in printed and "my photo.png" in printed
    assert "#1.png: a name with" in printed and "caf\\xe9.png: a name with" in printed
    assert len(json.loads((tmp_path / "report.json").read_text())["skipped"]) == 5
    assert len(read_pairs(tmp_path / "pairs.txt", images)) == 3


def test_folder_without_usable_image(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no images"):
        run(MakePairsOptions(tmp_path, tmp_path / "pairs.txt"))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"no usable image \(1 skipped\)"):
        run(MakePairsOptions(tmp_path, tmp_path / "pairs.txt"))
    assert not (tmp_path / "pairs.txt").exists()


def test_nothing_is_overwritten_unasked(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.txt"
    out.write_text("mine")
    with pytest.raises(MatcherError, match="exists already"):
        run(MakePairsOptions(images, out))
    assert out.read_text() == "mine"
    run(MakePairsOptions(images, out, overwrite=True))
    assert len(read_pairs(out, images)) == 3


def test_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import efficient_matcher.commands.make_pairs"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
