"""`match-pairs`: a list of image pairs, into files that structure from motion reads."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import efficient_matcher
from efficient_matcher.commands.common import distribution, print_table
from efficient_matcher.config import Config
from efficient_matcher.core.pipeline import Image, Matcher
from efficient_matcher.errors import ImageError, SourceError
from efficient_matcher.files import check_apart, result_folder, write_json
from efficient_matcher.records import Features
from efficient_matcher.ros.messages import model_hash
from efficient_matcher.sources.images import read_image
from efficient_matcher.sources.match_files import FEATURES, MATCHES, MatchFiles, check_names
from efficient_matcher.sources.pairs import read_named_pairs
from efficient_matcher.stopping import StopSignals

REMEMBERED = 64  # images whose features are kept at hand; others are read back from the file


@dataclass(frozen=True)
class MatchPairsOptions:
    """list: pairs by name; images: their folder, by default `images` beside the list. out: folder of the two files,
    which an earlier run with the same networks and settings may have begun; overwrite: begin anew. json: the table's
    numbers."""

    list: Path
    out: Path
    images: Path | None = None
    config: Config = Config()
    overwrite: bool = False
    json: Path | None = None


def run(options: MatchPairsOptions) -> bool:
    """Match all pairs that are not there yet and print the table; False when stopped. Raises MatcherError."""
    images = options.images or options.list.parent / "images"
    check_apart([options.json, options.out / FEATURES, options.out / MATCHES], [options.list])
    pairs = read_named_pairs(options.list, images)
    check_names(name for pair in pairs for name in pair)
    # a keypoint of a map is one place in its image, so nothing moves it from pair to pair
    matcher = Matcher.from_bundle(options.config.model.bundle, options.config.with_values({"refine.enabled": False}))
    folder = result_folder(options.out, (FEATURES, MATCHES) if options.overwrite else (), True, options.list)
    work = _Work(matcher, images, MatchFiles(folder, _made_by(matcher)))
    with StopSignals() as stop:
        finished = _all_matched(work, pairs, stop)
    report = work.report(len(pairs))
    for name, reason in work.skipped.items():
        print(f"skipped {name}: {reason}")
    if options.json is not None:
        write_json(options.json, {"command": "match-pairs", "version": efficient_matcher.__version__, **report})
    print_table("match-pairs", _rows(report, folder))
    if finished and work.skipped and not report["pairs_matched"] + report["pairs_there_before"]:
        raise SourceError(f"{options.list}: no pair of it could be matched")
    return finished


@dataclass
class _Work:
    """Matches pairs one by one; each image is read and extracted once."""

    matcher: Matcher
    images: Path
    files: MatchFiles
    skipped: dict[str, str] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)
    there_before: int = 0
    without_image: int = 0
    extracted: int = 0
    seconds: float = 0.0
    known: OrderedDict[str, Features] = field(default_factory=OrderedDict)

    def match(self, name0: str, name1: str) -> None:
        """Match and write a pair, unless it is there, or an image of it cannot be read. Raises MatcherError."""
        if self.files.has_matches(name0, name1):
            self.there_before += 1
            return
        begun = perf_counter()
        features0, features1 = self._features(name0), self._features(name1)
        if features0 is None or features1 is None:
            self.without_image += 1
            return
        matches = self.matcher.match(features0, features1).matches
        self.files.write_matches(name0, name1, matches, len(features0))
        self.counts.append(len(matches))
        self.seconds += perf_counter() - begun

    def report(self, pairs: int) -> dict[str, Any]:
        """What --json writes."""
        return {"pairs": pairs, "pairs_matched": len(self.counts), "pairs_there_before": self.there_before,
                "pairs_without_image": self.without_image, "images_extracted": self.extracted, "skipped": self.skipped,
                "matches": distribution(self.counts),
                "ms_per_pair": 1e3 * self.seconds / len(self.counts) if self.counts else None,
                "bundle": self.matcher.card.name if self.matcher.card else None, "config": self.matcher.config.values()}

    def _features(self, name: str) -> Features | None:
        if name in self.skipped:
            return None
        found = self.known.get(name)
        if found is None:
            try:
                found = self._read_back(name)
                found = self._extracted(name) if found is None else found
            except (SourceError, ImageError) as error:
                self.skipped[name] = str(error).removeprefix(f"{self.images / name}: ")
                return None
        self.known[name] = found
        self.known.move_to_end(name)
        while len(self.known) > REMEMBERED:
            self.known.popitem(last=False)
        return found

    def _read_back(self, name: str) -> Features | None:
        """What the file has of an image, if it is there."""
        found = self.files.features(name)
        if found is None or not self.matcher.config.match.turns:
            return found
        return replace(found, frame=self.matcher.to_frame(self._image(name)))

    def _extracted(self, name: str) -> Features:
        found = self.matcher.extract(self._image(name))
        self.files.write_features(name, found)
        self.extracted += 1
        return found

    def _image(self, name: str) -> Image:
        """Raises SourceError."""
        return read_image(self.images / name, self.matcher.config.input.depth_bits)


def _all_matched(work: _Work, pairs: list[tuple[str, str]], stop: StopSignals) -> bool:
    """False when stopped before the end."""
    from rich.console import Console
    from rich.progress import track
    console = Console(stderr=True)
    for name0, name1 in track(pairs, "matching", console=console, disable=not console.is_terminal):
        if stop.requested:
            return False
        work.match(name0, name1)
    return True


def _made_by(matcher: Matcher) -> str:
    """What features and matches depend on, as text."""
    config = matcher.config
    parts = {"input": asdict(config.input), "extract": asdict(config.extract), "match": asdict(config.match)}
    return json.dumps({"model": model_hash(matcher.card) if matcher.card else None, **parts}, sort_keys=True)


def _rows(report: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
    rows = [("pairs", str(report["pairs"])), ("matched now", str(report["pairs_matched"]))]
    rows += [(label, str(report[key])) for label, key in (
        ("there before", "pairs_there_before"), ("without an image", "pairs_without_image")) if report[key]]
    if report["matches"] is not None:
        found = report["matches"]
        rows += [("matches a pair", f"median {found['median']:.0f}, {found['min']:.0f} to {found['max']:.0f}"),
                 ("ms a pair", f"{report['ms_per_pair']:.1f}, images and files included")]
    return rows + [("-> features", str(folder / FEATURES)), ("-> matches", str(folder / MATCHES))]
