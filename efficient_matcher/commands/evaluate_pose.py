"""`evaluate pose`: relative poses of a list of pairs, of synthetic scenes or of a bag; table and report."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2

import efficient_matcher
from efficient_matcher.commands.common import print_table
from efficient_matcher.commands.make_scenes import DEPTH, LIST, read_textures
from efficient_matcher.config import Config
from efficient_matcher.errors import ConfigError, SourceError
from efficient_matcher.evaluate.candidates import BUNDLE, Candidates, check_choice, open_candidates
from efficient_matcher.evaluate.pose import (SIZE, THRESHOLDS_DEG, PoseOutcome, PosePair, run_pose, summarize_poses)
from efficient_matcher.evaluate.pose_pairs import BagPairs, known_levels, listed_pairs, scene_pairs
from efficient_matcher.files import check_apart, write_json
from efficient_matcher.scenes.views import LEVELS
from efficient_matcher.sources.bags import ImageBag
from efficient_matcher.sources.image_sets import BAG_SUFFIXES
from efficient_matcher.sources.poses import read_pose_list

SCENES, BAG, LISTED = "scenes", "frames of a bag", "pairs of a list"
OWNERS = {"level": SCENES, "pairs": SCENES, "seed": SCENES, "topic": BAG, "pose_topic": BAG, "gap": BAG,
          "images": LISTED}
COLUMNS = ("AUC", "own fit", "median deg", "own", "precision", "right of 3 px", "matching score", "matches", "no pose")


@dataclass(frozen=True)
class EvaluatePoseOptions:
    """source: a list of pairs or a bag, None where `scenes`, a folder of textures, is given.

    images: of a list, by default `images` beside it. level, pairs, seed: of scenes; pairs per level. topic,
    pose_topic, gap: of a bag. limit: only the first so many pairs. xfeat: weights, to compare XFeat as well.
    """

    source: Path | None = None
    images: Path | None = None
    scenes: Path | None = None
    level: str = "all"
    pairs: int = 100
    seed: int = 7
    topic: str | None = None
    pose_topic: str | None = None
    gap: int = 10
    limit: int | None = None
    methods: Sequence[str] = (BUNDLE,)
    bundles: Sequence[str] = ()
    config: Config = Config()
    json: Path | None = None
    xfeat: Path | None = None


def run(options: EvaluatePoseOptions) -> list[dict[str, Any]]:
    """Evaluate, print the table, write the report; returns the figures per group and method. Raises MatcherError."""
    if (options.source is None) == (options.scenes is None):
        raise ConfigError("give either a list or bag of pairs, or --scenes and a folder of images")
    check_choice("level", [options.level], (*LEVELS, "all"))
    check_apart([options.json], [options.source])
    with ExitStack() as stack:
        skipped: Counter[str] = Counter()
        notes: list[str] = []
        pairs, total = _pairs(options, stack, skipped, notes)
        candidates = open_candidates(options.methods, options.config, options.bundles, options.xfeat)
        outcomes: list[PoseOutcome] = []
        for of_pair in _with_progress(run_pose(pairs, candidates.matchers, options.config.geometry), total):
            outcomes.extend(of_pair)
    if not outcomes:
        raise SourceError(f"{options.source}: no pair to evaluate ({_said(skipped) or 'too few frames'})")
    figures = summarize_poses(outcomes)
    _print(figures, options.config)
    for note in notes:
        print(f"note: {note}")
    if skipped:
        print(f"left out: {_said(skipped)}")
    if options.json is not None:
        write_json(options.json, _report(options, figures, outcomes, candidates, skipped))
    return figures


def _pairs(options: EvaluatePoseOptions, stack: ExitStack, skipped: Counter[str],
           notes: list[str]) -> tuple[Iterator[PosePair], int | None]:
    """The pairs, and how many there are where that is known."""
    if options.scenes is not None:
        _check_options(options, SCENES)
        levels = known_levels(options.level)
        textures = read_textures(options.scenes)
        count = min(options.pairs * len(levels), options.limit or sys.maxsize)
        return islice(scene_pairs(textures, levels, options.pairs, options.seed), count), count
    assert options.source is not None
    if (options.source / LIST).is_file():  # the folder that make-scenes wrote
        options = replace(options, source=options.source / LIST)
    if _is_bag(options.source):
        _check_options(options, BAG)
        bag = stack.enter_context(ImageBag(options.source, options.topic))
        pairs = BagPairs(bag, options.gap, options.pose_topic, options.config.node.undistort,
                         options.config.input.depth_bits, skipped, notes)
        return islice(iter(pairs), options.limit), options.limit
    _check_options(options, LISTED)
    images = options.images or options.source.parent / "images"
    listed = read_pose_list(options.source, images)[:options.limit]
    return listed_pairs(listed, images, options.source.parent / DEPTH), len(listed)


def _check_options(options: EvaluatePoseOptions, source: str) -> None:
    """Raises ConfigError naming an option that another kind of source has, as it would change nothing."""
    for field in fields(options):
        owner = OWNERS.get(field.name, source)
        if owner != source and getattr(options, field.name) != field.default:
            raise ConfigError(f"--{field.name.replace('_', '-')} belongs to {owner}, and here are {source}")


def _is_bag(path: Path) -> bool:
    return path.is_dir() or path.suffix in BAG_SUFFIXES


def _said(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} pairs: {reason}" for reason, count in skipped.items())


def _with_progress(steps: Iterator[list[PoseOutcome]], total: int | None) -> Iterator[list[PoseOutcome]]:
    from rich.console import Console
    from rich.progress import track
    console = Console(stderr=True)
    yield from track(steps, "evaluate", total=total, console=console, disable=not console.is_terminal)


def _print(figures: list[dict[str, Any]], config: Config) -> None:
    rows = []
    for row in figures:
        areas = ["/".join(f"{area:.1f}" for area in row[name].values()) for name in ("auc", "fit_auc")]
        medians = [_number(row[name], 2) for name in ("median_error_deg", "fit_median_error_deg")]
        shares = [_number(row[name]) for name in ("precision", "precision_3px", "matching_score")]
        rows.append((f"{row['group']} {row['method']}", *areas, *medians, *shares,
                     f"{row['matches']:.0f}", f"{row['without_pose']} of {row['pairs']}"))
    print_table(f"relative pose, {config.extract.max_keypoints} keypoints, {SIZE[0]}x{SIZE[1]}, AUC in % at "
                f"{' / '.join(f'{threshold:g}' for threshold in THRESHOLDS_DEG)} degrees", rows, COLUMNS)


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _report(options: EvaluatePoseOptions, figures: list[dict[str, Any]], outcomes: Sequence[PoseOutcome],
            candidates: Candidates, skipped: Counter[str]) -> dict[str, Any]:
    settings = {name: getattr(options, name) for name in (
        "source", "images", "scenes", "level", "pairs", "seed", "topic", "pose_topic", "gap", "limit")}
    rows = [{**asdict(outcome), "error_deg": outcome.error_deg, "fit_error_deg": outcome.fit_error_deg,
             "precision": outcome.precision, "matching_score": outcome.matching_score} for outcome in outcomes]
    return {"command": "evaluate pose", "version": efficient_matcher.__version__, "opencv": cv2.__version__,
            "bundles": candidates.bundle_facts(), "weights": candidates.weights,
            "settings": {**settings, "methods": list(candidates.matchers), **options.config.values()},
            "results": figures, "skipped": dict(skipped), "pairs": rows}
