"""The homography benchmark: image pairs with an exact truth, matched by several methods side by side.

Each pair is matched as a robot would do it (features of image 0 once, then of each variant of image
1) through core's own `extract` and `match`. Two homographies are judged: OpenCV's plain RANSAC, which
makes figures comparable with published ones, and the project's own fit; both again after photometric
refinement, which needs the images. A pair with fewer than 12 matches of the networks is a failure in
the `strict` figures and left out of the `paper` ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import Config
from efficient_matcher.core.geometry import corner_error, fit_matches
from efficient_matcher.core.matches import nearest_neighbour_matches
from efficient_matcher.core.pipeline import Matcher
from efficient_matcher.evaluate.diagnosis import CAUSES, FINE, diagnose
from efficient_matcher.evaluate.fits import MINIMUM_MATCHES, fit_ransac
from efficient_matcher.evaluate.metrics import MatchCounts, area_under_curve, count_matches, true_matches
from efficient_matcher.evaluate.warps import SIZE, WarpedPair, degrade, warp_image
from efficient_matcher.records import Features, PairResult
from efficient_matcher.sources.images import read_image
from efficient_matcher.sources.pairs import HomographyPair

THRESHOLDS_PX = (5.0, 10.0, 25.0)
VARIANTS = ("clean", "hard")
ESTIMATORS = ("ransac", "robust")  # OpenCV's RANSAC, and core's fit
REFINED = ("refined_ransac", "refined_robust")  # the same of refined matches, where a method can refine


class PairMatcher(Protocol):
    """What is evaluated: core's `Matcher`, or whatever has the same two methods."""

    def extract(self, image: NDArray[np.uint8], /) -> Features: ...

    def match(self, features0: Features, features1: Features, /) -> PairResult: ...


class NearestNeighbourMatcher:
    """A bundle's extractor with mutual nearest neighbours in place of its matcher network."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher

    @property
    def extractor(self) -> Matcher:
        """Whose features these are: what is evaluated beside its own `Matcher` need not extract them again."""
        return self._matcher

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self._matcher.config

    def extract(self, image: NDArray[np.uint8]) -> Features:
        """Features of an image, by the bundle's extractor."""
        return self._matcher.extract(image)

    def match(self, features0: Features, features1: Features) -> PairResult:
        """Mutual nearest neighbours by descriptor, and core's homography."""
        matches = nearest_neighbour_matches(features0, features1)
        homography = fit_matches(features0, features1, matches, self._matcher.config.geometry)
        return PairResult(features0, features1, matches, homography)

    def refine(self, result: PairResult, image0: NDArray[np.uint8], image1: NDArray[np.uint8]) -> PairResult:
        """The result with refined matches, by the bundle's settings."""
        return self._matcher.refine(result, image0, image1)


@runtime_checkable
class Refining(Protocol):
    """A `PairMatcher` that can refine its matches, and does so where its settings say."""

    @property
    def config(self) -> Config: ...

    def refine(self, result: PairResult, image0: NDArray[np.uint8], image1: NDArray[np.uint8], /) -> PairResult: ...


@dataclass(frozen=True)
class PairOutcome:
    """One pair, one variant, one method.

    keypoints: of image 0 and 1. corner_errors: mean over the four image corners, px, per estimator of
    `ESTIMATORS` and, for methods that refine, `REFINED`; infinite where there is no homography. cause: of
    `diagnosis`, why RANSAC's is above 5 px. refined_counts: of the matches after refinement.
    """

    index: int
    name: str
    variant: str
    method: str
    keypoints: tuple[int, int]
    counts: MatchCounts
    corner_errors: dict[str, float]
    cause: str = FINE
    refined_counts: MatchCounts | None = None

    @property
    def kept(self) -> bool:
        """Whether there are matches enough for the `paper` figures."""
        return self.counts.predicted >= MINIMUM_MATCHES

    def strict_error(self, estimator: str) -> float:
        """The corner error in px, infinite with too few matches."""
        return self.corner_errors[estimator] if self.kept else float("inf")


def run_benchmark(
    pairs: Sequence[HomographyPair], methods: Mapping[str, PairMatcher], variants: Sequence[str] = VARIANTS,
) -> Iterator[list[PairOutcome]]:
    """Evaluate pair after pair; one list per pair, of every method and variant.

    The pair's place in `pairs` seeds its `hard` variant. Raises SourceError naming an image that cannot be read.
    """
    for index, pair in enumerate(pairs):
        truth = load_pair(pair)
        images = {"": truth.image0, **{variant: variant_image(truth, variant, index) for variant in variants}}
        extract = shared_extraction(images)
        outcomes = []
        for method, matcher in methods.items():
            for variant in variants:
                result = matcher.match(extract(matcher, ""), extract(matcher, variant))
                keypoints = len(result.features0), len(result.features1)
                counts, errors = judge(result, truth.H_0to1)
                cause = diagnose(result, truth.H_0to1, THRESHOLDS_PX[0]).cause
                refined_counts = None
                if isinstance(matcher, Refining) and matcher.config.refine.enabled:
                    refined = matcher.refine(result, images[""], images[variant])
                    refined_counts, again = judge(refined, truth.H_0to1)
                    errors.update({name: again[plain] for name, plain in zip(REFINED, ESTIMATORS)})
                outcomes.append(PairOutcome(index, pair.name, variant, method, keypoints, counts, errors, cause,
                                            refined_counts))
        yield outcomes


def shared_extraction(images: Mapping[str, NDArray[np.uint8]]) -> Callable[[PairMatcher, str], Features]:
    """`extract(matcher, name of the image)`, done once for all matchers that have the same extractor."""
    known: dict[tuple[int, str], Features] = {}

    def extract(matcher: PairMatcher, name: str) -> Features:
        key = id(getattr(matcher, "extractor", matcher)), name
        if key not in known:
            known[key] = matcher.extract(images[name])
        return known[key]

    return extract


def load_pair(pair: HomographyPair) -> WarpedPair:
    """Read a listed image and warp it. Raises SourceError naming the image."""
    return warp_image(read_image(pair.path), pair.homography)


def variant_image(pair: WarpedPair, variant: str, index: int) -> NDArray[np.uint8]:
    """Image 1 [H,W] of a variant; `index` is the pair's place in its list."""
    return degrade(pair.image1, index) if variant == "hard" else pair.image1


def judge(result: PairResult, H_0to1: NDArray[np.float64]) -> tuple[MatchCounts, dict[str, float]]:
    """Hold matches and homographies of a pair against the truth: counts, and corner errors in px."""
    truth = true_matches(result.features0.keypoints, result.features1.keypoints, H_0to1)
    counts = count_matches(result.matches.indices, truth)
    estimates = {"ransac": fit_ransac(result.points0, result.points1), "robust": result.homography.matrix}
    return counts, {name: _error(estimate, H_0to1) for name, estimate in estimates.items()}


def _error(estimate: NDArray[np.float64] | None, H_0to1: NDArray[np.float64]) -> float:
    error = np.inf if estimate is None else corner_error(estimate, H_0to1, SIZE)
    return float(error) if np.isfinite(error) else float("inf")


def summarize(outcomes: Iterable[PairOutcome]) -> list[dict[str, Any]]:
    """Figures per method and variant, in the order they first appear.

    `strict` and `paper` each hold `auc` (percent at 5, 10, 25 px, per estimator), `precision` and
    `recall` (percent, means over pairs; None without pairs); `precision` and `recall` outside are the strict ones.
    `refined`: `precision`, `recall` and mean number of `matches` after refinement, None where there is none.
    `failures`: how many pairs are above 5 px by RANSAC's fit, by cause.
    """
    groups: dict[tuple[str, str], list[PairOutcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.method, outcome.variant), []).append(outcome)
    return [_figures(method, variant, group) for (method, variant), group in groups.items()]


def _figures(method: str, variant: str, group: list[PairOutcome]) -> dict[str, Any]:
    kept = [outcome for outcome in group if outcome.kept]
    strict = _figures_of(group)
    medians = {name: float(np.median([outcome.strict_error(name) for outcome in group]))
               for name in group[0].corner_errors}
    return {
        "method": method, "variant": variant, "pairs": len(group), "dropped": len(group) - len(kept),
        "strict": strict, "paper": _figures_of(kept),
        "precision": strict["precision"], "recall": strict["recall"], "refined": _refined_figures(group),
        "keypoints": _mean([sum(outcome.keypoints) / 2 for outcome in group]),
        "matches": _mean([outcome.counts.predicted for outcome in group]),
        "median_corner_error_px": medians,
        "failures": {cause: sum(outcome.cause == cause for outcome in group) for cause in CAUSES},
    }


def _refined_figures(group: list[PairOutcome]) -> dict[str, Any] | None:
    counts = [outcome.refined_counts for outcome in group if outcome.refined_counts is not None]
    if not counts:
        return None
    return {"precision": _mean([count.precision for count in counts]),
            "recall": _mean([count.recall for count in counts]),
            "matches": _mean([count.predicted for count in counts])}


def _figures_of(group: list[PairOutcome]) -> dict[str, Any]:
    auc = {}
    for estimator in group[0].corner_errors if group else ESTIMATORS:
        areas = area_under_curve([outcome.strict_error(estimator) for outcome in group], THRESHOLDS_PX)
        auc[estimator] = {f"{threshold:g}": area for threshold, area in zip(THRESHOLDS_PX, areas)}
    return {"auc": auc, "precision": _mean([outcome.counts.precision for outcome in group]),
            "recall": _mean([outcome.counts.recall for outcome in group])}


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None
