"""How the cost of a tracked frame grows: with keypoints, resolution, threads and cameras; and what two runtimes and
two ways of sharing the threads make of it. Every table's variants take turns in one run, as in `latency`, and the frame
is the same: extraction, matching and homography, without refinement."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficient_matcher.config import Config
from efficient_matcher.core.backend import available_threads
from efficient_matcher.errors import ConfigError, MatcherError
from efficient_matcher.evaluate.latency import OURS, BenchPlan, make_job, take_turns, without_refinement
from efficient_matcher.evaluate.motion import moving_view

FRAME_COUNT = 24
KEYPOINTS = (128, 256, 512, 1024, 2048)
RESOLUTIONS = ((320, 240), (480, 360), (640, 480), (960, 540), (1280, 720))
CAMERAS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Variant:
    """One row of a table. label: its value in words. reference: whether the others are compared with it."""

    label: str
    value: float
    settings: Mapping[str, Any]
    cameras: int = 1
    overlap: bool = False
    reference: bool = False


def tables(config: Config) -> dict[str, list[Variant]]:
    """The variants of each table, by its name."""
    threads, (width, height) = config.model.threads or available_threads(), _size(config)
    kinds = ["onnxruntime"] + ["openvino"] * (importlib.util.find_spec("openvino") is not None)
    return {
        "keypoints": [Variant(str(count), count, {"extract.max_keypoints": count}, reference=count == 512)
                      for count in KEYPOINTS],
        "resolution": [Variant(f"{across}x{down}", across * down / 1e6, {"input.width": across, "input.height": down},
                               reference=(across, down) == (640, 480)) for across, down in RESOLUTIONS],
        "threads": [Variant(str(count), count, {"model.threads": count}, reference=count == 1)
                    for count in range(1, threads + 1)],
        "cameras": [Variant(str(count), count, {}, cameras=count, reference=count == 1) for count in CAMERAS],
        "backend": [Variant(kind, index, {"model.backend": kind}, reference=index == 0)
                    for index, kind in enumerate(kinds)],
        "overlap": [Variant("one after the other", 0, {}, reference=True), Variant("overlapping", 1, {}, overlap=True)],
    }


def measure(name: str, variants: Sequence[Variant], config: Config, plan: BenchPlan,
            on_turn: Callable[[str], None] = lambda label: None) -> list[dict[str, Any]]:
    """Rows of a table: label, value, figures as in `bench`, and `ratio`: of the medians, to the reference's.

    on_turn: called after each variant's turn. Raises MatcherError naming the variant that fails.
    """
    with tempfile.TemporaryDirectory(prefix="efficient-matcher-bench-") as folder:
        jobs = {variant.label: _job(variant, config, Path(folder) / str(index))
                for index, variant in enumerate(variants)}
        try:
            records, _ = take_turns(jobs, plan, on_turn)
        except MatcherError as error:
            raise MatcherError(f"{name}: {error}") from None
    reference = next(records[variant.label].median_ms for variant in variants if variant.reference)
    return [{"label": variant.label, "value": variant.value, "ratio": records[variant.label].median_ms / reference,
             **records[variant.label].summary()} for variant in variants]


def chosen(names: Sequence[str], config: Config) -> dict[str, list[Variant]]:
    """The tables of these names, all when there is none. Raises ConfigError for an unknown one."""
    known = tables(config)
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown table '{name}', known: {', '.join(known)}")
    return {name: known[name] for name in (dict.fromkeys(names) or known)}


def growth(rows: Sequence[Mapping[str, Any]], low: float, high: float) -> float | None:
    """Median of the row of value `high` over that of `low`; None when either is missing."""
    medians = {row["value"]: row["tracked_frame_ms"]["median"] for row in rows}
    return medians[high] / medians[low] if low in medians and high in medians else None


def _job(variant: Variant, config: Config, folder: Path) -> dict[str, Any]:
    config = without_refinement(config).with_values(variant.settings)
    frames = moving_view(FRAME_COUNT, *_size(config))
    return make_job(frames, folder, config, contestant=OURS, cameras=variant.cameras, overlap=variant.overlap)


def _size(config: Config) -> tuple[int, int]:
    return config.input.width or 640, config.input.height or 480
