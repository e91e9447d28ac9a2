"""`make-scenes` and `evaluate pose` as they are called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from efficient_matcher.commands.evaluate_pose import EvaluatePoseOptions, run
from efficient_matcher.commands.make_scenes import MakeScenesOptions
from efficient_matcher.commands.make_scenes import run as make_scenes
from efficient_matcher.errors import ConfigError, MatcherError, SourceError


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory, make_textured: Callable[..., np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("textures")
    for seed in range(4):
        cv2.imwrite(str(folder / f"{seed}.png"), make_textured(160, 200, seed))
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def made(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    assert make_scenes(MakeScenesOptions(textures, folder, 2, "easy", 3)) == 2
    return folder


def test_a_list_that_was_made_gives_the_figures_of_the_same_scenes(
        made: Path, textures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = run(EvaluatePoseOptions(made / "pairs.txt", methods=("sift", "orb"), json=tmp_path / "r.json"))
    table = capsys.readouterr().out
    assert "all sift" in table and "640x480" in table
    (rendered,) = run(EvaluatePoseOptions(scenes=textures, level="easy", pairs=2, seed=3, methods=("sift",)))
    assert listed[0]["auc"] == pytest.approx(rendered["auc"], abs=1e-6)
    assert listed[0]["precision_3px"] == pytest.approx(rendered["precision_3px"], abs=2)
    assert listed[0]["auc"]["20"] > 50 and listed[0]["precision"] > 60
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["results"] == listed and len(report["pairs"]) == 4
    assert report["settings"]["methods"] == ["sift", "orb"] and report["pairs"][0]["error_deg"] < 20


def test_the_bundle_is_evaluated_too(made: Path, tiny_bundle: Path) -> None:
    from efficient_matcher.config import Config
    config = Config().with_values({"model.bundle": str(tiny_bundle), "model.threads": 1})
    (figures,) = run(EvaluatePoseOptions(made / "pairs.txt", limit=1, config=config))
    assert figures["pairs"] == 1 and figures["matches"] > 0


def test_xfeat_is_evaluated_too(made: Path, xfeat_weights: Path) -> None:
    figures = run(EvaluatePoseOptions(made / "pairs.txt", limit=1, methods=("orb",), xfeat=xfeat_weights))
    assert [row["method"] for row in figures] == ["orb", "xfeat"]


def test_a_limit_holds_for_scenes_and_the_folder_that_was_made_is_known(made: Path, textures: Path) -> None:
    (rendered,) = run(EvaluatePoseOptions(scenes=textures, level="easy", pairs=2, seed=3, limit=1, methods=("orb",)))
    (listed,) = run(EvaluatePoseOptions(made, limit=1, methods=("orb",)))
    assert rendered["pairs"] == listed["pairs"] == 1


def test_scenes_that_were_stopped_are_listed(textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from efficient_matcher.commands import make_scenes as command
    monkeypatch.setattr(command.StopSignals, "__enter__", lambda stop: SimpleNamespace(requested=True))
    with pytest.raises(KeyboardInterrupt):
        make_scenes(MakeScenesOptions(textures, tmp_path / "out", 3, "easy", 3))
    (figures,) = run(EvaluatePoseOptions(tmp_path / "out", methods=("orb",)))
    assert figures["pairs"] == 1


def test_made_files_are_not_overwritten_unasked(made: Path, textures: Path) -> None:
    with pytest.raises(MatcherError, match="exists already"):
        make_scenes(MakeScenesOptions(textures, made, 1))


def test_bad_input_is_one_line(textures: Path, made: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="either a list"):
        run(EvaluatePoseOptions())
    with pytest.raises(ConfigError, match="unknown level 'extreme'"):
        run(EvaluatePoseOptions(scenes=textures, level="extreme"))
    with pytest.raises(SourceError, match="nothing"):
        run(EvaluatePoseOptions(tmp_path / "nothing.txt"))
    with pytest.raises(SourceError, match="line 2: .*does not exist"):
        run(EvaluatePoseOptions(made / "pairs.txt", images=tmp_path, methods=("orb",)))
    with pytest.raises(ConfigError, match="--topic belongs to frames of a bag, and here are pairs of a list"):
        run(EvaluatePoseOptions(made / "pairs.txt", topic="/camera", methods=("orb",)))
    with pytest.raises(ConfigError, match="--gap belongs to frames of a bag, and here are scenes"):
        run(EvaluatePoseOptions(scenes=textures, gap=3, methods=("orb",)))
    with pytest.raises(ConfigError, match="--level belongs to scenes"):
        run(EvaluatePoseOptions(made / "pairs.txt", level="easy", methods=("orb",)))
    before = (made / "pairs.txt").read_bytes()
    with pytest.raises(MatcherError, match="pairs.txt: is what the work begins with"):
        run(EvaluatePoseOptions(made / "pairs.txt", methods=("orb",), json=made / "pairs.txt"))
    assert (made / "pairs.txt").read_bytes() == before
    with pytest.raises(SourceError, match="is not a folder"):
        make_scenes(MakeScenesOptions(tmp_path / "nowhere", tmp_path / "out", 1))
