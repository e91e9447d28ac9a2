"""`efficient-matcher sensitivity`: every layer at every level, one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import efficient_matcher
from efficient_matcher.commands.common import print_table
from efficient_matcher.config import Config
from efficient_matcher.errors import ConfigError, MatcherError
from efficient_matcher.files import write_bytes_atomic, write_json

DEFAULT_LEVELS = {"magnitude": (0.3, 0.5, 0.7, 0.8, 0.9, 0.95), "kmeans": (2, 3, 4, 5, 6), "linear": (2, 3, 4, 6, 8)}


@dataclass(frozen=True)
class SensitivityOptions:
    """superpoint, superglue: weight files. pairs, images, limit, variants: as for `evaluate homography`. out: folder of
    cells, plots and figures, resumed if it exists. method: magnitude, kmeans or linear (weights only). levels: shares
    of zeros, or bits. layers: names or patterns; all if none. processes: 0 takes one per core. scheduler: of Dask."""

    superpoint: Path
    superglue: Path
    pairs: Path
    out: Path
    method: str = "magnitude"
    levels: tuple[float, ...] = ()
    layers: tuple[str, ...] = ()
    images: Path | None = None
    limit: int | None = None
    variants: tuple[str, ...] = ("clean",)
    config: Config = Config()
    processes: int = 0
    scheduler: str | None = None
    json: Path | None = None


def run(options: SensitivityOptions) -> dict[str, Any]:
    """Measure what is not yet known, plot, print the table; returns what is written as sensitivity.json.

    Raises MatcherError; what was measured until then is kept.
    """
    from efficient_matcher.evaluate.sensitivity import Scan, all_layers, measure
    _check_plots()
    scan = Scan(options.superpoint.absolute(), options.superglue.absolute(), options.pairs.absolute(),
                None if options.images is None else options.images.absolute(), options.limit, options.variants,
                tuple(options.config.values().items()))
    cells = _cells(options, all_layers(scan))
    processes = options.processes or len(os.sched_getaffinity(0))
    found = dict(_with_progress(measure(scan, cells, options.out, processes, options.scheduler), len(cells)))
    results = [found[cell] for cell in cells]  # in their order, not in that of the work
    report = {"command": "sensitivity", "version": efficient_matcher.__version__, "method": options.method,
              **scan.identity(), "results": results}
    write_json(options.out / f"sensitivity-{options.method}.json", report)
    if options.json is not None:
        write_json(options.json, report)
    _print(results, options)
    _plot(results, options)
    return report


def _cells(options: SensitivityOptions, layers: dict[str, list[str]]) -> list[Any]:
    from efficient_matcher.evaluate.sensitivity import DENSE, Cell
    from efficient_matcher.learn.single_layer import check_level
    if options.method not in DEFAULT_LEVELS:
        raise ConfigError(f"unknown method '{options.method}', known: {', '.join(DEFAULT_LEVELS)}")
    levels = sorted(set(options.levels or DEFAULT_LEVELS[options.method]))
    for level in levels:
        check_level(options.method, level)
    for pattern in options.layers:
        if not any(fnmatchcase(layer, pattern) for own in layers.values() for layer in own):
            raise ConfigError(f"unknown layer '{pattern}' (known: {', '.join(sum(layers.values(), []))})")
    wanted = [(network, layer) for network, own in layers.items() for layer in own
              if not options.layers or any(fnmatchcase(layer, pattern) for pattern in options.layers)]
    return [Cell(DENSE, "none", "none", 0.0),
            *(Cell(network, layer, options.method, float(level)) for network, layer in wanted for level in levels)]


def _check_plots() -> None:
    try:
        import joblib  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MatcherError(f"{error.name} is missing: pip install 'efficient_matcher[compress]'") from None


def _with_progress(steps: Iterator[Any], total: int) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import track
    console = Console(stderr=True)
    yield from track(steps, "sensitivity", total=total, console=console, disable=not console.is_terminal)


def _print(results: Sequence[dict[str, Any]], options: SensitivityOptions) -> None:
    """The strict AUC at 5 px of each layer (rows) and level (columns)."""
    variant = options.variants[0]
    dense, *others = results
    levels = list(dict.fromkeys(row["cell"]["level"] for row in others))
    rows: dict[str, list[str]] = {}
    for row in others:
        name = f"{row['cell']['network']} {row['cell']['layer']}"
        rows.setdefault(name, []).append(f"{row['figures'][variant]['auc5']:.1f}")
    print_table(f"{options.method}: strict AUC at 5 px, {variant}; dense {dense['figures'][variant]['auc5']:.1f}",
                [(name, *values) for name, values in rows.items()], [f"{level:g}" for level in levels])


def _plot(results: Sequence[dict[str, Any]], options: SensitivityOptions) -> None:
    from efficient_matcher.evaluate.sensitivity import NETWORKS
    from efficient_matcher.evaluate.sensitivity_plots import plot_layers
    for network in NETWORKS:
        if not any(row["cell"]["network"] == network for row in results):
            continue
        for variant in options.variants:
            write_bytes_atomic(options.out / f"{options.method}-{network}-{variant}.png",
                               plot_layers(results, network, options.method, variant))
