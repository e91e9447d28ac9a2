"""`finetune` from weight files and images to weight files."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from efficient_matcher.commands.finetune import FinetuneOptions, parse_sizes, run
from efficient_matcher.errors import MatcherError
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig
from efficient_matcher.learn.weights import load_superpoint, read_weights, save_weights

QUICK = "loop: {warmup_steps: 1}\npairs: {width: 96, height: 64, pairs: 1}\ntask: 0\n"


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (100, 140), np.uint8), (0, 0), 2)
    cv2.imwrite(str(tmp_path / "images" / "0.png"), image)
    torch.manual_seed(0)
    save_weights(tmp_path / "sp.safetensors", SuperPoint(SuperPointConfig((8,) * 8, 8, 8, 16, True, 4)),
                 {"licence": "mine", "training": {"data": "theirs"}})
    save_weights(tmp_path / "sg.safetensors", SuperGlue(SuperGlueConfig(16, (8,), layers=1, heads=2)))
    save_weights(tmp_path / "other.safetensors", SuperGlue(SuperGlueConfig(8, (8,), layers=1, heads=2)))
    (tmp_path / "quick.yaml").write_text(QUICK)
    return tmp_path


def test_a_smaller_extractor_from_its_teacher_alone(folder: Path) -> None:
    sizes = parse_sizes("8,8,4,8,8,8,8,8", ["Pa=6"])
    report = run(FinetuneOptions(folder / "images", folder / "run", teacher_superpoint=folder / "sp.safetensors",
                                 recipe=str(folder / "quick.yaml"), sizes=sizes, steps=2, processes=1), "superpoint")
    config = load_superpoint(folder / "run" / "superpoint.safetensors").config
    assert config.widths == (8, 8, 4, 8, 8, 8, 8, 8) and config.detector_width == 6
    notes = report["superpoint"]
    assert notes["licence"] == "mine" and notes["training"]["begun_with"] == {"data": "theirs"}
    assert notes["training"]["recipe"]["loop"]["steps"] == 2 and notes["training"]["teacher"] is True


def test_both_networks_together(folder: Path) -> None:
    run(FinetuneOptions(folder / "images", folder / "run", folder / "sp.safetensors", folder / "sg.safetensors",
                        recipe=str(folder / "quick.yaml"), steps=1, processes=1), "both")
    assert read_weights(folder / "run" / "superglue.safetensors").notes["training"]["command"].endswith("finetune both")


def test_a_pair_with_wider_descriptors_teaches_both(folder: Path) -> None:
    save_weights(folder / "wide.safetensors", SuperPoint(SuperPointConfig((8,) * 8, 8, 8, 32, True, 4)))
    save_weights(folder / "wide_sg.safetensors", SuperGlue(SuperGlueConfig(32, (8,), layers=1, heads=2)))
    report = run(FinetuneOptions(
        folder / "images", folder / "run", folder / "sp.safetensors", folder / "sg.safetensors",
        folder / "wide.safetensors", folder / "wide_sg.safetensors", str(folder / "quick.yaml"), steps=1, processes=1), "both")
    assert report["superglue"]["training"]["teacher"] is True
    log = json.loads((folder / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert log["distilled_descriptors"] > 0 and log["distilled_assignment"] > 0


def test_a_matcher_learns_the_features_of_several_extractors(folder: Path) -> None:
    from typer.testing import CliRunner

    from efficient_matcher.commands.app import app
    save_weights(folder / "narrow.safetensors", SuperPoint(SuperPointConfig((8,) * 8, 8, 8, 16, True, 4)))
    (folder / "glue.yaml").write_text("views: {width: 96, height: 64, views: 2, keypoints: 8}\nkeypoints: 8\npairs: 1\n")
    words = ["finetune", "superglue", "--superpoint", "sp.safetensors", "--superpoint", "narrow.safetensors", "--superglue",
             "sg.safetensors", "--images", "images", "--recipe", "glue.yaml", "--out", "run"]
    words = [str(folder / word) if "." in word or word in ("images", "run") else word for word in words]
    result = CliRunner().invoke(app, [*words, "--steps", "1", "--processes", "1"])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (folder / "run").glob("views*")) == [
        "views-0-of-1.safetensors", "views1-0-of-1.safetensors"]
    del words[4:6]  # without the second one it is another run
    again = CliRunner().invoke(app, [*words, "--steps", "1", "--processes", "1"])
    assert again.exit_code == 1 and "checkpoint.pt: belongs to another configuration (start:" in again.output


@pytest.mark.parametrize("options, what, message", [
    (dict(), "superpoint", "no weights of superpoint to begin with"),
    (dict(superpoint="sp.safetensors", sizes={"7": 1}), "superpoint", "unknown layer '7'"),
    (dict(superpoint="sp.safetensors", superglue="other.safetensors"), "superglue",
     "descriptors have 16 numbers, the matcher takes 8"),
    (dict(superpoint="sg.safetensors"), "superpoint", "holds a superglue, not a superpoint"),
    (dict(superpoint="sp.safetensors", superglue="sg.safetensors", teacher_superglue="sg.safetensors"), "both",
     "both networks need a teacher, or neither"),
    (dict(superpoint="sp.safetensors", superglue="sg.safetensors", teacher_superpoint="wide.safetensors",
          teacher_superglue="sg.safetensors"), "both", "the teacher's descriptors have 32 numbers, its matcher takes 16"),
    (dict(superpoint="sp.safetensors", recipe="quick.yaml"), "superpoint", "without a teacher, with weight 0"),
    (dict(superpoint="sp.safetensors", recipe="mixed.yaml", sizes={"4a": 4}), "superpoint", "start_share mixes two"),
    (dict(superpoint="sp.safetensors", recipe="seeded.yaml"), "superpoint", "loop.seed: 5 in the recipe"),
    (dict(superpoint="sp.safetensors", labels="typo.npz"), "superpoint", "typo.npz: no such file of labels"),
    (dict(superpoint="sp.safetensors", recipe="scenes.yaml"), "superpoint", "scenes_share: takes two pairs"),
    (dict(superpoint="sp.safetensors", recipe="regrown.yaml"), "superpoint", "regrow: the weights to begin with have no"),
    (dict(superpoint="sp.safetensors", recipe="wider.yaml"), "superpoint", "wider: 4a: 2 is less than the"),
    (dict(superpoint="run/superpoint.safetensors"), "superpoint", "is what the work begins with"),
])
def test_mistakes_are_one_line(folder: Path, options: dict, what: str, message: str) -> None:
    save_weights(folder / "wide.safetensors", SuperPoint(SuperPointConfig((8,) * 8, 8, 8, 32, True, 4)))
    (folder / "mixed.yaml").write_text("start_share: 0.5\n")
    (folder / "seeded.yaml").write_text("loop: {seed: 5}\n")
    (folder / "scenes.yaml").write_text(QUICK.replace("task: 0", "task: 1") + "scenes_share: 0.5\n")
    (folder / "regrown.yaml").write_text("regrow: {every: 1}\n")
    (folder / "wider.yaml").write_text("wider: {4a: 2}\n")
    (folder / "run").mkdir()
    (folder / "run" / "superpoint.safetensors").write_bytes((folder / "sp.safetensors").read_bytes())
    paths = {key: folder / value if key != "sizes" else value for key, value in options.items()}
    with pytest.raises(MatcherError, match=message) as told:
        run(FinetuneOptions(folder / "images", folder / "run", processes=1, steps=1, **paths), what)
    assert "\n" not in str(told.value)
    assert (folder / "run" / "superpoint.safetensors").read_bytes() == (folder / "sp.safetensors").read_bytes()


def test_sizes_are_eight_numbers() -> None:
    assert parse_sizes("1,2,3,4,5,6,7,8", ["location=4"]) == {
        "1a": 1, "1b": 2, "2a": 3, "2b": 4, "3a": 5, "3b": 6, "4a": 7, "4b": 8, "location": 4}
    for wrong in (("1,2", None), (None, ["Pa"]), (None, ["Pa=x"])):
        with pytest.raises(MatcherError, match="eight whole numbers"):
            parse_sizes(*wrong)
