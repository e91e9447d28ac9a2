"""The page of a compression report: measured rows beside rows that are missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from efficient_matcher.commands import report as command  # noqa: E402
from efficient_matcher.commands.report import ReportOptions, make_rows, read_rows, run  # noqa: E402
from efficient_matcher.config import Config
from efficient_matcher.errors import ConfigError, MatcherError  # noqa: E402
from efficient_matcher.evaluate.compression_page import tables  # noqa: E402
from efficient_matcher.learn.graph_counts import count  # noqa: E402
from efficient_matcher.learn.recipe import find_recipe  # noqa: E402
from efficient_matcher.learn.pack import pack_bundle  # noqa: E402


@pytest.fixture()
def folder(tmp_path: Path, make_bundle: Callable[..., Path], textured_image: np.ndarray) -> Path:
    """Bundles dense and packed, pairs.txt of one image, rows.yaml with a third row that is missing."""
    pack_bundle(make_bundle(tmp_path / "dense"), tmp_path / "packed")
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), textured_image)
    (tmp_path / "pairs.txt").write_text("a.png 1 0 3 0 1 2 0 0 1\n")
    (tmp_path / "rows.yaml").write_text(
        "title: Small <and> fast\nrows:\n- {title: dense, bundle: dense}\n"
        "- {title: packed | coded, bundle: packed, note: the same bits, make: [pack dense --out packed]}\n"
        "- {title: pruned, bundle: nowhere, make: [prune --ratio 0.9]}\n")
    return tmp_path


def options(folder: Path, **changes: object) -> ReportOptions:
    return ReportOptions(folder / "rows.yaml", folder / "pairs.txt", folder / "out", rounds=1, **changes)


def test_the_page_holds_what_was_measured_and_names_what_is_missing(folder: Path) -> None:
    report = run(options(folder))
    dense, packed, pruned = report["rows"]
    assert (dense["status"], pruned["status"]) == ("measured", "missing") and "accuracy" not in pruned
    assert packed["accuracy"] == dense["accuracy"] and packed["nonzero"] == dense["nonzero"]
    assert packed["bytes"] == sum(path.stat().st_size for path in (folder / "packed").iterdir())
    assert packed["size_share"] == packed["bytes"] / dense["bytes"] and dense["times_faster"] == 1.0
    assert dense["stages_ms"]["match"]["median"] > 0 and "refine" not in dense["networks_alone"]["stages_ms"]
    assert dense["stages_ms"]["refine"]["median"] > 0 and dense["networks_alone"]["times_faster"] == 1.0
    assert json.loads((folder / "out" / "compression.json").read_text())["rows"][2]["status"] == "missing"
    page = (folder / "out" / "compression.md").read_text()
    assert "| pruned | missing | - |" in page and f"pruned: no bundle at {folder / 'nowhere'}; made by: prune" in page
    assert "packed \\| coded: the same bits" in page or "packed | coded: the same bits" in page
    html = (folder / "out" / "compression.html").read_text()
    assert "Small &lt;and&gt; fast" in html and html.count("<table>") == 5 and "src=" not in html
    for _, columns, rows in tables(report["rows"]):
        assert all(len(row) == len(columns) for row in rows)


def test_each_way_of_timing_is_beside_that_of_the_first_row(folder: Path) -> None:
    report = run(options(folder))
    packed = report["rows"][1]
    packed.update(tracked_frame_ms={"median": 20.0}, times_faster=3.0)
    packed["networks_alone"].update(tracked_frame_ms={"median": 16.0}, times_faster=3.5)
    _, columns, rows = tables(report["rows"])[0]
    assert columns[-4:] == ["frame ms", "times faster", "frame ms, not refined", "times faster, not refined"]
    assert rows[1][-4:] == ["20.0", "3.00", "16.0", "3.50"] and rows[2][-1] == "-"


def test_both_fits_stand_in_their_columns(folder: Path) -> None:
    row = run(options(folder))["rows"][0]
    row["accuracy"]["hard"] = {"auc": {"5": 1.04, "10": 2.0, "25": 3.0}, "precision": 7.0, "recall": None,
                               "auc_own_fit": {"5": 4.0, "10": 5.0, "25": 6.0},
                               "auc_refined": {"5": 8.0, "10": 9.0, "25": 10.0},
                               "auc_refined_own_fit": {"5": 11.0, "10": 12.0, "25": 13.0}}
    alone, refined = (table for table in tables([row]) if "accuracy on hard" in table[0])
    assert (alone[0], refined[0]) == ("Table 3: accuracy on hard, strict", "Table 5: accuracy on hard, strict, refined")
    assert dict(zip(alone[1], alone[2][0])) == {
        "": "dense", "AUC@5": "1.0", "AUC@10": "2.0", "AUC@25": "3.0", "own fit @5": "4.0", "@10": "5.0", "@25": "6.0",
        "precision": "7.0", "recall": "-"}
    assert refined[2][0][1:7] == ["8.0", "9.0", "10.0", "11.0", "12.0", "13.0"]


def test_without_refinement_there_are_no_refined_columns(folder: Path) -> None:
    report = run(options(folder, config=Config().with_values({"refine.enabled": False})))
    assert "auc_refined" not in report["rows"][0]["accuracy"]["clean"] and "networks_alone" not in report["rows"][0]
    assert [title for title, *_ in tables(report["rows"])][1:] == [
        "Table 2: accuracy, strict", "Table 3: accuracy on hard, strict"]


def test_a_page_of_nothing_is_not_written(folder: Path) -> None:
    (folder / "rows.yaml").write_text("rows: [{title: pruned, bundle: nowhere}]")
    with pytest.raises(ConfigError, match="no bundle of any row is there; --make makes them"):
        run(options(folder))
    assert not (folder / "out").exists()


def test_missing_rows_are_made_when_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = []
    monkeypatch.setattr(command.subprocess, "run", lambda words, **kwargs: lines.append((words[3:], kwargs["cwd"]))
                        or type("Done", (), {"returncode": 1}))
    with pytest.raises(MatcherError, match="^pruned: 'efficient-matcher prune --ratio 0.9' ended with 1$"):
        run(options(folder, make=True))
    assert lines == [(["prune", "--ratio", "0.9"], folder)]


@pytest.mark.parametrize(("text", "message"), [
    ("rows: []", "rows: there are none"), ("rows: [{title: a, bundle: b, colour: c}]", "unknown key 'rows.0..colour'"),
    ("rows: [{title: a, bundle: b}, {title: a, bundle: c}]", "the title 'a' is there twice"),
    ("rows: [{title: a}]", "key 'rows.0..bundle' is missing")])
def test_bad_rows_name_file_and_field(folder: Path, text: str, message: str) -> None:
    (folder / "rows.yaml").write_text(text)
    with pytest.raises(MatcherError, match=f"rows.yaml: .*{message}") as caught:
        run(options(folder))
    assert "\n" not in str(caught.value)


def test_a_damaged_bundle_is_an_error_and_not_a_missing_row(folder: Path) -> None:
    path = folder / "packed" / "matcher.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MatcherError, match="matcher.onnx: SHA-256"):
        run(options(folder))


def test_macs_and_weights_of_a_known_graph(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper
    kernel, matrix = np.ones((4, 3, 3, 3), np.float32), np.ones((8, 5), np.float32)
    kernel[0] = 0
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "k"], ["y"], pads=[1, 1, 1, 1]), helper.make_node("MatMul", ["t", "m"], ["z"]),
         helper.make_node("MatMul", ["z", "c"], ["s"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "H", "W"]),
         helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N", 8]),
         helper.make_tensor_value_info("c", TensorProto.FLOAT, [5, "M"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "ys"],
        [numpy_helper.from_array(kernel, "k"), numpy_helper.from_array(matrix, "m")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    found = count(tmp_path / "m.onnx", {"H": 10, "W": 20, "N": 7, "M": 6})
    assert (found.weights, found.nonzero) == (108 + 40, 81 + 40)
    assert found.macs == 4 * 10 * 20 * 27 + 7 * 5 * 8 + 7 * 6 * 5
    assert count(tmp_path / "m.onnx", {"H": 10, "W": 20, "N": 7}).macs is None


def test_values_stand_in_the_lines_and_a_line_two_rows_share_runs_once(
        folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "rows.yaml").write_text(
        "values: {photos: my photos, steps: '7'}\nsteps: {first: ['train {photos}']}\nrows:\n"
        "- {title: a, bundle: a, make: ['{first}', 'go {steps}']}\n"
        "- {title: b, bundle: b, make: ['train {photos}']}\n")
    given = read_rows(folder / "rows.yaml", ["steps=2"])
    assert given.rows[0].make == ("train 'my photos'", "go 2") and given.rows[1].bundle == str(folder / "b")
    with pytest.raises(ConfigError, match="--folder .*x: no such folder"):
        read_rows(folder / "rows.yaml", folder=folder / "x")
    (folder / "x").mkdir()
    assert read_rows(folder / "rows.yaml", folder=folder / "x").rows[1].bundle == str(folder / "x" / "b")
    ran = []
    monkeypatch.setattr(command.subprocess, "run", lambda words, **_: ran.append(words[3:])
                        or type("Done", (), {"returncode": 0}))
    make_rows(given.rows, folder)
    assert ran == [["train", "my photos"], ["go", "2"]]
    for values, told in ((["width=2"], "rows.yaml: unknown value 'width' .known: photos, steps"), (["x"], "NAME=TEXT")):
        with pytest.raises(MatcherError, match=told):
            read_rows(folder / "rows.yaml", values)
    (folder / "rows.yaml").write_text("values: {a: b}\nsteps: {a: [c]}\nrows: [{title: a, bundle: a}]")
    with pytest.raises(MatcherError, match="rows.yaml: steps: 'a' is the name of a value as well"):
        read_rows(folder / "rows.yaml")
    (folder / "rows.yaml").write_text("rows: [{title: a, bundle: a, make: ['go {steps}']}]")
    with pytest.raises(MatcherError, match="rows.yaml: row 'a': 'go {steps}' names no value of the file"):
        read_rows(folder / "rows.yaml")


def tiny_steps() -> list[str]:
    """Values of the recipe that ships for runs of a step each, or of 3: past the end of a ramp."""
    names = yaml.safe_load(find_recipe("report-compression").read_text())["values"]
    ramps = "sparse_steps", "extractor_steps", "lighter_matcher_steps"
    return ["processes=1", *(f"{name}={3 if name in ramps else 1}" for name in names if name.endswith("_steps"))]


def test_every_row_that_ships_can_be_made(tmp_path: Path, textured_image: np.ndarray,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """The real commands on two images, a few steps each, with networks as small as the recipes allow."""
    import torch
    from typer.testing import CliRunner

    from efficient_matcher.commands.app import app
    from efficient_matcher.core.bundle import load_bundle
    from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig
    from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig
    from efficient_matcher.learn.weights import save_weights
    torch.manual_seed(0)
    point = SuperPointConfig((16, 16, 20, 32, 32, 48, 64, 96), 32, 64, 48, batch_norm=True, location_width=4)
    save_weights(tmp_path / "superpoint.safetensors", SuperPoint(point), {"licence": "mine"})
    glue = SuperGlueConfig(48, (8,), layers=1, heads=2, layer_hidden=(128, 128))
    save_weights(tmp_path / "superglue.safetensors", SuperGlue(glue), {"licence": "mine"})
    (tmp_path / "photos").mkdir()
    for index in range(2):
        cv2.imwrite(str(tmp_path / "photos" / f"{index}.png"), textured_image[::-1] if index else textured_image)
    monkeypatch.chdir(tmp_path)

    def in_process(words: list[str], **_: object) -> object:
        result = CliRunner().invoke(app, words[3:])
        assert result.exception is None, (words, result.exception, result.output)
        return type("Done", (), {"returncode": result.exit_code})

    monkeypatch.setattr(command.subprocess, "run", in_process)
    given = read_rows("report-compression", tiny_steps(), tmp_path)
    make_rows(given.rows, tmp_path)
    bundles = {row.title: load_bundle(row.bundle) for row in given.rows}
    assert len(bundles) == 21 and bundles["linear 8-bit"].card.matcher["precision"] == "int8"
    counts = {title: [count(bundle.path / name) for name in bundle.card.files if "matcher" in name]
              for title, bundle in bundles.items()}
    shares = {title: sum(entry.nonzero for entry in found) / sum(entry.weights for entry in found)
              for title, found in counts.items()}
    assert shares["dense"] > 0.9 and max(shares[title] for title in shares if "fine-grained" in title) < 0.5
    again = next(row for row in given.rows if row.title == "fine-grained, SuperGlue only")
    shutil.rmtree(again.bundle)  # as if stopped before the last line: the training before it is done, and goes on
    make_rows([again], tmp_path)
    sizes = [sum(entry.nonzero for entry in counts[again.title]), sum(
        count(Path(again.bundle) / name).nonzero for name in load_bundle(again.bundle).card.files if "matcher" in name)]
    assert sizes[0] == sizes[1]
