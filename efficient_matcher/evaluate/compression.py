"""Dense and compressed pairs beside each other: size, accuracy and speed of each row of the paper's tables 1 and 2."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from efficient_matcher.config import Config
from efficient_matcher.core.bundle import CARD_NAME, VARIANT_NAMES, load_bundle
from efficient_matcher.core.pipeline import Matcher
from efficient_matcher.errors import BundleError, RecipeError
from efficient_matcher.evaluate.homography import VARIANTS, run_benchmark, summarize
from efficient_matcher.evaluate.latency import OURS, BenchPlan, make_job, take_turns, without_refinement
from efficient_matcher.evaluate.motion import moving_view
from efficient_matcher.ros.messages import model_hash
from efficient_matcher.sources.pairs import HomographyPair

FRAMES = 40
MEASURED, MISSING = "measured", "missing"
ALONE = "networks_alone"  # of a row: the same frames without refinement
AUCS = {"auc": "ransac", "auc_own_fit": "robust", "auc_refined": "refined_ransac", "auc_refined_own_fit": "refined_robust"}


@dataclass(frozen=True)
class Row:
    """A row of the tables. bundle: its folder, or the name of one that ships. make: command lines of this program,
    without its name, that make the bundle; what they have in common with another row's is made once, and `{NAME}`
    stands for one of the file's values, or as a line of its own for its steps of that name. note: what the page says
    of it."""

    title: str
    bundle: str
    make: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Rows:
    """The file that `report compression` reads. The first row is what the others are compared with. values: what may
    be said otherwise for a run (`--value NAME=TEXT`). steps: lines that several rows begin with, by name."""

    rows: tuple[Row, ...]
    title: str = "Compression"
    note: str = ""
    values: dict[str, str] = field(default_factory=dict)
    steps: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        titles = [row.title for row in self.rows]
        if not titles:
            raise ValueError("rows: there are none")
        for title in titles:
            if titles.count(title) > 1:
                raise ValueError(f"rows: the title '{title}' is there twice")
        for name in self.steps:
            if name in self.values:
                raise ValueError(f"steps: '{name}' is the name of a value as well")


def filled(given: Rows, values: Mapping[str, str]) -> Rows:
    """The rows with the file's steps, and its values, and `values` over them, in their command lines, quoted where they
    need it.

    Raises RecipeError for a name the file does not have.
    """
    for name in values:
        if name not in given.values:
            raise RecipeError(f"unknown value '{name}' (known: {', '.join(given.values)})")
    quoted = {name: shlex.quote(text) for name, text in {**given.values, **values}.items()}

    def line(row: Row, text: str) -> str:
        try:
            return text.format_map(quoted)
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise RecipeError(f"row '{row.title}': '{text}' names no value of the file: {error}") from None

    def lines(row: Row) -> tuple[str, ...]:
        texts = [part for text in row.make for part in given.steps.get(text[1:-1] if text[:1] == "{" else "", (text,))]
        return tuple(line(row, text) for text in texts)

    return replace(given, rows=tuple(replace(row, make=lines(row)) for row in given.rows))


@dataclass(frozen=True)
class Progress:
    """What a measurement tells while it runs: that a pair, or a turn of the timing, is done."""

    pair: Callable[[], None] = field(default=lambda: None)
    turn: Callable[[str], None] = field(default=lambda name: None)


def present(rows: Sequence[Row]) -> dict[str, Row]:
    """Rows whose bundle is there, by title. Raises BundleError for one that is there and damaged."""
    found = {}
    for row in rows:
        try:
            load_bundle(row.bundle)
        except BundleError:
            if (Path(row.bundle) / CARD_NAME).exists():
                raise
            continue
        found[row.title] = row
    return found


def measure_rows(rows: Sequence[Row], pairs: Sequence[HomographyPair], config: Config, plan: BenchPlan,
                 progress: Progress = Progress()) -> list[dict[str, Any]]:
    """Figures of each row, in order; `status` says which were missing. All rows meet the same pairs, and take turns
    in the timing, each in a process of its own on the same runtime.

    Ratios are to the first row, None where that is missing. Raises MatcherError.
    """
    there = present(rows)
    accuracy = _accuracy(there, pairs, config, progress)
    speed = _speed(there, config, plan, progress)
    results = []
    for row in rows:
        base = {"title": row.title, "bundle": row.bundle, "note": row.note, "make": list(row.make)}
        if row.title not in there:
            results.append({**base, "status": MISSING})
            continue
        results.append({**base, "status": MEASURED, **_size(row), "accuracy": accuracy[row.title],
                        **speed[row.title]})
    _add_ratios(results)
    return results


def _size(row: Row) -> dict[str, Any]:
    from efficient_matcher.learn.graph_counts import count
    bundle = load_bundle(row.bundle)
    run = [name for name in bundle.card.files if name.endswith(".onnx") and name not in VARIANT_NAMES.values()]
    counts = [count(bundle.path / name) for name in run]  # an extractor in a second layout is the same network
    macs = [entry.macs for entry in counts]
    size = sum((bundle.path / name).stat().st_size for name in (*bundle.card.files, CARD_NAME))
    return {"hash": model_hash(bundle.card), "bytes": size, "weights": sum(entry.weights for entry in counts),
            "nonzero": sum(entry.nonzero for entry in counts), "macs": None if None in macs else sum(macs),
            "precision_of_weights": {part: getattr(bundle.card, part).get("precision")
                                     for part in ("extractor", "matcher")}}


def _accuracy(rows: Mapping[str, Row], pairs: Sequence[HomographyPair], config: Config,
              progress: Progress) -> dict[str, dict[str, Any]]:
    """By title and variant, percent: strict AUC by threshold, of OpenCV's RANSAC and our own fit, by the networks alone and,
    where that is on, refined; precision, recall."""
    matchers = {title: Matcher.from_bundle(row.bundle, config) for title, row in rows.items()}
    outcomes = []
    for of_pair in run_benchmark(pairs, matchers, VARIANTS) if matchers else ():
        outcomes += of_pair
        progress.pair()
    found: dict[str, dict[str, Any]] = {title: {} for title in rows}
    for figures in summarize(outcomes):
        aucs = {name: figures["strict"]["auc"][fit] for name, fit in AUCS.items() if fit in figures["strict"]["auc"]}
        found[figures["method"]][figures["variant"]] = {
            **aucs, "precision": figures["precision"], "recall": figures["recall"]}
    return found


def ways(config: Config) -> dict[str, Config]:
    """How frames are timed, by the name of their figures: "" as configured, and where that refines, ALONE."""
    return {"": config, **({ALONE: without_refinement(config)} if config.refine.enabled else {})}


def _speed(rows: Mapping[str, Row], config: Config, plan: BenchPlan, progress: Progress) -> dict[str, dict[str, Any]]:
    """By title: ms of a tracked frame and of its stages, as configured and, where that refines, by the networks alone."""
    if not rows:
        return {}
    frames = moving_view(FRAMES, config.input.width or 640, config.input.height or 480)
    with tempfile.TemporaryDirectory(prefix="efficient-matcher-report-") as folder:
        jobs = {f"{way}/{title}": make_job(frames, Path(folder), own.with_values({"model.bundle": str(row.bundle)}),
                                           contestant=OURS)
                for title, row in rows.items() for way, own in ways(config).items()}
        records, _ = take_turns(jobs, plan, progress.turn)
    found: dict[str, dict[str, Any]] = {title: {} for title in rows}
    for title, of_row in found.items():
        for way in ways(config):
            summary = records[f"{way}/{title}"].summary()
            figures = {key: summary[key] for key in ("tracked_frame_ms", "stages_ms")}
            of_row.update({way: figures} if way else figures)
    return found


def _add_ratios(results: Sequence[dict[str, Any]]) -> None:
    """To the first row: of its time, each way it was taken, and of its bytes."""
    base = results[0] if results[0]["status"] == MEASURED else None
    for row in results:
        if row["status"] != MEASURED:
            continue
        row["size_share"] = None if base is None else row["bytes"] / base["bytes"]
        row["times_faster"] = _times_faster(base, row)
        if ALONE in row:
            row[ALONE]["times_faster"] = _times_faster(base and base[ALONE], row[ALONE])


def _times_faster(base: Mapping[str, Any] | None, own: Mapping[str, Any]) -> float | None:
    return None if base is None else base["tracked_frame_ms"]["median"] / own["tracked_frame_ms"]["median"]
