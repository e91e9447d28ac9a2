"""`evaluate sweep`: one change at a time over the images of a folder, as tables, plots and a report."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import efficient_matcher
from efficient_matcher.commands.common import print_table
from efficient_matcher.config import Config
from efficient_matcher.core.bundle import file_sha256, load_bundle
from efficient_matcher.errors import MatcherError
from efficient_matcher.evaluate.candidates import BUNDLE, METHODS, NEAREST, check_choice
from efficient_matcher.evaluate.sweep_cells import Cell, Plan, measure_cells
from efficient_matcher.evaluate.sweeps import SWEEPS
from efficient_matcher.evaluate.xfeat import XFEAT
from efficient_matcher.files import plain, write_bytes_atomic, write_json
from efficient_matcher.ros.messages import model_hash
from efficient_matcher.sources.images import usable_images
from efficient_matcher.stopping import StopSignals

COLUMNS = {"repeatability": "rep %", "repeated_error_px": "px", "matched_error_px": "matched px",
           "precision": "P", "recall": "R", "auc_5": "AUC@5", "auc_10": "@10", "auc_25": "@25"}


@dataclass(frozen=True)
class SweepOptions:
    """images: folder. out: folder of cells, plots and report; a run that was stopped there goes on.

    methods: of `evaluate.candidates.METHODS`; bundles: those compared, by default the config's one. sweeps: of
    `evaluate.sweeps.SWEEPS`. limit: only the first so many images. processes: 0 takes one per core of the affinity.
    xfeat: weights, to compare XFeat as well.
    """

    images: Path
    out: Path
    methods: tuple[str, ...] = (BUNDLE, "sift", "orb")
    bundles: tuple[str, ...] = ()
    sweeps: tuple[str, ...] = tuple(SWEEPS)
    config: Config = field(default_factory=Config)
    limit: int | None = None
    processes: int = 0
    plots: bool = True
    overwrite: bool = False
    json: Path | None = None
    xfeat: Path | None = None


def run(options: SweepOptions) -> dict[str, Any] | None:
    """Measure what is not yet in `out`, print the table, write plots and report; returns the report.

    None when stopped: the cells that were finished stay, and the same call goes on. Raises MatcherError naming what
    is unknown or cannot be read, and where `out` holds a sweep of other images, bundles or settings.
    """
    check_choice("method", options.methods, METHODS)
    check_choice("sweep", options.sweeps, tuple(SWEEPS))
    if options.plots:
        import matplotlib  # noqa: F401  # missing, it should be told before the work
    usable, skipped = usable_images(options.images)
    images = tuple(usable)[:options.limit]
    config = options.config.with_values({"model.threads": 1})  # processes are used instead
    plan = Plan(options.methods, options.bundles, config, images, options.xfeat)
    subject = _subject(plan, options.images, skipped)
    _prepare(options.out, subject, options.overwrite)
    if not _measure(plan, options):
        return None
    figures = {sweep: [{"value": value, "methods": _read_cell(options.out, Cell(sweep, value))}
                       for value in SWEEPS[sweep].values] for sweep in _finished(options)}
    report = {"command": "evaluate sweep", "version": efficient_matcher.__version__, **subject,
              "sweeps": {name: {"unit": SWEEPS[name].unit, "still": SWEEPS[name].still, "rows": rows}
                         for name, rows in figures.items()}}
    _print(figures, len(images), config, skipped)
    write_json(options.out / "sweep.json", report)
    if options.json is not None:
        write_json(options.json, report)
    if options.plots:
        _plot(options.out, figures, f"{len(images)} images, {config.extract.max_keypoints} keypoints")
    return report


def _finished(options: SweepOptions) -> list[str]:
    """The changes asked for, and those the folder holds from before."""
    whole = [sweep for sweep, change in SWEEPS.items()
             if all(_cell_file(options.out, Cell(sweep, value)).exists() for value in change.values)]
    return list(dict.fromkeys([*options.sweeps, *whole]))


def _subject(plan: Plan, folder: Path, skipped: dict[str, str]) -> dict[str, Any]:
    """What is measured, on what, with which settings: the same for all cells of a folder."""
    networks = {BUNDLE, NEAREST} & set(plan.methods)
    names = (plan.bundles or (str(plan.config.model.bundle),)) if networks else ()
    hashes = {name: model_hash(load_bundle(name).card) for name in names}
    images = {path.name: path.stat().st_size for path in plan.images}
    weights = {XFEAT: file_sha256(plan.xfeat)} if plan.xfeat else {}
    return {"methods": list(plan.methods), "bundles": hashes, "weights": weights, "folder": str(folder),
            "images": images, "skipped": skipped, "settings": plan.config.values()}


def _prepare(out: Path, subject: dict[str, Any], overwrite: bool) -> None:
    """A folder whose cells, if any, are of the same subject. Raises MatcherError naming what differs."""
    file = out / "subject.json"
    if file.exists() and not overwrite:
        try:
            before = json.loads(file.read_text())
        except (OSError, ValueError):
            raise MatcherError(f"{file}: cannot be read; choose another --out, or --overwrite") from None
        for name, value in plain(subject).items():
            if before.get(name, type(value)()) != value:  # an older sweep had nothing of what is newer
                raise MatcherError(f"{out}: holds a sweep of other {name}; choose another --out, or --overwrite")
    elif (out / "cells").exists():
        if not overwrite:
            raise MatcherError(f"{out / 'cells'}: there already, and not of a sweep; choose another --out, or --overwrite")
        shutil.rmtree(out / "cells")
    write_json(file, subject)


def _measure(plan: Plan, options: SweepOptions) -> bool:
    """Measure the cells that are missing; False when stopped."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    cells = [Cell(sweep, value) for sweep in dict.fromkeys(options.sweeps) for value in SWEEPS[sweep].values]
    missing = [cell for cell in cells if not _cell_file(options.out, cell).exists()]
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with StopSignals() as stop, Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("sweep", total=len(cells), completed=len(cells) - len(missing))
        with closing(measure_cells(plan, missing, _processes(options.processes))) as measured:
            for cell, figures in measured:
                write_json(_cell_file(options.out, cell), figures)
                progress.update(task, advance=1, description=f"sweep {cell.name}")
                if stop.requested:
                    break
    return all(_cell_file(options.out, cell).exists() for cell in cells)


def _processes(wanted: int) -> int:
    """As many as asked for, never more than the process's affinity allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(wanted, cores) if wanted else cores


def _cell_file(out: Path, cell: Cell) -> Path:
    return out / "cells" / f"{cell.name}.json"


def _read_cell(out: Path, cell: Cell) -> dict[str, Any]:
    file = _cell_file(out, cell)
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        raise MatcherError(f"{file}: cannot be read; remove it, and the cell is measured again") from None


def _print(figures: dict[str, Any], images: int, config: Config, skipped: dict[str, str]) -> None:
    rows = []
    for sweep, of_values in figures.items():
        for method in of_values[0]["methods"]:
            means = (_mean([row["methods"][method][name] for row in of_values]) for name in COLUMNS)
            rows.append((f"{sweep} {method}", *means))
    print_table(f"{images} images, {config.extract.max_keypoints} keypoints, means over a sweep's values",
                rows, tuple(COLUMNS.values()))
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    mean = float(np.mean(known)) if known else float("nan")
    return "-" if not known else f"{mean:.2f}" if mean < 10 else f"{mean:.1f}"


def _plot(out: Path, figures: dict[str, Any], subject: str) -> None:
    from efficient_matcher.evaluate.plots import plot_overview, plot_sweep
    for name, rows in figures.items():
        write_bytes_atomic(out / f"{name}.png", plot_sweep(name, rows, subject))
    write_bytes_atomic(out / "overview.png", plot_overview(figures, subject))
