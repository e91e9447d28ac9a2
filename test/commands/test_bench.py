"""`bench` as it is called; what it measures is tested in test/evaluate."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from efficient_matcher.commands.bench import _read, _runtimes, run
from efficient_matcher.config import Config
from efficient_matcher.core import native
from efficient_matcher.errors import BundleError, ConfigError, SourceError
from efficient_matcher.evaluate.motion import moving_view


@pytest.fixture()
def config(tiny_bundle: Path) -> Config:
    return Config().with_values({"model.bundle": str(tiny_bundle), "model.threads": 1, "input.width": 320,
                                 "input.height": 240, "extract.max_keypoints": 64})


def test_report_holds_every_figure(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, frame in enumerate(moving_view(4, 320, 240)):
        cv2.imwrite(str(tmp_path / f"{index}.png"), frame)
    file = tmp_path / "report.json"
    run(config=config, images=tmp_path, rivals=(), rounds=1, frames=2, starts=1, json=file)
    report = json.loads(file.read_text())
    assert {"ratio_to_dense_torch", "tracked_frame_ms", "stages_ms", "peak_rss_mib", "first_result_s", "threads",
            "backend", "bundle", "settings", "machine"} <= set(report)
    assert report["ratio_to_dense_torch"] is None
    assert report["frames"]["count"] == 4 and report["frames"]["width"] == 320
    assert {"refine"} == set(report["refined"]["stages_ms"]) - set(report["stages_ms"])
    assert set(report["counted"]) == {"networks", "outside"}
    assert set(report["runtimes"]) == set(report["refined"]["runtimes"]) == {"onnxruntime"}
    assert report["loops"] == native.kind()
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{report['bundle']['hash'][:12]} on onnxruntime" in printed
    assert "tracked frame ms" in printed and "nobody else had a core" in printed and "with refinement ms" in printed and "inside the runtime" in printed


def test_the_report_says_which_weights_of_xfeat_these_were(config: Config, tmp_path: Path, xfeat_weights: Path) -> None:
    report = run(config=config.with_values({"refine.enabled": False}), rivals=(), rounds=1, frames=2, starts=1,
                 xfeat=xfeat_weights)
    assert report["weights"] == {"xfeat": hashlib.sha256(xfeat_weights.read_bytes()).hexdigest()}
    assert report["ratio_to_xfeat"] > 0


def test_runtimes_that_were_chosen_are_counted() -> None:
    assert _runtimes({"runtimes": ["onnxruntime"] * 7}) == "onnxruntime"
    assert _runtimes({"runtimes": ["openvino", "onnxruntime", "openvino"]}) == "2 x openvino, 1 x onnxruntime"


def test_missing_bundle_is_found_before_anything_runs() -> None:
    with pytest.raises(BundleError, match="nowhere"):
        run(config=Config().with_values({"model.bundle": "nowhere"}))


def test_folder_without_images(config: Config, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no images"):
        run(config=config, images=tmp_path)


def test_a_folder_of_images_may_be_called_like_a_bag(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "drive.bag"
    folder.mkdir()
    for index in range(2):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((32, 40), 50 * index, np.uint8))
    assert [frame.image.shape for frame in _read(folder, None, config)] == [(240, 320)] * 2


def test_unknown_rival(config: Config) -> None:
    with pytest.raises(ConfigError, match="xfeat"):
        run(config=config, rivals=("xfeat",))
