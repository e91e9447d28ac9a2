"""How much each layer bears: one layer is pruned or rounded, all others left, and the pair is evaluated as deployed.

A cell is one layer at one level. Cells are measured in processes here or on a Dask cluster, and each is a file of its
own as soon as it is known, so that a scan that was stopped goes on where it was.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import Config
from efficient_matcher.core.pipeline import Matcher
from efficient_matcher.errors import MatcherError
from efficient_matcher.evaluate.homography import run_benchmark, summarize
from efficient_matcher.files import plain, write_json
from efficient_matcher.records import Features, PairResult
from efficient_matcher.sources.pairs import read_pairs

NETWORKS = ("superpoint", "superglue")
DENSE = "dense"
PLAN_NAME = "plan.json"


@dataclass(frozen=True)
class Cell:
    """network: of NETWORKS, or `dense` for both as they are. layer: of it. level: share of zeros, or bits."""

    network: str
    layer: str
    method: str
    level: float

    @property
    def file(self) -> str:
        """Name of its result."""
        return f"{self.network}-{self.layer}-{self.method}-{self.level:g}.json"


@dataclass(frozen=True)
class Scan:
    """What every cell shares. superpoint, superglue: weight files; pairs, images: as for the homography benchmark;
    limit: the first so many pairs; settings: of `Config`, by name. On a cluster all paths must be seen by all."""

    superpoint: Path
    superglue: Path
    pairs: Path
    images: Path | None
    limit: int | None
    variants: tuple[str, ...]
    settings: tuple[tuple[str, Any], ...]

    def identity(self) -> dict[str, Any]:
        """What results of two runs must have in common to belong together."""
        contents = {name: _digest(getattr(self, name)) for name in (*NETWORKS, "pairs")}
        return plain({**contents, "images": self.images, "limit": self.limit, "variants": self.variants,
                      "settings": dict(self.settings)})


def measure(scan: Scan, cells: Sequence[Cell], folder: Path, processes: int = 1, scheduler: str | None = None,
            ) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Each cell and its figures, those known from an earlier run first; the others as they come.

    folder: where cells are kept. processes: on this machine. scheduler: address of a Dask scheduler whose workers do
    it instead. Raises MatcherError: the folder is of another scan, the scheduler does not answer, a cell fails.
    """
    _claim(folder, scan)
    todo = []
    for cell in cells:
        path = folder / "cells" / cell.file
        if path.is_file():
            yield cell, json.loads(path.read_text(encoding="utf-8"))
        else:
            todo.append(cell)
    for cell, figures in _measured(scan, todo, processes, scheduler):
        write_json(folder / "cells" / cell.file, figures)
        yield cell, figures


def measure_cell(scan: Scan, cell: Cell) -> dict[str, Any]:
    """Export the pair with one layer changed, run it through core on all pairs; figures by variant.

    Of each variant: `auc5`, `auc10`, `auc25` (strict, OpenCV's RANSAC), `precision`, `recall`, in percent.
    """
    import cv2
    cv2.setNumThreads(1)
    listed = read_pairs(scan.pairs, scan.images)[:scan.limit]
    outcomes = [outcome for of_pair in run_benchmark(listed, {"cell": _matcher(scan, cell)}, scan.variants)
                for outcome in of_pair]
    return {"cell": asdict(cell), "pairs": len(listed), "figures": {
        row["variant"]: {**{f"auc{threshold}": area for threshold, area in row["strict"]["auc"]["ransac"].items()},
                         "precision": row["precision"], "recall": row["recall"]} for row in summarize(outcomes)}}


def all_layers(scan: Scan) -> dict[str, list[str]]:
    """Layers of each network, in their order."""
    from efficient_matcher.learn.prune import weight_layers
    return {name: list(weight_layers(_network(name, getattr(scan, name)))) for name in NETWORKS}


class _Remembering:
    """The dense extractor's features, kept: where only the matcher changes they are the same in every cell."""

    def __init__(self, matcher: Matcher, known: dict[bytes, Features]) -> None:
        self._matcher, self._known = matcher, known

    def extract(self, image: NDArray[np.uint8]) -> Features:
        """As `Matcher.extract`."""
        key = hashlib.sha1(image.tobytes()).digest()
        if key not in self._known:
            self._known[key] = self._matcher.extract(image)
        return self._known[key]

    def match(self, features0: Features, features1: Features) -> PairResult:
        """As `Matcher.match`."""
        return self._matcher.match(features0, features1)


def _matcher(scan: Scan, cell: Cell) -> Any:
    from efficient_matcher.core.locate import Locator
    from efficient_matcher.learn.extractor_graph import extractor_model
    from efficient_matcher.learn.locator_graph import locator_model
    from efficient_matcher.learn.matcher_graph import matcher_model
    from efficient_matcher.learn.quantize import opened
    from efficient_matcher.learn.single_layer import coarser
    networks = {name: _network(name, getattr(scan, name)) for name in NETWORKS}
    if cell.network != DENSE:
        networks[cell.network] = coarser(networks[cell.network], cell.layer, cell.method, cell.level)
    config = Config().with_values({**dict(scan.settings), "model.threads": 1})
    superpoint, superglue = networks["superpoint"], networks["superglue"]
    locator = superpoint.locator and Locator(opened(locator_model(superpoint.locator), threads=1))
    matcher = Matcher(opened(extractor_model(superpoint), threads=1), opened(matcher_model(superglue), threads=1), config,
                      locator=locator)
    return matcher if cell.network == "superpoint" else _Remembering(matcher, _features(scan))


@functools.lru_cache(maxsize=4)
def _network(name: str, path: Path) -> Any:
    from efficient_matcher.learn import weights
    from efficient_matcher.learn.fold import folded
    return folded(getattr(weights, f"load_{name}")(path))


@functools.lru_cache(maxsize=1)
def _features(scan: Scan) -> dict[bytes, Features]:
    return {}


def _measured(scan: Scan, cells: Sequence[Cell], processes: int, scheduler: str | None,
              ) -> Iterator[tuple[Cell, dict[str, Any]]]:
    if not cells:
        return
    from joblib import Parallel, delayed
    with _workers(scheduler):
        at_once = Parallel(n_jobs=processes if scheduler is None else -1, return_as="generator_unordered", batch_size=1)
        for figures in at_once(delayed(measure_cell)(scan, cell) for cell in cells):
            yield Cell(**figures["cell"]), figures


@contextmanager
def _workers(scheduler: str | None) -> Iterator[None]:
    """joblib set up for this machine or a cluster."""
    from joblib import parallel_config
    if scheduler is None:
        with parallel_config(backend="loky", inner_max_num_threads=1):
            yield
        return
    try:
        from distributed import Client
    except ImportError:
        raise MatcherError("a --scheduler needs Dask: pip install 'efficient_matcher[compress]'") from None
    try:
        client = Client(scheduler, timeout=10)
    except Exception as error:  # noqa: BLE001 - a TimeoutError, an OSError or a ValueError, by what is wrong
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MatcherError(f"{scheduler}: no Dask scheduler answers: {reason}") from None
    with client, parallel_config(backend="dask"):
        if not client.nthreads():
            raise MatcherError(f"{scheduler}: the Dask cluster has no workers")
        yield


def _claim(folder: Path, scan: Scan) -> None:
    """Mark the folder as this scan's. Raises MatcherError where it holds cells of another one."""
    path, identity = folder / PLAN_NAME, scan.identity()
    if not path.is_file():
        write_json(path, identity)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise MatcherError(f"{path}: is not JSON; choose another --out") from None
    for name, value in identity.items():
        if before.get(name) != value:
            raise MatcherError(f"{folder}: holds cells of another scan ('{name}' differs); choose another --out")


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise MatcherError(f"{path}: cannot be read: {error.strerror}") from None
