"""`evaluate homography`: the benchmark on a list of pairs, its table, report and pictures of the worst pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2

import efficient_matcher
from efficient_matcher.config import Config
from efficient_matcher.core.pipeline import Matcher
from efficient_matcher.draw import draw_matches
from efficient_matcher.errors import ConfigError
from efficient_matcher.evaluate.baselines import BASELINES, Baseline
from efficient_matcher.evaluate.homography import (ESTIMATORS, THRESHOLDS_PX, VARIANTS, NearestNeighbourMatcher,
                                                   PairMatcher, PairOutcome, load_pair, run_benchmark, summarize,
                                                   variant_image)
from efficient_matcher.files import write_bytes_atomic, write_json
from efficient_matcher.records import Frame, ModelCard
from efficient_matcher.ros.messages import model_hash
from efficient_matcher.sources.pairs import HomographyPair, read_pairs

METHODS = ("bundle", *BASELINES)
MATCHERS = ("network", "nearest")
WORST_COUNT = 8


def run(
    pairs: Path, *, images: Path | None = None, config: Config = Config(), methods: Sequence[str] = ("bundle",),
    matcher: str = "network", variant: str = "both", limit: int | None = None, json: Path | None = None,
    worst: Path | None = None,
) -> list[dict[str, Any]]:
    """Evaluate, print the table, write what was asked for; returns the figures per method and variant.

    pairs: list file; images: their folder, by default `images` beside it. methods: of METHODS. matcher: of
    MATCHERS, for the bundle. variant: clean, hard or both. limit: only the first so many pairs. json: report
    file. worst: folder for pictures of the worst pairs. Raises MatcherError.
    """
    _check_choices(methods, matcher, variant)
    variants = VARIANTS if variant == "both" else (variant,)
    listed = read_pairs(pairs, images)[:limit]
    candidates, card = _open(methods, matcher, config)
    outcomes: list[PairOutcome] = []
    for of_pair in _with_progress(run_benchmark(listed, candidates, variants), len(listed)):
        outcomes.extend(of_pair)
    figures = summarize(outcomes)
    _print(figures, config)  # before any file, which may fail to be written
    if worst is not None:
        draw_worst(worst, listed, candidates, outcomes)
    if json is not None:
        settings = {"pairs": pairs, "images": images or pairs.parent / "images", "limit": limit, "variants": variants,
                    "methods": list(candidates), "matcher": matcher, **config.values()}
        write_json(json, _report(figures, outcomes, settings, card))
    return figures


def draw_worst(folder: Path, pairs: Sequence[HomographyPair], candidates: dict[str, PairMatcher],
               outcomes: Sequence[PairOutcome]) -> list[Path]:
    """Draw the pairs with the largest corner errors, `WORST_COUNT` per method and variant; returns the files."""
    written = []
    for rank, outcome in _worst(outcomes):
        truth = load_pair(pairs[outcome.index])
        image1 = variant_image(truth, outcome.variant, outcome.index)
        matcher = candidates[outcome.method]
        result = matcher.match(matcher.extract(truth.image0), matcher.extract(image1))
        result = replace(result, frame0=Frame(truth.image0), frame1=Frame(image1))
        counts = outcome.counts
        caption = (f"{outcome.name} {outcome.variant}: corner error {outcome.strict_error('ransac'):.1f} px, "
                   f"{counts.correct} of {counts.predicted} matches right, {counts.missed} missed")
        path = folder / f"{outcome.method}_{outcome.variant}_{rank:02d}_{Path(outcome.name).stem}.png"
        write_bytes_atomic(path, cv2.imencode(".png", draw_matches(result, caption=caption))[1].tobytes())
        written.append(path)
    return written


def _worst(outcomes: Sequence[PairOutcome]) -> Iterator[tuple[int, PairOutcome]]:
    for method, variant in dict.fromkeys((o.method, o.variant) for o in outcomes):
        group = [o for o in outcomes if (o.method, o.variant) == (method, variant)]
        group.sort(key=lambda o: (-o.strict_error("ransac"), o.index))
        yield from enumerate(group[:WORST_COUNT], start=1)


def _check_choices(methods: Sequence[str], matcher: str, variant: str) -> None:
    for what, given, known in (("method", methods, METHODS), ("matcher", [matcher], MATCHERS),
                               ("variant", [variant], (*VARIANTS, "both"))):
        for name in given:
            if name not in known:
                raise ConfigError(f"unknown {what} '{name}', known: {', '.join(known)}")


def _open(methods: Sequence[str], matcher: str, config: Config) -> tuple[dict[str, PairMatcher], ModelCard | None]:
    candidates: dict[str, PairMatcher] = {}
    card = None
    for name in dict.fromkeys(methods):
        if name == "bundle":
            core = Matcher.from_bundle(config.model.bundle, config)
            card = core.card
            candidates[name] = NearestNeighbourMatcher(core) if matcher == "nearest" else core
        else:
            candidates[name] = Baseline(name, config.extract.max_keypoints, config.geometry)
    return candidates, card


def _report(figures: list[dict[str, Any]], outcomes: Sequence[PairOutcome], settings: dict[str, Any],
            card: ModelCard | None) -> dict[str, Any]:
    bundle = {"name": card.name, "hash": model_hash(card), "files": card.files} if card else None
    rows = [{**asdict(outcome), "precision": outcome.counts.precision, "recall": outcome.counts.recall}
            for outcome in outcomes]
    return {"command": "evaluate homography", "version": efficient_matcher.__version__, "opencv": cv2.__version__,
            "bundle": bundle, "settings": settings, "results": figures, "pairs": rows}


def _with_progress(steps: Iterator[list[PairOutcome]], total: int) -> Iterator[list[PairOutcome]]:
    from rich.console import Console
    from rich.progress import track
    console = Console(stderr=True)
    yield from track(steps, "evaluate", total=total, console=console, disable=not console.is_terminal)


def _print(figures: list[dict[str, Any]], config: Config) -> None:
    from rich.console import Console
    from rich.table import Table
    table = Table(title=f"homography, {config.extract.max_keypoints} keypoints, AUC in % at "
                  f"{' / '.join(f'{threshold:g}' for threshold in THRESHOLDS_PX)} px", title_justify="left")
    for name in ("method", "variant", "strict", "strict, own fit", "paper", "P", "R", "matches", "dropped"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("method", "variant") else "right")
    for row in figures:
        auc = [" / ".join(f"{area:.1f}" for area in row[kind]["auc"][estimator].values())
               for kind, estimator in (("strict", ESTIMATORS[0]), ("strict", ESTIMATORS[1]), ("paper", ESTIMATORS[0]))]
        table.add_row(row["method"], row["variant"], *auc, _percent(row["precision"]), _percent(row["recall"]),
                      f"{row['matches']:.0f}", f"{row['dropped']} of {row['pairs']}")
    console = Console()
    needed = console.measure(table, options=console.options.update(max_width=1000)).maximum
    Console(width=max(console.width, needed)).print(table)  # figures cut short would be worse than long lines


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
