"""`train` from a folder of images to weight files that load."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
from efficient_matcher.commands.train import TrainOptions, run_locator, run_superglue, run_superpoint
from efficient_matcher.errors import MatcherError
from efficient_matcher.learn.weights import load_superglue, load_superpoint, read_weights, save_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(2):
        image = cv2.GaussianBlur(rng.integers(0, 256, (120, 160), np.uint8), (0, 0), 2)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX))
    (folder / "broken.png").write_text("no image")
    return folder


def test_both_networks_from_images_to_weights(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_superpoint(TrainOptions(folder, tmp_path / "sp", steps=1, pairs=1, processes=1,
                                         json=tmp_path / "report.json"))
    assert "broken.png (unreadable)" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["licence"] == "Apache-2.0"
    assert report["training"]["skipped_images"] == 1 and report["training"]["seed"] == 0
    weights = tmp_path / "sp" / "superpoint.safetensors"
    assert load_superpoint(weights).config.location_width > 0
    run_superglue(TrainOptions(folder, tmp_path / "sg", weights, steps=1, pairs=1, processes=1))
    first = tmp_path / "sg" / "superglue.safetensors"
    assert load_superglue(first).config.descriptor_dim == 128
    marked = load_superglue(first)
    marked.bin_score.data.fill_(3.0)
    save_weights(tmp_path / "marked.safetensors", marked, read_weights(first).notes)
    again = run_superglue(TrainOptions(folder, tmp_path / "again", weights, steps=1, pairs=1, processes=1,
                                       start=tmp_path / "marked.safetensors"))
    assert again["training"]["begun_with"] == read_weights(first).notes["training"]
    assert abs(load_superglue(tmp_path / "again" / "superglue.safetensors").bin_score.item() - 3.0) < 0.01


def test_a_recipe_goes_over_what_going_on_begins_with(folder: Path, tmp_path: Path) -> None:
    from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig
    network = SuperPointConfig((8,) * 8, 8, 8, 16, True, 4)
    save_weights(tmp_path / "sp.safetensors", SuperPoint(network))
    (tmp_path / "own.yaml").write_text("loop: {learning_rate: 3e-4, warmup_steps: 1}\nself_label_from: 0.3\n")
    report = run_superpoint(TrainOptions(folder, tmp_path / "run", steps=1, pairs=1, processes=1,
                                         start=tmp_path / "sp.safetensors", recipe=str(tmp_path / "own.yaml")))
    recipe = report["training"]["recipe"]
    assert (recipe["loop"]["learning_rate"], recipe["self_label_from"]) == (3e-4, 0.3)  # the recipe's
    assert (recipe["descriptor_scale"], recipe["reprojection_full"]) == (40.0, 0.0)  # those of trained weights
    assert recipe["network"]["widths"] == [8] * 8


def test_a_run_keeps_to_its_images_and_its_extractor(folder: Path, tmp_path: Path) -> None:
    from efficient_matcher.learn.superpoint import SuperPoint
    from efficient_matcher.learn.train_superpoint import COMPACT
    for name in ("one", "two"):
        save_weights(tmp_path / f"{name}.safetensors", SuperPoint(COMPACT))
    common = {"steps": 1, "pairs": 1, "processes": 1}
    run_superglue(TrainOptions(folder, tmp_path / "sg", tmp_path / "one.safetensors", **common))
    with pytest.raises(MatcherError, match=r"another configuration \(views_of:"):
        run_superglue(TrainOptions(folder, tmp_path / "sg", tmp_path / "two.safetensors", **common))
    run_superpoint(TrainOptions(folder, tmp_path / "sp", **common))
    with pytest.raises(MatcherError, match=r"another configuration \(images:"):
        run_superpoint(TrainOptions(folder, tmp_path / "sp", limit=1, **common))


def test_a_locator_from_weights_to_weights_that_have_it(folder: Path, tmp_path: Path) -> None:
    from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig
    network = SuperPoint(SuperPointConfig((8,) * 8, 8, 8, 16))
    save_weights(tmp_path / "sp.safetensors", network, {"licence": "mine", "training": {"seed": 7}})
    small = tmp_path / "small.yaml"
    small.write_text("{widths: [8], reach_px: 3, views: {width: 128, height: 96, views: 2}}")
    report = run_locator(TrainOptions(folder, tmp_path / "run", tmp_path / "sp.safetensors", recipe=str(small), steps=2,
                                      pairs=16, processes=1))
    located = load_superpoint(tmp_path / "run" / "superpoint.safetensors")
    assert located.config.locator_widths == (8,) and located.config.locator_reach_px == 3
    assert all((located.state_dict()[name] == value).all() for name, value in network.state_dict().items())
    assert report["licence"] == "mine" and report["training"]["command"] == "efficient-matcher train locator"
    assert report["training"]["begun_with"] == {"seed": 7} and report["training"]["recipe"]["pairs"] == 16
    with pytest.raises(MatcherError, match="needs the weights of a SuperPoint"):
        run_locator(TrainOptions(folder, tmp_path / "other", processes=1))
    with pytest.raises(MatcherError, match="is what the work begins with"):
        run_locator(TrainOptions(folder, tmp_path / "run", tmp_path / "run" / "superpoint.safetensors", processes=1))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MatcherError, match="nowhere: no such folder"):
        run_superpoint(TrainOptions(tmp_path / "nowhere", tmp_path / "run"))


def test_missing_extractor_weights_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MatcherError, match="none.safetensors: no such file"):
        run_superglue(TrainOptions(folder, tmp_path / "run", tmp_path / "none.safetensors", processes=1))
