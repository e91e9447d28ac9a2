"""One cell of a sweep: all methods on all images at one value of one change; and cells on several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from efficient_matcher.config import Config
from efficient_matcher.core.geometry import warp_points
from efficient_matcher.errors import MatcherError
from efficient_matcher.evaluate.candidates import Candidates, open_candidates
from efficient_matcher.evaluate.diagnosis import right_matches
from efficient_matcher.evaluate.fits import strict_error_px
from efficient_matcher.evaluate.homography import THRESHOLDS_PX
from efficient_matcher.evaluate.metrics import area_under_curve, count_matches, true_matches
from efficient_matcher.evaluate.repeatability import repeatability
from efficient_matcher.evaluate.sweeps import SWEEPS, Grey, Matrix
from efficient_matcher.evaluate.warps import SIZE
from efficient_matcher.records import Features, PairResult
from efficient_matcher.sources.images import read_image

METRICS = {  # by the name in reports: what tables and plots call it
    "repeatability": "repeatability at 3 px, %",
    "repeated_error_px": "location error of repeated points, px",
    "matched_error_px": "location error of right matches, px",
    "precision": "precision, %",
    "recall": "recall, %",
    "auc_10": "homography AUC@10 px, %",
}


@dataclass(frozen=True)
class Cell:
    """A change by its name in `SWEEPS`, and how strong."""

    sweep: str
    value: float

    @property
    def name(self) -> str:
        """As files are called."""
        return f"{self.sweep}_{self.value:g}"


@dataclass(frozen=True)
class Plan:
    """What is measured: methods (of `candidates.METHODS`), bundles, settings and images; and XFeat, if its weights are
    given."""

    methods: tuple[str, ...]
    bundles: tuple[str, ...]
    config: Config
    images: tuple[Path, ...]
    xfeat: Path | None = None


class CellRunner:
    """Measures cells; keeps the features of the unchanged images, which every cell needs."""

    def __init__(self, plan: Plan) -> None:
        self._images = plan.images
        self.candidates: Candidates = open_candidates(plan.methods, plan.config, plan.bundles, plan.xfeat)
        self._features: dict[tuple[int, int], Features] = {}

    def measure(self, cell: Cell) -> dict[str, dict[str, Any]]:
        """Figures by method: means over the images of `METRICS` and more, and the AUC at 5, 10, 25 px.

        Raises SourceError naming an image that cannot be read.
        """
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in self.candidates.matchers}
        for index, path in enumerate(self._images):
            image0 = cv2.resize(read_image(path), SIZE)
            image1, H_0to1 = SWEEPS[cell.sweep].change(image0, cell.value, index)
            changed: dict[int, Features] = {}
            for name, matcher in self.candidates.matchers.items():
                extractor = id(getattr(matcher, "extractor", matcher))
                if (extractor, index) not in self._features:
                    self._features[extractor, index] = matcher.extract(image0)
                if extractor not in changed:
                    changed[extractor] = matcher.extract(image1)
                result = matcher.match(self._features[extractor, index], changed[extractor])
                rows[name].append(_judge(result, H_0to1))
        return {name: _means(of_method) for name, of_method in rows.items()}


def _judge(result: PairResult, H_0to1: Matrix) -> dict[str, float]:
    points0, points1 = result.features0.keypoints, result.features1.keypoints
    found = repeatability(points0, points1, result.features0.image_size, result.features1.image_size, H_0to1)
    truth = true_matches(points0, points1, H_0to1)
    counts = count_matches(result.matches.indices, truth)
    right = right_matches(result.matches.indices, truth)
    off = np.linalg.norm(warp_points(result.points0[right], H_0to1) - result.points1[right], axis=1)
    return {"repeatability": found.share, "repeated_error_px": found.mean_error_px,
            "matched_error_px": float(off.mean()) if len(off) else float("nan"),
            "precision": counts.precision, "recall": counts.recall,
            "corner_error_px": strict_error_px(result.points0, result.points1, H_0to1, SIZE),
            "keypoints": (len(points0) + len(points1)) / 2, "matches": float(counts.predicted)}


def _means(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    errors = [row["corner_error_px"] for row in rows]
    figures: dict[str, Any] = {}
    for name in rows[0]:
        known = [row[name] for row in rows if np.isfinite(row[name])]
        figures[name] = float(np.mean(known)) if known and name != "corner_error_px" else None
    figures["corner_error_px"] = float(np.median(errors))  # infinite errors would leave no mean
    areas = area_under_curve(errors, THRESHOLDS_PX)
    return {**figures, **{f"auc_{threshold:g}": area for threshold, area in zip(THRESHOLDS_PX, areas)},
            "images": len(rows)}


def measure_cells(plan: Plan, cells: Sequence[Cell], processes: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Measure cells on so many processes (1 stays in this one), each as soon as it is done.

    Closing the iterator drops the cells that have not begun and ends the processes. Raises MatcherError.
    """
    if processes <= 1 or len(cells) <= 1:
        runner = CellRunner(plan)
        for cell in cells:
            yield cell, runner.measure(cell)
        return
    with _pool(plan, min(processes, len(cells))) as pool:
        waiting = {pool.submit(_measure_here, cell): cell for cell in cells}
        for done in as_completed(waiting):
            try:
                figures = done.result()
            except BrokenProcessPool:
                raise MatcherError("a process of the sweep was ended, perhaps for want of memory; what was measured is "
                                   "kept: call again, with fewer --processes") from None
            yield waiting[done], figures


@contextmanager
def _pool(plan: Plan, processes: int) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")  # a fork would copy the runtimes' threads half alive
    pool = ProcessPoolExecutor(processes, context, _begin, (plan,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_runner: CellRunner | None = None  # of a worker process
_failure: Exception | None = None


def _begin(plan: Plan) -> None:
    """Make a worker process ready; what goes wrong is told by its first cell, as an initializer cannot."""
    global _runner, _failure
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    try:
        _runner = CellRunner(plan)
    except Exception as error:  # noqa: BLE001
        _failure = error


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _measure_here(cell: Cell) -> dict[str, Any]:
    if _runner is None:
        raise _failure or RuntimeError("the process was not made ready")
    return _runner.measure(cell)
