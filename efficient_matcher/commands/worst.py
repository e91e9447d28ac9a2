"""Pictures of the pairs that a method does worst on, and a line on why each fails."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

from efficient_matcher.draw import draw_matches
from efficient_matcher.evaluate.diagnosis import diagnose
from efficient_matcher.evaluate.homography import PairMatcher, PairOutcome, load_pair, variant_image
from efficient_matcher.files import write_bytes_atomic
from efficient_matcher.records import Frame, PairResult
from efficient_matcher.sources.pairs import HomographyPair

Worst = dict[str, Any]  # method, variant, rank, name, corner_error_px, cause, why


def worst_pairs(pairs: Sequence[HomographyPair], matchers: Mapping[str, PairMatcher], outcomes: Sequence[PairOutcome],
                count: int, folder: Path | None = None) -> Iterator[Worst]:
    """The `count` pairs with the largest corner errors of each method and variant, worst first, and why.

    With a folder, each is drawn there: right matches blue to yellow, wrong ones red. Raises MatcherError naming a
    picture that cannot be written.
    """
    for rank, outcome in _ranked(outcomes, count):
        result, H_0to1 = _again(pairs[outcome.index], matchers[outcome.method], outcome)
        found = diagnose(result, H_0to1)
        error = outcome.strict_error("ransac")
        if folder is not None:
            shown = replace(result, homography=replace(result.homography, inliers=found.right))
            caption = (f"{outcome.name} {outcome.variant}: corner error {error:.1f} px, {int(found.right.sum())} of "
                       f"{len(found.right)} matches right. {found.cause}: {found.sentence()}")
            write_bytes_atomic(folder / _file_name(outcome, rank), _png(shown, caption))
        yield {"method": outcome.method, "variant": outcome.variant, "rank": rank, "name": outcome.name,
               "corner_error_px": error, "cause": found.cause, "why": found.sentence()}


def _again(pair: HomographyPair, matcher: PairMatcher, outcome: PairOutcome) -> tuple[PairResult, Any]:
    truth = load_pair(pair)
    image1 = variant_image(truth, outcome.variant, outcome.index)
    result = matcher.match(matcher.extract(truth.image0), matcher.extract(image1))
    return replace(result, frame0=Frame(truth.image0), frame1=Frame(image1)), truth.H_0to1


def _ranked(outcomes: Sequence[PairOutcome], count: int) -> Iterator[tuple[int, PairOutcome]]:
    for method, variant in dict.fromkeys((o.method, o.variant) for o in outcomes):
        group = [o for o in outcomes if (o.method, o.variant) == (method, variant)]
        group.sort(key=lambda o: (-o.strict_error("ransac"), o.index))
        yield from enumerate(group[:count], start=1)


def _file_name(outcome: PairOutcome, rank: int) -> str:
    method = re.sub(r"[^\w.-]+", "_", outcome.method)  # a bundle may be called by its path
    return f"{method}_{outcome.variant}_{rank:02d}_{Path(outcome.name).stem}.png"


def _png(result: PairResult, caption: str) -> bytes:
    picture = draw_matches(result, max_matches=len(result.matches), caption=caption)
    return cv2.imencode(".png", picture)[1].tobytes()
