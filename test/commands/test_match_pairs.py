"""Matching a list of pairs into files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from efficient_matcher.commands import match_pairs as command
from efficient_matcher.commands.match_pairs import MatchPairsOptions, run
from efficient_matcher.config import Config
from efficient_matcher.core.geometry import warp_points
from efficient_matcher.core.pipeline import Matcher
from efficient_matcher.errors import ImageError, MatcherError, SourceError
from efficient_matcher.stopping import StopSignals

h5py = pytest.importorskip("h5py")
pytest.importorskip("rich")


@pytest.fixture()
def options(tmp_path: Path, warped_pair: Any, tiny_bundle: Path) -> MatchPairsOptions:
    """a.png, sub/b.png and c.png, the second a warp of the first; a list of two pairs."""
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name, image in (("a.png", warped_pair.image0), ("sub/b.png", warped_pair.image1),
                        ("c.png", warped_pair.image0[::-1])):
        cv2.imwrite(str(tmp_path / "images" / name), image)
    (tmp_path / "pairs.txt").write_text("a.png sub/b.png\n# a comment\nc.png a.png 1 2 3\na.png ./c.png\n")
    config = Config().with_values({"model.bundle": str(tiny_bundle), "input.width": 0, "input.height": 0,
                                   "extract.max_keypoints": 200})
    return MatchPairsOptions(tmp_path / "pairs.txt", tmp_path / "out", config=config, json=tmp_path / "report.json")


def partners(options: MatchPairsOptions, pair: str) -> np.ndarray:
    with h5py.File(options.out / "matches.h5") as file:
        return file[pair]["matches0"][:]


def test_matches_of_the_list_lie_where_the_homography_puts_them(options: MatchPairsOptions, warped_pair: Any,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    assert run(options)
    report = json.loads(options.json.read_text())
    assert (report["pairs"], report["pairs_matched"], report["images_extracted"]) == (2, 2, 3)
    found = partners(options, "a.png/sub-b.png")
    with h5py.File(options.out / "features.h5") as file:
        points0, points1 = file["a.png/keypoints"][:], file["sub/b.png/keypoints"][:]
    apart = np.linalg.norm(warp_points(points0, warped_pair.matrix) - points1[found], axis=1)[found >= 0]
    assert np.count_nonzero(found >= 0) == report["matches"]["max"] > 50 and np.median(apart) < 1
    assert "matched now" in capsys.readouterr().out


def test_a_second_run_goes_on_and_one_of_other_settings_is_refused(
        options: MatchPairsOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    run(options)
    whole = partners(options, "a.png/sub-b.png")
    with h5py.File(options.out / "matches.h5", "a") as file:
        del file["a.png/sub-b.png"]
    extract = Matcher.extract
    monkeypatch.setattr(Matcher, "extract", lambda *_: pytest.fail("extracted again"))
    assert run(options)
    report = json.loads(options.json.read_text())
    assert (report["pairs_matched"], report["pairs_there_before"], report["images_extracted"]) == (1, 1, 0)
    assert np.array_equal(partners(options, "a.png/sub-b.png"), whole)
    monkeypatch.setattr(Matcher, "extract", extract)
    other = replace(options, config=options.config.with_values({"extract.max_keypoints": 100}))
    with pytest.raises(MatcherError, match="features.h5: was made by another bundle or other settings"):
        run(other)
    assert run(replace(other, overwrite=True)) and len(partners(options, "a.png/sub-b.png")) <= 100


def test_turned_images_match_when_asked_from_the_file_too(options: MatchPairsOptions, warped_pair: Any) -> None:
    cv2.imwrite(str(options.list.parent / "images" / "sub" / "b.png"), np.rot90(warped_pair.image0))
    turning = replace(options, config=options.config.with_values({"match.turns": True}))
    for _ in range(2):
        run(turning)
        found = partners(options, "a.png/sub-b.png")
        with h5py.File(options.out / "features.h5") as file:
            (x0, y0), points1 = file["a.png/keypoints"][:].T, file["sub/b.png/keypoints"][:]
        apart = np.linalg.norm(np.stack([y0, 319 - x0], 1) - points1[found], axis=1)[found >= 0]
        assert len(apart) > 50 and np.median(apart) < 1
        with h5py.File(options.out / "matches.h5", "a") as file:
            del file["a.png/sub-b.png"]
    assert json.loads(options.json.read_text())["images_extracted"] == 0


def test_few_features_at_hand_give_the_same(options: MatchPairsOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    run(options)
    whole = partners(options, "c.png/a.png")
    monkeypatch.setattr(command, "REMEMBERED", 1)
    run(replace(options, overwrite=True))
    assert np.array_equal(partners(options, "c.png/a.png"), whole)
    assert json.loads(options.json.read_text())["images_extracted"] == 3


def test_a_broken_image_costs_its_pairs_and_is_named(options: MatchPairsOptions,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    (options.list.parent / "images" / "c.png").write_bytes(b"no image")
    assert run(options)
    report = json.loads(options.json.read_text())
    assert (report["pairs_matched"], report["pairs_without_image"], list(report["skipped"])) == (1, 1, ["c.png"])
    assert "skipped c.png: " in capsys.readouterr().out
    options.list.write_text("c.png a.png\n")
    with pytest.raises(SourceError, match="pairs.txt: no pair of it could be matched"):
        run(replace(options, out=options.out / "two"))


def test_an_image_without_keypoints_has_no_matches(options: MatchPairsOptions) -> None:
    cv2.imwrite(str(options.list.parent / "images" / "c.png"), np.zeros((4, 4), np.uint8))
    assert run(options) and run(options)
    assert len(partners(options, "c.png/a.png")) == 0
    assert json.loads(options.json.read_text())["pairs_there_before"] == 2


def test_an_image_the_networks_cannot_take_is_skipped(options: MatchPairsOptions,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    extract = Matcher.extract

    def picky(matcher: Matcher, image: np.ndarray) -> object:
        if image[0, 0] == turned:
            raise ImageError("image: too large")
        return extract(matcher, image)

    image = np.arange(256, dtype=np.uint8)[:, None].repeat(256, axis=1)
    turned = image[0, 0] = 251
    cv2.imwrite(str(options.list.parent / "images" / "c.png"), image)
    monkeypatch.setattr(Matcher, "extract", picky)
    assert run(options)
    assert json.loads(options.json.read_text())["skipped"] == {"c.png": "image: too large"}


def test_a_stop_leaves_what_was_matched(options: MatchPairsOptions, monkeypatch: pytest.MonkeyPatch,
                                        stopped_after: Callable[[int], StopSignals]) -> None:
    monkeypatch.setattr(command, "StopSignals", lambda: stopped_after(1))
    assert not run(options)
    assert json.loads(options.json.read_text())["pairs_matched"] == 1
    monkeypatch.undo()
    assert run(options) and json.loads(options.json.read_text())["pairs_there_before"] == 1


def test_the_list_is_not_replaced_by_the_report(options: MatchPairsOptions) -> None:
    with pytest.raises(MatcherError, match="is what the work begins with"):
        run(replace(options, json=options.list))


def test_images_that_the_files_could_not_tell_apart_are_named(options: MatchPairsOptions) -> None:
    (options.list.parent / "images" / "sub-b.png").write_bytes(b"x")
    options.list.write_text("a.png sub/b.png\na.png sub-b.png\n")
    with pytest.raises(SourceError, match="sub/b.png and sub-b.png: are one name"):
        run(options)
