"""`prune` from weight files to smaller ones; every mistake one line, and nothing overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from efficient_matcher.cli import main
from efficient_matcher.learn.finetune_recipes import JointFinetuning, SuperGlueFinetuning, SuperPointFinetuning
from efficient_matcher.learn.pruning import RECIPES
from efficient_matcher.learn.recipe import SHIPPED, read_recipe, recipe_kind
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig
from efficient_matcher.learn.weights import load_superglue, load_superpoint, read_weights, save_weights


@pytest.fixture()
def weights(tmp_path: Path) -> list[str]:
    torch.manual_seed(0)
    paths = tmp_path / "superpoint.safetensors", tmp_path / "superglue.safetensors"
    save_weights(paths[0], SuperPoint(SuperPointConfig((8,) * 8, 8, 8, 16, True, 4)), {"licence": "mine"})
    save_weights(paths[1], SuperGlue(SuperGlueConfig(16, (8,), layers=1, heads=2)))
    return ["prune", "--superpoint", str(paths[0]), "--superglue", str(paths[1]), "--out", str(tmp_path / "out")]


def run(arguments: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr("sys.argv", ["efficient-matcher", *arguments])
        main()
    return int(caught.value.code or 0)


def test_magnitude_with_masks_as_zeros_and_a_note(weights: list[str], tmp_path: Path) -> None:
    assert run([*weights, "--ratio", "0.5", "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())["superpoint"]
    notes = read_weights(tmp_path / "out" / "superpoint.safetensors").notes
    assert notes["pruned"]["conv4b"] == 0.5 and notes["licence"] == "mine"
    assert report["after"]["nonzero_parameters"] < 0.6 * report["before"]["nonzero_parameters"]
    assert report["after"]["macs"] == report["before"]["macs"]


def test_channels_by_recipe_and_option(weights: list[str], tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("method: channel\nmultiple: 2\nsuperpoint: {sizes: {1a: 4}, layers: {'4*': 0.5}}\n"
                      "superglue: {sizes: {gnn.0.heads: 1}}\ndescriptors: 12\n")
    assert run([*weights, "--recipe", str(recipe), "--size", "gnn.1.hidden=20", "--size", "Pa=6"]) == 0
    small = load_superpoint(tmp_path / "out" / "superpoint.safetensors").config
    assert small.widths == (4, 8, 8, 8, 8, 8, 4, 4) and small.detector_width == 6 and small.descriptor_dim == 12
    glue = load_superglue(tmp_path / "out" / "superglue.safetensors").config
    assert glue.layer_heads == (1, 2) and glue.layer_hidden == (32, 20) and glue.descriptor_dim == 12


def test_descriptors_by_their_principal_components(weights: list[str], tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.png"), np.random.default_rng(0).integers(0, 256, (96, 128), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("efficient_matcher.learn.principal.BATCHES", 1)
        assert run([*weights, "--method", "channel", "--criterion", "principal", "--descriptors", "8", "--images",
                    str(tmp_path / "images")]) == 0
    told = capsys.readouterr().out
    assert 50 < float(told.split("8 components hold ")[1].split(" %")[0]) <= 100
    assert load_superpoint(tmp_path / "out" / "superpoint.safetensors").config.descriptor_dim == 8
    assert load_superglue(tmp_path / "out" / "superglue.safetensors").config.descriptor_dim == 8


@pytest.mark.parametrize("arguments, message", [
    (["--ratio", "1"], "superpoint.ratio must be below 1, got 1.0"),
    (["--ratio", "-0.1"], "superpoint.ratio must be at least 0, got -0.1"),
    (["--ratio", "0.999"], "all its"),
    (["--method", "channel", "--size", "5a=4"], "unknown layer '5a' (known: 1a"),
    (["--method", "channel", "--size", "4a=0"], "sizes.4a must be at least 1, got 0"),
    (["--method", "channel", "--size", "4a=99"], "4a: 99 is more than the 8 there are"),
    (["--method", "channel", "--ratio", "0.95"], "would leave it empty"),
    (["--method", "channel", "--target-macs", "5"], "cannot be met"),
    (["--method", "channel", "--criterion", "taylor", "--ratio", "0.5"], "needs training images"),
    (["--method", "channel", "--criterion", "principal", "--descriptors", "8"], "criterion principal needs training images"),
    (["--method", "channel", "--criterion", "principal", "--descriptors", "0"], "descriptors must be at least 1, got 0"),
    (["--method", "channel", "--criterion", "principal", "--ratio", "0.5"], "criterion principal is for descriptors alone"),
    (["--recipe", "nonesuch"], "neither a recipe file nor one that ships (finetune-both"),
    ([], "nothing to prune: give a recipe"),
    (["--size", "1a=8"], "--size belongs to --method channel, this is magnitude"),
    (["--ratio", "0.1", "--size", "1a=8"], "--size belongs to --method channel, this is magnitude"),
    (["--ratio", "0.1", "--target-macs", "1e9"], "--target-macs belongs to --method channel"),
    (["--method", "channel", "--ratio", "0.1", "--scope", "global"], "--scope belongs to --method magnitude"),
])
def test_mistakes_are_one_line_and_nothing_is_written(
        weights: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str,
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "superpoint.safetensors").write_text("older")
    assert run([*weights, "--overwrite", *arguments]) == 1
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert (tmp_path / "out" / "superpoint.safetensors").read_text() == "older"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["superpoint.safetensors"]


def test_an_earlier_result_is_not_overwritten_unasked(
        weights: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*weights, "--ratio", "0.5"]) == 0 and run([*weights, "--ratio", "0.6"]) == 1
    assert "superpoint.safetensors: exists already" in capsys.readouterr().err
    assert read_weights(tmp_path / "out" / "superpoint.safetensors").notes["pruned"]["conv4b"] == 0.5


def test_the_weights_it_begins_with_are_not_overwritten(weights: list[str], tmp_path: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    source = Path(weights[weights.index("--superpoint") + 1])
    before = source.read_bytes()
    folder = source.parent / "superpoint.safetensors"
    if folder != source:
        source.rename(folder)
    arguments = ["prune", "--superpoint", str(folder), "--ratio", "0.5", "--out", str(folder.parent), "--overwrite"]
    assert run(arguments) == 1 and "is what the work begins with" in capsys.readouterr().err
    assert folder.read_bytes() == before


def test_recipes_that_ship_are_of_their_kind() -> None:
    kinds = {"finetune-both": JointFinetuning, "finetune-small-extractor": SuperPointFinetuning,
             "finetune-sparse-extractor": SuperPointFinetuning, "finetune-sparse-matcher": SuperGlueFinetuning}
    for name, kind in kinds.items():
        assert read_recipe(SHIPPED / f"{name}.yaml", kind).loop.steps >= 1000
    for path in SHIPPED.glob("prune-*.yaml"):
        assert read_recipe(path, recipe_kind(path, RECIPES)).superglue is not None
