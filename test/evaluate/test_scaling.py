"""Tables of how the cost grows: what is varied, that every kind of variant runs, that ratios add up."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from efficient_matcher.config import Config
from efficient_matcher.errors import ConfigError, MatcherError
from efficient_matcher.evaluate.bench_deployed import Ahead, Cameras, Collections, Deployed
from efficient_matcher.evaluate.latency import BenchPlan, Record
from efficient_matcher.evaluate.motion import moving_view
from efficient_matcher.evaluate.scaling import Variant, chosen, growth, measure, tables
from efficient_matcher.evaluate.scaling_plot import plot_scaling

SETTINGS = {"model.threads": 2, "input.width": 160, "input.height": 120, "extract.max_keypoints": 64}


@pytest.fixture()
def config(tiny_bundle: Path) -> Config:
    return Config().with_values({**SETTINGS, "model.bundle": str(tiny_bundle)})


def test_every_table_has_one_reference(config: Config) -> None:
    found = tables(config)
    assert list(found) == ["keypoints", "resolution", "threads", "cameras", "backend", "overlap"]
    for variants in found.values():
        assert sum(variant.reference for variant in variants) == 1
        assert len({variant.label for variant in variants}) == len(variants)
    assert [variant.value for variant in found["keypoints"]] == [128, 256, 512, 1024, 2048]
    assert [variant.settings["model.threads"] for variant in found["threads"]] == [1, 2]
    assert found["resolution"][0].label == "320x240" and found["resolution"][-1].label == "1280x720"


def test_an_unknown_table(config: Config) -> None:
    assert list(chosen(["cameras"], config)) == ["cameras"]
    with pytest.raises(ConfigError, match="unknown table 'colours', known: keypoints, "):
        chosen(["colours"], config)


def test_rows_of_a_small_run(config: Config) -> None:
    variants = [Variant("one", 1, {}, reference=True), Variant("two cameras", 2, {}, cameras=2)]
    taken: list[str] = []
    rows = measure("cameras", variants, config, BenchPlan((), 2, 2), taken.append)
    assert taken == ["one", "two cameras", "two cameras", "one"]
    assert [row["label"] for row in rows] == ["one", "two cameras"] and rows[0]["ratio"] == 1
    assert rows[1]["ratio"] == pytest.approx(growth(rows, 1, 2))
    assert all(row["tracked_frame_ms"]["frames"] == 4 and row["matches"] > 10 for row in rows)
    assert [row["threads_per_network"] for row in rows] == [2, 1]
    assert 0 < rows[0]["outside_networks_share"] < 1 and rows[0]["networks_ms"]["median"] > 0
    assert rows[0]["gc"]["longest_ms"] <= rows[0]["gc"]["total_ms"]


def test_a_variant_that_fails_is_named(config: Config) -> None:
    variants = [Variant("lost", 1, {"model.bundle": "nowhere"}, reference=True)]
    with pytest.raises(MatcherError, match="cameras: bench: lost: nowhere: no such bundle"):
        measure("cameras", variants, config, BenchPlan((), 1, 1))


@pytest.fixture()
def job(config: Config, monkeypatch: pytest.MonkeyPatch) -> dict:
    from efficient_matcher.core import runtimes
    for kind in (runtimes.OnnxRuntime, runtimes.OpenVino):
        monkeypatch.setattr(kind, "run", kind.run)  # the clock is taken off again
    monkeypatch.setattr(gc, "callbacks", [])
    return {"settings": config.values(), "threads": 2}


def test_every_way_of_running_finds_the_same_matches(job: dict) -> None:
    frames = moving_view(4, 160, 120)
    found = {}
    for name, extra in {"one": {}, "ahead": {"overlap": True}, "cameras": {"cameras": 2}}.items():
        deployed = Deployed({**job, **extra})
        times = [deployed.process(frame) for frame in frames]
        assert times[0] is None and times[-1]["total"] > 0
        found[name] = deployed.facts()["matches"]
        frames = frames if name != "one" else [*frames, frames[-1]]  # ahead is one frame behind
    assert found["one"] == found["ahead"] and found["one"] > 10
    assert isinstance(deployed.process.__self__, Cameras) and not isinstance(deployed.process.__self__, Ahead)


def test_collections_are_counted() -> None:
    pauses = Collections()
    gc.unfreeze()  # what a test before this one may have left
    gc.callbacks.append(pauses)
    try:
        gc.collect()
        assert pauses.facts() == {"pauses": 0, "longest_ms": 0.0, "total_ms": 0.0}
        gc.freeze()
        gc.collect()
    finally:
        gc.callbacks.remove(pauses)
        gc.unfreeze()
    assert pauses.facts()["pauses"] >= 1 and pauses.facts()["longest_ms"] > 0


def test_shares_and_spreads_of_a_record() -> None:
    record = Record([{"extract": 6.0, "networks": 8.0, "total": 10.0}, {"extract": 8.0, "refine": 2.0, "networks": 9.0,
                                                                       "total": 10.0}])
    summary = record.summary()
    assert record.median_ms == 10 and summary["outside_networks_share"] == pytest.approx(0.15)
    assert list(summary["stages_ms"]) == ["extract", "refine"] and summary["networks_ms"]["median"] == 8.5
    assert summary["tracked_frame_ms"]["p99_over_median"] == 1


def test_the_plot_is_a_picture() -> None:
    pytest.importorskip("matplotlib")
    rows = [{"value": value, "label": str(value), "tracked_frame_ms": {"median": value, "p99": 2 * value},
             "stages_ms": {"extract": {"median": value / 2}, "other": {"median": 0}}} for value in (1, 2)]
    content = plot_scaling({"keypoints": rows, "cameras": rows, "backend": rows}, "made up")
    assert content.startswith(b"\x89PNG") and len(content) > 5000
    assert growth([], 1, 2) is None and np.isclose(growth(rows, 1, 2), 2)
