"""`quantize --method linear` from weight files to a bundle that runs, and its refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("typer")

from typer.testing import CliRunner  # noqa: E402

from efficient_matcher import Matcher  # noqa: E402
from efficient_matcher.commands.app import app  # noqa: E402
from efficient_matcher.commands.quantize_linear import LinearOptions, run  # noqa: E402
from efficient_matcher.config import Config  # noqa: E402
from efficient_matcher.core.backend import agrees, open_model  # noqa: E402
from efficient_matcher.core.bundle import load_bundle  # noqa: E402
from efficient_matcher.errors import MatcherError  # noqa: E402
from efficient_matcher.learn.quantize import LinearRecipe  # noqa: E402
from efficient_matcher.learn.recipe import find_recipe, read_recipe  # noqa: E402
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig  # noqa: E402
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig  # noqa: E402
from efficient_matcher.learn.weights import save_weights  # noqa: E402

POINT = SuperPointConfig((4,) * 8, 8, 8, 16, location_width=4)
GLUE = SuperGlueConfig(descriptor_dim=16, keypoint_encoder=(8,), layers=2, heads=4, residual_init=True)
RECIPE = "calibration: mse\nimages: 2\nlimits: {shift_px: 9, lost: 1, descriptor: 9}\n" \
    "matcher: {limits: {matches: 1}}\n"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> LinearOptions:
    folder = tmp_path_factory.mktemp("quantize")
    torch.manual_seed(0)
    save_weights(folder / "point.safetensors", SuperPoint(POINT), {"licence": "Apache-2.0"})
    save_weights(folder / "glue.safetensors", SuperGlue(GLUE), {"licence": "Apache-2.0"})
    (folder / "images").mkdir()
    for index in range(2):
        image = np.random.default_rng(index).integers(0, 256, (60, 80), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{index}.png"), image)
    (folder / "recipe.yaml").write_text(RECIPE)
    return LinearOptions(folder / "point.safetensors", folder / "glue.safetensors", folder / "out",
                         folder / "images", recipe=str(folder / "recipe.yaml"))


def test_eight_bits_from_weights_to_a_bundle_that_runs(options: LinearOptions, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = run(replace(options, out=tmp_path / "small", picture=tmp_path / "ranges.png", json=tmp_path / "r.json"))
    bundle = load_bundle(tmp_path / "small")
    assert bundle.card.extractor["precision"] == bundle.card.matcher["precision"] == "int8"
    assert bundle.card.measured["quantization"]["matcher"]["damage"] == report["matcher"]["damage"]
    assert bundle.card.measured["quantization"]["calibration"] == "mse"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "r.json", "ranges-matcher.png", "ranges.png", "small"]
    for name in ("ranges", "ranges-matcher"):
        assert cv2.imread(str(tmp_path / f"{name}.png")).shape[2] == 3
    told = json.loads((tmp_path / "r.json").read_text())
    assert told["damage"] == report["damage"] and told["ranges"]["image/float"] == [0, 255]
    image = np.random.default_rng(5).integers(0, 256, (64, 96), np.uint8)
    assert Matcher.from_bundle(tmp_path / "small").match(image, image).features0.descriptors.shape[1] == 16


def test_a_locator_comes_along_with_its_weights_in_bytes(options: LinearOptions, tmp_path: Path) -> None:
    located = SuperPoint(replace(POINT, locator_widths=(16,), locator_reach_px=3))
    torch.nn.init.normal_(located.locator.layers[-1].weight, std=0.2)
    save_weights(tmp_path / "located.safetensors", located, {"licence": "Apache-2.0"})
    run(replace(options, superpoint=tmp_path / "located.safetensors", out=tmp_path / "small"))
    bundle = load_bundle(tmp_path / "small")
    assert bundle.card.extractor["locator_widths"] == [16]
    assert b"layers.0.weight.bytes" in bundle.locator.read_bytes()
    image = np.random.default_rng(5).integers(0, 256, (64, 96), np.uint8)
    plain, moved = (Matcher.from_bundle(tmp_path / "small", Config().with_values({"extract.locate": told})).extract(image)
                    for told in (False, True))
    assert len(plain) == len(moved) > 0
    assert 0.01 < np.abs(plain.keypoints - moved.keypoints).max() <= 3.01


def test_a_matcher_may_stay_float(options: LinearOptions, tmp_path: Path) -> None:
    report = run(replace(options, out=tmp_path / "small", float_matcher=True))
    card = load_bundle(tmp_path / "small").card
    assert report["matcher"] is None and card.matcher["precision"] == "float32"
    assert card.extractor["precision"] == "int8" and "matcher" not in card.measured["quantization"]


def test_both_layouts_are_written_and_each_is_told(options: LinearOptions, tmp_path: Path) -> None:
    recipe = tmp_path / "both.yaml"
    recipe.write_text(RECIPE + "layout: both\n")
    report = run(replace(options, out=tmp_path / "two", recipe=str(recipe)))
    bundle = load_bundle(tmp_path / "two")  # every hash is checked
    variant = bundle.variants["openvino"]
    told = bundle.card.measured["quantization"]
    assert told[variant.name]["damage"] == report["variants"][variant.name]["damage"]
    assert set(report["bytes"]) == set(bundle.card.files) > {"extractor.onnx", variant.name}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.yaml", "two"]  # no notes are left
    image = np.random.default_rng(5).integers(0, 256, (1, 1, 64, 96), np.uint8)
    first, second = (open_model(path, 1).run({"image": image}) for path in (bundle.extractor, variant))
    assert report["variants"][variant.name]["ranges"]["conv3a/relu"] == report["ranges"]["conv3a/relu"]
    assert agrees(second, first) and variant.read_bytes() != bundle.extractor.read_bytes()


def test_the_recipe_that_ships_writes_both_layouts() -> None:
    assert read_recipe(find_recipe("quantize-int8"), LinearRecipe).layout == "both"


@pytest.mark.parametrize("bits", [16, 4])
def test_stored_weights_alone_need_no_images(options: LinearOptions, tmp_path: Path, bits: int) -> None:
    report = run(replace(options, out=tmp_path / "small", images=None, bits=bits, recipe=None))
    bundle = load_bundle(tmp_path / "small")
    assert f"stored in {bits} bits" in str(bundle.card.extractor["precision"]) == str(bundle.card.matcher["precision"])
    assert report["bits"] == bits and "damage" not in report
    image = np.random.default_rng(5).integers(0, 256, (64, 96), np.uint8)
    Matcher.from_bundle(tmp_path / "small").match(image, image)


@pytest.mark.parametrize(("change", "told"), [
    ({"bits": 5}, "--bits must be one of 4, 8, 16 for --method linear, got 5"),
    ({"images": None}, "8 bits need --images"),
    ({"images": Path("nowhere")}, "nowhere: no such folder or file"),
    ({"topic": "/camera"}, "a topic belongs to a bag"),
    ({"bits": 4, "float_matcher": True, "images": None}, "--float-matcher belongs to 8 bits, these are 4"),
    ({"bits": 16, "picture": Path("ranges.png"), "images": None}, "--picture belongs to 8 bits, these are 16"),
    ({"recipe": "none.yaml"}, "none.yaml: cannot be read"),
    ({"superpoint": Path("none.safetensors")}, "none.safetensors: no such file")])
def test_bad_options_are_one_line(options: LinearOptions, tmp_path: Path, change: dict[str, object], told: str) -> None:
    with pytest.raises(MatcherError, match=told) as caught:
        run(replace(options, out=tmp_path / "small", **change))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("recipe", "told"), [
    ("wider: [conv9z]", "wider: unknown layer 'conv9z'"), ("matcher: {wider: [gnn.9]}", "matcher.wider: unknown layer 'gnn.9'"),
    ("bits: 3", "bits must be one of 4, 8, 16, got 3"),
    ("bitz: 8", "unknown key 'bitz'"), ("limits: {lost: 2}", "limits.lost must be at most 1")])
def test_bad_recipes_are_named(options: LinearOptions, tmp_path: Path, recipe: str, told: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(recipe + "\n" + ("images: 2\n" if "images" not in recipe else ""))
    with pytest.raises(MatcherError, match=told):
        run(replace(options, out=tmp_path / "small", recipe=str(path)))
    assert not (tmp_path / "small").exists()


def test_black_images_are_refused_and_nothing_is_left(options: LinearOptions, tmp_path: Path) -> None:
    (tmp_path / "black").mkdir()
    cv2.imwrite(str(tmp_path / "black" / "0.png"), np.zeros((60, 80), np.uint8))
    with pytest.raises(MatcherError, match="of one brightness all over"):
        run(replace(options, out=tmp_path / "small", images=tmp_path / "black"))
    assert [path.name for path in tmp_path.iterdir()] == ["black"]


def test_a_folder_of_something_else_is_not_touched(options: LinearOptions, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MatcherError, match="exists and is not a bundle"):
        run(replace(options, out=tmp_path))


def test_options_of_the_other_method_are_refused(options: LinearOptions, tmp_path: Path) -> None:
    common = ["quantize", "--superpoint", str(options.superpoint), "--superglue", str(options.superglue),
              "--out", str(tmp_path / "b")]
    for extra, told in ((["--method", "linear", "--layer", "conv1a=4"], "--layer and --weights belong"),
                        (["--images", str(tmp_path)], "--images, --topic, --picture and --float-matcher belong")):
        result = CliRunner().invoke(app, [*common, *extra])
        assert result.exit_code == 1 and told in result.output + getattr(result, "stderr", "")
