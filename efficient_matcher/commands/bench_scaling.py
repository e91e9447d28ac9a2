"""`bench scaling`: how the cost of a tracked frame grows, as tables, a report and a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import efficient_matcher
from efficient_matcher.commands.bench import machine_facts, progress
from efficient_matcher.commands.common import print_table
from efficient_matcher.config import Config
from efficient_matcher.core.backend import available_threads
from efficient_matcher.core.bundle import load_bundle
from efficient_matcher.evaluate.latency import BenchPlan
from efficient_matcher.evaluate.scaling import chosen, growth, measure
from efficient_matcher.evaluate.scaling_plot import plot_scaling
from efficient_matcher.files import write_bytes_atomic, write_json
from efficient_matcher.ros.messages import model_hash

COLUMNS = ("median ms", "p99 ms", "ratio", "networks ms", "keypoints", "peak MiB")


def run(*, config: Config = Config(), names: Sequence[str] = (), rounds: int = 8, frames: int = 6,
        json: Path | None = None, plot: Path | None = None) -> dict[str, Any]:
    """Measure the tables of these names (all unless given), print them, write report and plot; returns the report.

    rounds, frames: turns of each variant, and frames timed a turn. Raises MatcherError.
    """
    wanted = chosen(names, config)
    bundle, facts = load_bundle(config.model.bundle), machine_facts()
    plan = BenchPlan((), rounds, frames)
    figures = {}
    with progress(rounds * sum(map(len, wanted.values()))) as on_turn:
        for name, variants in wanted.items():
            figures[name] = measure(name, variants, config, plan, on_turn)
    threads = config.model.threads or available_threads()
    report = {"command": "bench scaling", "version": efficient_matcher.__version__, "threads": threads,
              "backend": config.model.backend, "tables": figures, "growth_512_to_1024": growth(
                  figures.get("keypoints", ()), 512, 1024), "cameras_4_to_1": growth(figures.get("cameras", ()), 1, 4),
              "bundle": {"name": bundle.card.name, "hash": model_hash(bundle.card)}, "plan": vars(plan),
              "settings": config.values(), "machine": facts}
    for name, rows in figures.items():
        print_table(name, map(_cells, rows), COLUMNS)
    _write(report, json, plot)
    return report


def _write(report: dict[str, Any], json: Path | None, plot: Path | None) -> None:
    if json is not None:
        write_json(json, report)
    if plot is not None:
        where = f"{report['threads']} threads, {report['backend']}, {report['machine']['cpu']}"
        subject = f"tracked frame, bundle {report['bundle']['name']}, {where}"
        write_bytes_atomic(plot, plot_scaling(report["tables"], subject))


def _cells(row: dict[str, Any]) -> Iterator[str]:
    yield row["label"] + (f" (latency {row['latency_ms']['median']:.1f} ms)" if "latency_ms" in row else "")
    yield f"{row['tracked_frame_ms']['median']:.1f}"
    yield f"{row['tracked_frame_ms']['p99']:.1f}"
    yield f"{row['ratio']:.2f}"
    yield f"{row['networks_ms']['median']:.1f}" if "networks_ms" in row else ""
    yield str(row.get("keypoints", ""))
    yield f"{row['peak_rss_mib']:.0f}"
