"""`evaluate homography`: the benchmark on a list of pairs, its tables, report and pictures of the worst pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

import efficient_matcher
from efficient_matcher.commands.common import print_table
from efficient_matcher.commands.worst import Worst, worst_pairs
from efficient_matcher.config import Config
from efficient_matcher.evaluate.candidates import BUNDLE, Candidates, check_choice, open_candidates
from efficient_matcher.evaluate.diagnosis import CAUSES, FEW, KEYPOINTS, SPREAD, WRONG
from efficient_matcher.evaluate.homography import (ESTIMATORS, REFINED, THRESHOLDS_PX, VARIANTS, PairOutcome,
                                                   run_benchmark, summarize)
from efficient_matcher.files import check_apart, check_writable, write_json
from efficient_matcher.sources.pairs import read_pairs

COLUMNS = ("strict", "strict, own fit", "refined", "refined, own fit", "paper", "P", "R", "matches", "dropped")


def run(
    pairs: Path, *, images: Path | None = None, config: Config = Config(), methods: Sequence[str] = (BUNDLE,),
    bundles: Sequence[str] = (), variant: str = "both", limit: int | None = None, json: Path | None = None,
    worst: int = 0, pictures: Path | None = None, summary: bool = False, xfeat: Path | None = None,
) -> list[dict[str, Any]]:
    """Evaluate, print the tables, write what was asked for; returns the figures per method and variant.

    pairs: list file; images: their folder, by default `images` beside it. methods: of `evaluate.candidates.METHODS`.
    bundles: those compared, by default the config's one. variant: clean, hard or both. limit: only the first so many
    pairs. json: report file; summary: without what came of each single pair. worst: so many of each method's worst
    pairs are explained, and drawn in the folder `pictures`. xfeat: weights, to compare XFeat as well. Raises
    MatcherError.
    """
    check_choice("variant", [variant], (*VARIANTS, "both"))
    check_apart([json], [pairs])
    if pictures is not None:
        check_writable(pictures / "picture")
    variants = VARIANTS if variant == "both" else (variant,)
    listed = read_pairs(pairs, images)[:limit]
    candidates = open_candidates(methods, config, bundles, xfeat)
    outcomes: list[PairOutcome] = []
    for of_pair in _with_progress(run_benchmark(listed, candidates.matchers, variants), len(listed)):
        outcomes.extend(of_pair)
    figures = summarize(outcomes)
    _print(figures, config)  # before any file, which may fail to be written
    _print_failures(figures)
    explained = list(worst_pairs(listed, candidates.matchers, outcomes, worst, pictures))
    _print_worst(explained)
    if json is not None:
        settings = {"pairs": pairs, "images": images or pairs.parent / "images", "limit": limit, "variants": variants,
                    "methods": list(candidates.matchers), **config.values()}
        rows = () if summary else outcomes
        write_json(json, {**_report(figures, rows, settings, candidates), "worst": explained})
    return figures


def _report(figures: list[dict[str, Any]], outcomes: Sequence[PairOutcome], settings: dict[str, Any],
            candidates: Candidates) -> dict[str, Any]:
    facts = candidates.bundle_facts()
    rows = [{**asdict(outcome), "precision": outcome.counts.precision, "recall": outcome.counts.recall}
            for outcome in outcomes]
    return {"command": "evaluate homography", "version": efficient_matcher.__version__, "opencv": cv2.__version__,
            "bundle": next(iter(facts.values()), None), "bundles": facts, "weights": candidates.weights,
            "settings": settings, "results": figures, "pairs": rows}


def _with_progress(steps: Iterator[list[PairOutcome]], total: int) -> Iterator[list[PairOutcome]]:
    from rich.console import Console
    from rich.progress import track
    console = Console(stderr=True)
    yield from track(steps, "evaluate", total=total, console=console, disable=not console.is_terminal)


def _print(figures: list[dict[str, Any]], config: Config) -> None:
    rows = []
    for row in figures:
        auc = [_areas(row["strict"], estimator) for estimator in (*ESTIMATORS, *REFINED)]
        auc.append(_areas(row["paper"], ESTIMATORS[0]))
        rows.append((f"{row['method']} {row['variant']}", *auc, _percent(row["precision"]), _percent(row["recall"]),
                     f"{row['matches']:.0f}", f"{row['dropped']} of {row['pairs']}"))
    print_table(f"homography, {config.extract.max_keypoints} keypoints, AUC in % at "
                f"{' / '.join(f'{threshold:g}' for threshold in THRESHOLDS_PX)} px", rows, COLUMNS)


def _print_failures(figures: list[dict[str, Any]]) -> None:
    rows = [(f"{row['method']} {row['variant']}", str(sum(row["failures"].values())),
             *(str(row["failures"][cause]) for cause in CAUSES)) for row in figures]
    print_table(f"pairs above {THRESHOLDS_PX[0]:g} px, by what keeps them there", rows,
                ("all", *map(_short, CAUSES)))


def _short(cause: str) -> str:
    """The word of a cause that tells it from the others, so that the table fits a narrow terminal."""
    return {KEYPOINTS: "keypoints", SPREAD: "spread", FEW: "matches", WRONG: "wrong"}.get(cause, cause)


def _print_worst(explained: Sequence[Worst]) -> None:
    for row in explained:
        print(f"{row['method']} {row['variant']} {row['rank']}: {row['name']}, corner error "
              f"{row['corner_error_px']:.1f} px, {row['cause']}: {row['why']}")


def _areas(figures: dict[str, Any], estimator: str) -> str:
    return " / ".join(f"{area:.1f}" for area in figures["auc"].get(estimator, {}).values()) or "-"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
