"""What an evaluation compares: bundles with and without their matcher network, classical methods, and XFeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficient_matcher.config import Config
from efficient_matcher.core.bundle import file_sha256
from efficient_matcher.core.pipeline import Matcher
from efficient_matcher.errors import ConfigError
from efficient_matcher.evaluate.baselines import BASELINES, Baseline
from efficient_matcher.evaluate.homography import NearestNeighbourMatcher, PairMatcher
from efficient_matcher.evaluate.xfeat import XFEAT, XFeat
from efficient_matcher.records import ModelCard
from efficient_matcher.ros.messages import model_hash

BUNDLE, NEAREST = "bundle", "nearest"
METHODS = (BUNDLE, NEAREST, *BASELINES)


@dataclass(frozen=True)
class Candidates:
    """matchers: by the name that tables give them. cards: of the bundles among them, by name. weights: SHA-256 of the
    files that others were read from, by name."""

    matchers: dict[str, PairMatcher]
    cards: dict[str, ModelCard]
    weights: dict[str, str]

    def bundle_facts(self) -> dict[str, Any]:
        """What a report says of each bundle."""
        return {name: {"name": card.name, "hash": model_hash(card), "files": card.files}
                for name, card in self.cards.items()}


def open_candidates(methods: Sequence[str], config: Config, bundles: Sequence[str] = (),
                    xfeat: Path | None = None) -> Candidates:
    """Open `methods` (of `METHODS`), those of networks once for each bundle, by default the config's one.

    One bundle is called `bundle`, and `nearest` with nearest neighbours in place of its matcher network; several are
    called by their own names. xfeat: its weights, where XFeat is compared as well. Raises ConfigError on an unknown
    method, BundleError on a bundle that is not whole, WeightsError on weights that are not XFeat's.
    """
    check_choice("method", methods, METHODS)
    wanted = [method for method in (BUNDLE, NEAREST) if method in methods]
    labels = _labels(list(dict.fromkeys(bundles)) or [config.model.bundle]) if wanted else {}
    matchers: dict[str, PairMatcher] = {}
    cards = {}
    for label, bundle in labels.items():
        core = Matcher.from_bundle(bundle, config)
        if core.card is not None:
            cards[label] = core.card
        kinds = {BUNDLE: core, NEAREST: NearestNeighbourMatcher(core)}
        matchers.update({_name(label, kind): kinds[kind] for kind in wanted})
    for name in dict.fromkeys(methods):
        if name in BASELINES:
            matchers[name] = Baseline(name, config.extract.max_keypoints, config.geometry)
    weights = {}
    if xfeat is not None:
        matchers[XFEAT] = XFeat(xfeat, config.extract.max_keypoints, config.geometry, config.model.threads)
        weights[XFEAT] = file_sha256(xfeat)
    return Candidates(matchers, cards, weights)


def check_choice(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raise ConfigError on the first of `given` that is not among `known`."""
    for name in given:
        if name not in known:
            raise ConfigError(f"unknown {what} '{name}', known: {', '.join(known)}")


def _labels(bundles: list[str]) -> dict[str, str]:
    if len(bundles) == 1:
        return {BUNDLE: bundles[0]}
    names = [Path(bundle).name for bundle in bundles]
    unique = len(set(names)) == len(names) and not set(names) & {*METHODS, XFEAT}
    return dict(zip(names if unique else bundles, bundles))


def _name(label: str, kind: str) -> str:
    if label == BUNDLE:
        return kind
    return label if kind == BUNDLE else f"{label} {NEAREST}"
