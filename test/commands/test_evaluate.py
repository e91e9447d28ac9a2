"""`evaluate homography` as it is called."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from efficient_matcher.commands.evaluate import run
from efficient_matcher.config import Config
from efficient_matcher.errors import BundleError, ConfigError, MatcherError, SourceError

H = "1.05 0.02 6 -0.03 1.02 -4 2e-5 -1e-5 1.0"


@pytest.fixture()
def pairs(tmp_path: Path, make_textured: Callable[..., np.ndarray]) -> Path:
    (tmp_path / "images").mkdir()
    for name, seed in (("a.png", 0), ("b.png", 1)):
        cv2.imwrite(str(tmp_path / "images" / name), make_textured(480, 640, seed))
    file = tmp_path / "pairs.txt"
    file.write_text(f"a.png {H}\nb.png {H}\n")
    return file


@pytest.fixture()
def config(tiny_bundle: Path) -> Config:
    return Config().with_values({"model.bundle": str(tiny_bundle), "model.threads": 1})


def test_report_and_table(pairs: Path, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out" / "report.json"
    figures = run(pairs, config=config, methods=("bundle", "sift"), limit=1, json=file)
    assert [(f["method"], f["variant"]) for f in figures] == [
        ("bundle", "clean"), ("bundle", "hard"), ("sift", "clean"), ("sift", "hard")]
    assert figures[2]["strict"]["auc"]["ransac"]["5"] > 90
    table = capsys.readouterr().out
    assert "sift" in table and "strict" in table and "0 of 1" in table
    report = json.loads(file.read_text())
    assert report["results"] == figures
    assert report["settings"]["extract.max_keypoints"] == 512 and report["settings"]["variants"] == ["clean", "hard"]
    assert len(report["bundle"]["hash"]) == 64
    assert len(report["pairs"]) == 4 and report["pairs"][0]["corner_errors"]["ransac"] < 5


def test_a_summary_holds_the_same_figures_and_no_pairs(pairs: Path, config: Config, tmp_path: Path) -> None:
    figures = run(pairs, config=config, methods=["orb"], variant="clean", json=tmp_path / "short.json", summary=True)
    report = json.loads((tmp_path / "short.json").read_text())
    assert report["results"] == figures and figures[0]["pairs"] == 2 and report["pairs"] == []


def test_xfeat_is_compared_where_its_weights_are_given(pairs: Path, xfeat_weights: Path, tmp_path: Path) -> None:
    figures = run(pairs, methods=["orb"], variant="clean", limit=1, xfeat=xfeat_weights, json=tmp_path / "r.json")
    assert [row["method"] for row in figures] == ["orb", "xfeat"] and figures[1]["matches"] > 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["weights"] == {"xfeat": hashlib.sha256(xfeat_weights.read_bytes()).hexdigest()}


def test_weights_that_are_not_there_are_named(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(MatcherError, match="xfeat.pt: no such file"):
        run(pairs, methods=["orb"], xfeat=tmp_path / "xfeat.pt")


def test_baseline_alone_needs_no_bundle(pairs: Path) -> None:
    missing = Config().with_values({"model.bundle": "nowhere"})
    figures = run(pairs, config=missing, methods=["orb"], variant="clean", limit=1)
    assert [f["pairs"] for f in figures] == [1]


def test_keypoints_come_from_the_config(pairs: Path, config: Config) -> None:
    few = config.with_values({"extract.max_keypoints": 50})
    figures = run(pairs, config=few, methods=("bundle", "orb"), variant="clean", limit=1)
    assert all(f["keypoints"] <= 50 for f in figures)


def test_worst_pairs_are_explained_and_drawn(pairs: Path, config: Config, tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(pairs.parent / "images" / "b.png"), np.zeros((480, 640), np.uint8))
    run(pairs, config=config, methods=["nearest"], variant="clean", worst=1, pictures=tmp_path / "worst",
        json=tmp_path / "report.json")
    (file,) = (tmp_path / "worst").iterdir()
    assert file.name == "nearest_clean_01_b.png"
    assert cv2.imread(str(file)).shape[1] > 1280
    (row,) = json.loads((tmp_path / "report.json").read_text())["worst"]
    assert (row["name"], row["cause"]) == ("b.png", "too few keypoints")
    assert "0 and 0 keypoints in the overlap" in capsys.readouterr().out


def test_several_bundles_are_compared_by_name(pairs: Path, config: Config, tiny_bundle: Path, tmp_path: Path) -> None:
    copies = [tmp_path / "first", tmp_path / "second"]
    for copy in copies:
        shutil.copytree(tiny_bundle, copy)
    figures = run(pairs, config=config, methods=("bundle", "nearest", "orb"), bundles=list(map(str, copies)),
                  variant="clean", limit=1, json=tmp_path / "report.json")
    assert [row["method"] for row in figures] == ["first", "first nearest", "second", "second nearest", "orb"]
    assert figures[0]["strict"] == figures[2]["strict"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["bundles"]) == ["first", "second"]


def test_bundles_of_the_same_name_are_told_apart_by_path(pairs: Path, config: Config, tiny_bundle: Path,
                                                         tmp_path: Path) -> None:
    copies = [str(tmp_path / parent / "tiny") for parent in "ab"]
    for copy in copies:
        shutil.copytree(tiny_bundle, copy)
    figures = run(pairs, config=config, bundles=copies, variant="clean", limit=1, worst=1, pictures=tmp_path / "drawn")
    assert [row["method"] for row in figures] == copies
    assert len(list((tmp_path / "drawn").iterdir())) == 2


def test_missing_list(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nothing.txt"):
        run(tmp_path / "nothing.txt")


def test_missing_image_folder_and_image(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="a.png"):
        run(pairs, images=tmp_path / "elsewhere")
    (pairs.parent / "images" / "b.png").unlink()
    with pytest.raises(SourceError, match="b.png"):
        run(pairs, methods=["orb"])


@pytest.mark.parametrize("line", ["a.png 1 2 3", f"a.png {H} 4", "a.png 1 0 0 0 1 0 0 0 nan", "a.png 1 0 0 0 1 0 0 x 1",
                                  "a.png 0 0 0 0 0 0 0 0 1"])
def test_malformed_line_is_named(pairs: Path, line: str) -> None:
    pairs.write_text(f"a.png {H}\n{line}\n")
    with pytest.raises(SourceError, match=r"pairs.txt.*2"):
        run(pairs, methods=["orb"])


def test_image_that_is_none(pairs: Path) -> None:
    (pairs.parent / "images" / "a.png").write_bytes(b"\x89PNG cut short")
    with pytest.raises(SourceError, match="a.png"):
        run(pairs, methods=["orb"])


def test_missing_bundle(pairs: Path) -> None:
    with pytest.raises(BundleError, match="nowhere"):
        run(pairs, config=Config().with_values({"model.bundle": "nowhere"}))


@pytest.mark.parametrize("wrong", [{"methods": ["surf"]}, {"variant": "soft"}])
def test_unknown_choice_is_named(pairs: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="surf|soft"):
        run(pairs, **wrong)


def test_black_image_is_a_failure_not_an_error(pairs: Path, config: Config, tmp_path: Path) -> None:
    cv2.imwrite(str(pairs.parent / "images" / "a.png"), np.zeros((480, 640), np.uint8))
    figures = run(pairs, config=config, methods=("bundle", "orb"), variant="clean", limit=1,
                  json=tmp_path / "report.json")
    for row in figures:
        assert row["strict"]["auc"]["ransac"]["25"] == 0.0 and row["dropped"] == 1
    assert json.loads((tmp_path / "report.json").read_text())["pairs"][0]["corner_errors"]["ransac"] is None


def test_the_list_itself_is_not_replaced(pairs: Path) -> None:
    with pytest.raises(MatcherError, match="is what the work begins with"):
        run(pairs, methods=["orb"], variant="clean", limit=1, json=pairs)


def test_report_that_cannot_be_written(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(MatcherError, match="images"):
        run(pairs, methods=["orb"], variant="clean", limit=1, json=tmp_path / "images")
