"""`bench scaling` and `bench roofline` as they are called; what they measure is tested in test/evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from efficient_matcher.commands import bench_roofline, bench_scaling
from efficient_matcher.config import Config
from efficient_matcher.core.bundle import load_bundle
from efficient_matcher.errors import BundleError, ConfigError
from efficient_matcher.evaluate.roofline import Machine


@pytest.fixture()
def config(tiny_bundle: Path) -> Config:
    return Config().with_values({"model.bundle": str(tiny_bundle), "model.threads": 1, "input.width": 160,
                                 "input.height": 120, "extract.max_keypoints": 32})


def test_roofline_report(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                         capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setattr(bench_roofline, "measure_machine", lambda threads: Machine(100.0, 300.0, 10.0))
    bench_roofline.run(config=config, json=tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    extractor, matcher = report["networks"]
    assert (extractor["name"], matcher["name"]) == ("extractor", "matcher")
    assert matcher["operations"] >= 2 * 32 * 32 * 49 and matcher["best_ms"] > 0
    assert extractor["least_ms"] == pytest.approx(sum(kind["least_ms"] for kind in extractor["kinds"]))
    assert extractor["share_of_peak"] == pytest.approx(extractor["least_ms"] / extractor["best_ms"])
    assert "100 GFLOP/s" in capsys.readouterr().out.replace("\n", " ")


def test_scaling_report(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                        capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")

    def measured(name: str, variants: list, *_: object) -> list[dict]:
        return [{"label": entry.label, "value": entry.value, "ratio": 1.0, "peak_rss_mib": 100.0, "keypoints": 5,
                 "tracked_frame_ms": {"median": entry.value, "p99": 2 * entry.value}, "stages_ms": {}}
                for entry in variants]

    monkeypatch.setattr(bench_scaling, "measure", measured)
    bench_scaling.run(config=config, names=["keypoints", "cameras"], json=tmp_path / "s.json", plot=tmp_path / "s.png")
    report = json.loads((tmp_path / "s.json").read_text())
    assert list(report["tables"]) == ["keypoints", "cameras"]
    assert (report["growth_512_to_1024"], report["cameras_4_to_1"]) == (2, 4)
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert "2048" in capsys.readouterr().out


def test_what_is_wrong_is_found_before_anything_runs(config: Config) -> None:
    with pytest.raises(ConfigError, match="unknown table 'colours'"):
        bench_scaling.run(config=config, names=["colours"])
    for run in (bench_scaling.run, bench_roofline.run):
        with pytest.raises(BundleError, match="nowhere"):
            run(config=config.with_values({"model.bundle": "nowhere"}))


def test_the_roofline_looks_at_every_network_of_a_bundle() -> None:
    bundle = load_bundle("fast")
    names = [path.name for path, _ in bench_roofline._networks(bundle, Config())]
    assert names == ["extractor.onnx", "locator.onnx", *(path.name for path in bundle.matcher)]
