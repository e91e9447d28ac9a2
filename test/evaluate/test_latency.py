"""The bench: that contestants run, alone and without torch, and that figures add up. Never how fast."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from efficient_matcher.config import Config
from efficient_matcher.errors import MatcherError
from efficient_matcher.evaluate import latency
from efficient_matcher.evaluate.bench_worker import FrameFile, peak_rss_mib
from efficient_matcher.evaluate.disturbance import Yardstick, taken
from efficient_matcher.evaluate.latency import BenchPlan, Contestant, Record, bench, spread, turns
from efficient_matcher.evaluate.motion import moving_view


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return moving_view(6, 320, 240)


@pytest.fixture(scope="module")
def config(tiny_bundle: Path) -> Config:
    return Config().with_values({"model.bundle": str(tiny_bundle), "model.threads": 1, "input.width": 320,
                                 "input.height": 240, "extract.max_keypoints": 64})


@pytest.fixture()
def job(frames: list[np.ndarray], config: Config, tmp_path: Path) -> Iterator[dict]:
    yield {"frames": latency._write_frames(frames, tmp_path), "shape": (6, 240, 320), "threads": 1,
           "settings": config.values()}


def test_figures_of_a_small_run(frames: list[np.ndarray], config: Config) -> None:
    plan = BenchPlan(rivals=("orb",), rounds=2, frames=3, starts=1)
    taken: list[str] = []
    figures = bench(frames, config, plan, taken.append)
    assert taken == ["ours", "refined", "orb", "refined", "orb", "ours"]
    assert len(taken) == turns(plan, config)
    assert figures["tracked_frame_ms"]["frames"] == 6
    assert 0 < figures["tracked_frame_ms"]["median"] <= figures["tracked_frame_ms"]["p99"]
    assert figures["yardstick_ms"]["frames"] == 6 and figures["yardstick_ms"]["median"] > 0
    assert set(figures["stages_ms"]) >= {"extract", "match", "homography"}
    assert sum(stage["median"] for stage in figures["stages_ms"].values()) < 2 * figures["tracked_frame_ms"]["p99"]
    assert figures["torch_in_process"] is False
    assert 20 < figures["peak_rss_mib"] < 4000
    assert figures["first_result_s"] > 0 and figures["threads"] == 1
    assert figures["keypoints"] == 64 and figures["matches"] > 20
    rival = figures["rivals"]["orb"]["tracked_frame_ms"]["median"]
    assert figures["ratio_to_orb"] == pytest.approx(rival / figures["tracked_frame_ms"]["median"])
    assert figures["ratio_to_dense_torch"] is None
    refined = figures["refined"]
    assert "refine" not in figures["stages_ms"] and refined["stages_ms"]["refine"]["median"] > 0
    assert refined["ratio_to_orb"] == pytest.approx(rival / refined["tracked_frame_ms"]["median"])
    assert refined["ratio_to_dense_torch"] is None and refined["tracked_frame_ms"]["frames"] == 6


def test_without_refinement_there_is_one_way_to_run_the_bundle(frames: list[np.ndarray], config: Config) -> None:
    taken: list[str] = []
    plain, plan = config.with_values({"refine.enabled": False}), BenchPlan(rivals=(), rounds=1, frames=2, starts=1)
    figures = bench(frames, plain, plan, taken.append)
    assert taken == ["ours"] and turns(plan, plain) == 1
    assert "refined" not in figures and figures["tracked_frame_ms"]["frames"] == 2


def test_frames_somebody_else_disturbed_are_told_apart() -> None:
    times = [{"total": 10.0 + 90 * (index % 10 == 0), "disturbed": float(index % 10 == 0)} for index in range(100)]
    figures = Record(times=times).summary()
    assert figures["tracked_frame_ms"]["p99"] == 100 and figures["tracked_frame_ms"]["frames"] == 100
    assert figures["undisturbed_ms"] == {"median": 10, "p99": 10, "p99_over_median": 1, "frames": 90}
    assert "disturbed" not in figures["stages_ms"]
    assert Record(times=times[:1]).summary()["undisturbed_ms"] == {"frames": 0}


def test_frames_beside_which_fixed_work_took_longer_are_told_apart() -> None:
    slow = [index % 10 == 0 for index in range(100)]
    times = [{"total": 10.0 + 20 * bad, "disturbed": 0.0, "yardstick": 0.2 + 0.1 * bad} for bad in slow]
    figures = Record(times=times).summary()
    assert figures["undisturbed_ms"] == {"median": 10, "p99": 10, "p99_over_median": 1, "frames": 90}
    assert figures["yardstick_ms"]["p99_over_median"] == pytest.approx(1.5) and figures["yardstick_ms"]["frames"] == 100
    assert "yardstick" not in figures["stages_ms"]


def test_fixed_work_takes_time() -> None:
    assert Yardstick().ms() > 0


def test_what_is_taken_only_grows() -> None:
    first, second = taken(), taken()
    assert all(later >= earlier >= 0 for earlier, later in zip(first, second))


def test_dense_networks_are_left_out_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency.importlib.util, "find_spec", lambda name: None)
    plan = BenchPlan(("dense_torch", "sift"))
    assert latency._available(plan) == (["sift"], {"dense_torch": "torch is not installed"})


def test_xfeat_takes_part_in_the_runtimes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency.importlib.util, "find_spec", lambda name: None if name == "onnx" else name)
    plan = BenchPlan(("sift",), xfeat=Path("xfeat.pt"))
    assert latency._available(plan) == (["sift", "xfeat"], {"xfeat_onnxruntime": "onnx is not installed"})
    assert latency._available(BenchPlan(("sift",))) == (["sift"], {})


def test_xfeat_is_a_rival(frames: list[np.ndarray], config: Config, xfeat_weights: Path) -> None:
    pytest.importorskip("onnx")
    plan = BenchPlan(rivals=(), rounds=1, frames=2, starts=1, xfeat=xfeat_weights)
    figures = bench(frames, config.with_values({"refine.enabled": False}), plan)
    assert set(figures["rivals"]) == {"xfeat", "xfeat_onnxruntime"} and figures["skipped"] == {}
    for name, rival in figures["rivals"].items():
        assert rival["keypoints"] == 64 and rival["matches"] > 0
        assert set(rival["stages_ms"]) == {"extract", "match", "homography"}
        ratio = rival["tracked_frame_ms"]["median"] / figures["tracked_frame_ms"]["median"]
        assert figures[f"ratio_to_{name}"] == pytest.approx(ratio)


def test_missing_bundle_is_one_clear_line(frames: list[np.ndarray], config: Config) -> None:
    broken = config.with_values({"model.bundle": "nowhere"})
    with pytest.raises(MatcherError, match="ours: nowhere: no such bundle"):
        bench(frames, broken, BenchPlan(rivals=(), starts=1))


def test_worker_that_dies_is_reported_with_its_last_words(job: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    with Contestant("orb", job) as contestant:
        contestant._process.kill()
        contestant._process.wait()
        with pytest.raises(MatcherError, match="orb: its process ended"):
            contestant.turn(1)


def test_worker_ends_with_its_block(job: dict) -> None:
    with Contestant("orb", job) as contestant:
        assert len(contestant.turn(2)) == 2
    assert contestant._process.returncode == 0


@pytest.mark.parametrize("given", [[], [np.zeros((8, 8), np.uint8)]])
def test_too_few_frames(given: list[np.ndarray], config: Config, tmp_path: Path) -> None:
    with pytest.raises(MatcherError, match="at least two frames"):
        latency._write_frames(given, tmp_path)


def test_frames_of_two_sizes(tmp_path: Path) -> None:
    with pytest.raises(MatcherError, match="differ in size"):
        latency._write_frames([np.zeros((8, 8), np.uint8), np.zeros((8, 16), np.uint8)], tmp_path)


def test_frame_file_walks_to_and_fro(tmp_path: Path) -> None:
    stack = np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((3, 2, 4), np.uint8)
    stack.tofile(tmp_path / "frames.raw")
    file = FrameFile(str(tmp_path / "frames.raw"), (3, 2, 4))
    walked = [file.read() for _ in range(6)]
    assert [int(frame[0, 0]) for frame in walked] == [0, 1, 2, 1, 0, 1]
    assert walked[0].shape == (2, 4)


def test_spread() -> None:
    assert spread([1.0, 2.0, 9.0])["median"] == 2.0
    assert spread(list(range(101)))["p99"] == pytest.approx(99.0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the kernel's own mark")
def test_peak_memory_is_at_least_what_is_held() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert peak_rss_mib() * 1.01 >= pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
