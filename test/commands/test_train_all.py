"""The whole training by one command: shapes, detector, its labels, both networks, both together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from efficient_matcher.commands.train import TrainOptions, run_superpoint
from efficient_matcher.commands.train_all import ChainOptions, run
from efficient_matcher.errors import MatcherError
from efficient_matcher.learn.weights import load_superglue, load_superpoint, read_weights

NETWORK = "{widths: [8, 8, 8, 8, 8, 8, 8, 8], detector_width: 8, descriptor_width: 8, descriptor_dim: 16}"
RECIPE = f"""
detector:
  network: {NETWORK}
  loop: {{steps: 2, warmup_steps: 1}}
  pairs: {{width: 96, height: 64, pairs: 2}}
  shapes: {{drawings: 4, width: 160, height: 120}}
adaptation: {{votes: {{warps: 2}}, threshold: 0.0, points: 50}}
superpoint:
  network: {NETWORK}
  loop: {{steps: 2, warmup_steps: 1}}
  pairs: {{width: 96, height: 64, pairs: 1}}
superglue:
  network: {{descriptor_dim: 16, keypoint_encoder: [8], layers: 1, heads: 2, residual_init: true}}
  loop: {{steps: 2, warmup_steps: 1}}
  views: {{width: 96, height: 64, views: 3, keypoints: 20}}
  keypoints: 20
  pairs: 1
both:
  loop: {{steps: 2, warmup_steps: 1}}
  pairs: {{width: 96, height: 64, pairs: 1}}
  keypoints: 20
"""


@pytest.fixture()
def options(tmp_path: Path) -> ChainOptions:
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for index in range(2):
        image = cv2.GaussianBlur(rng.integers(0, 256, (100, 140), np.uint8), (0, 0), 2)
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX))
    (tmp_path / "quick.yaml").write_text(RECIPE)
    return ChainOptions(tmp_path / "images", tmp_path / "run", recipe=str(tmp_path / "quick.yaml"), processes=1,
                        json=tmp_path / "report.json")


def test_every_stage_feeds_the_next_and_none_is_done_twice(
        options: ChainOptions, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(options)
    folders = ("both", "detector", "superglue", "superpoint")
    assert tuple(sorted(path.name for path in options.out.iterdir() if path.is_dir())) == folders
    notes = {name: read_weights(options.out / name / f"{name}.safetensors").notes["training"] for name in folders[1:]}
    assert notes["detector"]["data"] == "synthetic shapes" and notes["superpoint"]["labels"].startswith("adapted ")
    assert notes["detector"]["recipe"]["descriptor_weight"] == 0
    final = [Path(path) for path in report["weights"]]
    assert load_superpoint(final[0]).config.descriptor_dim == load_superglue(final[1]).config.descriptor_dim == 16
    made = load_superpoint(final[0]).state_dict()
    final[1].unlink()  # as if stopped between the two
    (options.out / "both" / "checkpoint.pt").rename(options.out / "both" / "other.pt")
    capsys.readouterr()
    run(options)
    assert capsys.readouterr().out.count("done before") == 3
    again = load_superpoint(final[0]).state_dict()
    assert final[1].exists() and all(torch.equal(made[key], again[key]) for key in made)
    (options.out.parent / "other.yaml").write_text(RECIPE + "labels: sift\n")
    with pytest.raises(MatcherError, match="another recipe .recipe.labels: adapted there, sift here."):
        run(ChainOptions(options.images, options.out, recipe=str(options.out.parent / "other.yaml")))


def test_images_that_are_not_there_are_told_before_the_first_stage_which_needs_none(options: ChainOptions) -> None:
    with pytest.raises(MatcherError, match="no such folder"):
        run(replace(options, images=options.images / "typo"))
    assert not (options.out / "recipe.json").exists()


@pytest.mark.parametrize("how, message", [
    (dict(labels="adapted"), "adapted labels need --detector"),
    (dict(detector=Path("x.safetensors")), "--detector belongs to --labels adapted"),
    (dict(topic="/camera"), "a topic belongs to a bag"),
    (dict(precision="fp16"), "precision one of fp32, bf16"),
    (dict(recipe="nonsense"), "neither a recipe file nor one that ships"),
])
def test_mistakes_are_told_before_anything_is_made(options: ChainOptions, how: dict, message: str) -> None:
    with pytest.raises(MatcherError, match=message):
        run_superpoint(TrainOptions(options.images, options.out, **how))
    assert not options.out.exists()
