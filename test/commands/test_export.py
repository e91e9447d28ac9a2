"""The commands export and info on networks made here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("safetensors")

from efficient_matcher.commands import export as command  # noqa: E402
from efficient_matcher.commands import info  # noqa: E402
from efficient_matcher.core.bundle import load_bundle  # noqa: E402
from efficient_matcher.errors import MatcherError  # noqa: E402
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig  # noqa: E402
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig  # noqa: E402
from efficient_matcher.learn.weights import WeightsError, save_weights  # noqa: E402


def weights(folder: Path, glue_licence: str | None = "Apache-2.0") -> tuple[Path, Path]:
    point = SuperPoint(SuperPointConfig((4,) * 8, 4, 4, 8, batch_norm=True))
    glue = SuperGlue(SuperGlueConfig(descriptor_dim=8, keypoint_encoder=(4,), layers=1, heads=2))
    save_weights(folder / "point.safetensors", point, {"licence": "Apache-2.0", "training": {"steps": 7}})
    save_weights(folder / "glue.safetensors", glue, {"licence": glue_licence} if glue_licence else {})
    return folder / "point.safetensors", folder / "glue.safetensors"


def test_weights_become_a_bundle_that_tells_their_origin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine"
    report = command.run(command.ExportOptions(*weights(tmp_path), out, json=tmp_path / "report.json"))
    card = load_bundle(out).card
    assert (card.name, card.licence) == ("mine", "Apache-2.0")
    assert card.training == {"superpoint": {"steps": 7}, "superglue": {"weights": "glue.safetensors"}}
    assert report["card"]["matcher"]["heads"] == 2
    assert json.loads((tmp_path / "report.json").read_text())["card"]["name"] == "mine"
    assert "superglue" in capsys.readouterr().out


def test_the_card_tells_earlier_runs_without_their_recipes(tmp_path: Path) -> None:
    point, glue = weights(tmp_path)
    first = {"hours": 1, "recipe": {"steps": 5}}
    training = {"hours": 2, "recipe": {"steps": 6}, "begun_with": {**first, "begun_with": first}}
    save_weights(glue, SuperGlue(SuperGlueConfig(descriptor_dim=8, keypoint_encoder=(4,), layers=1, heads=2)),
                 {"licence": "Apache-2.0", "training": training})
    command.run(command.ExportOptions(point, glue, tmp_path / "out"))
    assert load_bundle(tmp_path / "out").card.training["superglue"] == {
        "hours": 2, "recipe": {"steps": 6}, "begun_with": {"hours": 1, "begun_with": {"hours": 1}}}


def test_licence_must_be_known(tmp_path: Path) -> None:
    files = weights(tmp_path, glue_licence=None)
    with pytest.raises(MatcherError, match="glue.safetensors: does not say its licence; give it with --licence"):
        command.run(command.ExportOptions(*files, tmp_path / "out"))
    command.run(command.ExportOptions(*files, tmp_path / "out", name="named", licence="MIT"))
    assert (load_bundle(tmp_path / "out").card.name, load_bundle(tmp_path / "out").card.licence) == ("named", "MIT")


def test_two_licences_are_both_stated(tmp_path: Path) -> None:
    command.run(command.ExportOptions(*weights(tmp_path, glue_licence="MIT"), tmp_path / "out"))
    assert load_bundle(tmp_path / "out").card.licence == "Apache-2.0 and MIT"


def test_figures_are_kept_in_the_card(tmp_path: Path) -> None:
    (tmp_path / "figures.json").write_text('{"auc": {"5": 61.5}}')
    command.run(command.ExportOptions(*weights(tmp_path), tmp_path / "out", measured=tmp_path / "figures.json"))
    measured = load_bundle(tmp_path / "out").card.measured
    assert measured["auc"] == {"5": 61.5}
    assert "max_difference_to_torch" in measured


@pytest.mark.parametrize(("content", "message"), [
    (None, "cannot be read"), ("{", "is not JSON"), ("3", "not a mapping")])
def test_figures_that_cannot_be_read(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "figures.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MatcherError, match=f"figures.json: .*{message}"):
        command.run(command.ExportOptions(*weights(tmp_path), tmp_path / "out", measured=path))


def test_swapped_files_are_told_apart(tmp_path: Path) -> None:
    point, glue = weights(tmp_path)
    with pytest.raises(WeightsError, match="glue.safetensors: holds a superglue, not a superpoint"):
        command.run(command.ExportOptions(glue, point, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_info_prints_what_export_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = command.run(command.ExportOptions(*weights(tmp_path), tmp_path / "mine"))
    capsys.readouterr()
    report = info.run(str(tmp_path / "mine"))
    assert report["card"] == written["card"]
    assert "its files as the card says" in capsys.readouterr().out
