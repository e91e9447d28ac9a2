"""A matcher in 8 bits: ranges from the features an extractor really gives, judged by the matches that come out.

Each photograph makes a pair with a warped, lit, blurred and noisy view of itself, so that there is something to match;
half of the pairs calibrate, the other half judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from efficient_matcher.config import ExtractConfig, InputConfig, MatchConfig
from efficient_matcher.core.backend import Backend
from efficient_matcher.core.features import Extractor
from efficient_matcher.core.image import to_frame
from efficient_matcher.core.matches import FeatureMatcher
from efficient_matcher.core.stages import WholeNetwork, normalised_keypoints
from efficient_matcher.errors import MatcherError
from efficient_matcher.learn.augment import AugmentConfig, augment
from efficient_matcher.learn.bit_search import Measured, choose, digest, largest_share
from efficient_matcher.learn.calibrate import Histogram, Range, chosen_range, histograms, with_outputs
from efficient_matcher.learn.homographies import TRAINING, random_homography
from efficient_matcher.learn.matcher_qdq import linear_inputs, linear_layers, quantized_matcher
from efficient_matcher.learn.quantize import LinearRecipe, Quantized, check_wider, opened, tried_methods
from efficient_matcher.records import Features

Pair = tuple[Features, Features]


@dataclass(frozen=True)
class MatcherDamage:
    """How far answers are from the float network's: see `MatcherLimits`."""

    matches: float


class MatcherJudge:
    """Holds whole matcher graphs against the float one, through core."""

    def __init__(self, model: onnx.ModelProto, pairs: Sequence[Pair]) -> None:
        self._pairs = pairs
        self._wanted = _all_matched(model, pairs)

    def damage(self, model: onnx.ModelProto) -> MatcherDamage:
        """Averages over the pairs."""
        found = _all_matched(model, self._pairs)
        return MatcherDamage(float(np.mean([_changed(*both) for both in zip(self._wanted, found)])))


def view_pairs(extractor: Backend, images: Sequence[NDArray[np.uint8]], seed: int = 0) -> list[Pair]:
    """Features of each image [H,W] and of a warped and changed view of it, as core extracts them.

    Pairs of which one has no keypoints are left out. Raises MatcherError when fewer than two are left.
    """
    extract, pairs = Extractor(extractor, ExtractConfig()), []
    for index, image in enumerate(images):
        rng = np.random.default_rng([seed, index])
        height, width = image.shape
        matrix = random_homography(rng, width, height, TRAINING)
        view = augment(cv2.warpPerspective(image, matrix, (width, height)), rng, AugmentConfig())
        pair = tuple(extract(to_frame(entry, InputConfig(width=width, height=height))) for entry in (image, view))
        if all(map(len, pair)):
            pairs.append(pair)
    if len(pairs) < 2:
        raise MatcherError("calibration: fewer than two images have keypoints to match")
    return pairs


def quantize_matcher(model: onnx.ModelProto, pairs: Sequence[Pair], recipe: LinearRecipe, notes: Path | None = None,
                     on_step: Callable[[str], None] = lambda what: None) -> Quantized[MatcherDamage]:
    """Calibrate a whole float matcher on every second pair and judge on the others; the rest as `quantize.quantize`.

    Raises RecipeError for unknown layers.
    """
    part, known = recipe.matcher, list(linear_layers(model))
    layers = check_wider(part.wider, known, "matcher.wider")
    on_step("calibrating")
    seen = _histograms(model, pairs[::2])
    judge = MatcherJudge(model, pairs[1::2])
    measured = Measured(notes, [digest(model.SerializeToString()), asdict(recipe),
                                [digest(features.descriptors.tobytes()) for pair in pairs for features in pair]])

    def ranges(method: str) -> dict[str, Range]:
        return {name: chosen_range(histogram, method, recipe.percentile) for name, histogram in seen.items()}

    def damage(method: str, chosen: Sequence[str]) -> MatcherDamage:
        on_step(f"{method}, {len(chosen)} layers")
        return MatcherDamage(**measured(f"{method}: {' '.join(chosen)}", lambda: judge.damage(
            quantized_matcher(model, ranges(method), chosen))))

    choice = choose(layers, tried_methods(recipe.calibration), damage, lambda cost: largest_share(cost, part.limits))
    used = ranges(choice.method)
    return Quantized(
        quantized_matcher(model, used, choice.layers), choice.method,
        tuple(layer for layer in known if layer not in choice.layers), choice.cost, used, seen, choice.methods,
        choice.alone)


def _histograms(model: onnx.ModelProto, pairs: Sequence[Pair]) -> dict[str, Histogram]:
    """Of each pair in both orders: the two images share their ranges, as they share the weights."""
    names = linear_inputs(model)
    backend = opened(with_outputs(model, names))
    inputs = [_inputs(*order) for pair in pairs for order in (pair, pair[::-1])]
    return histograms(backend.run, inputs, names)


def _inputs(*pair: Features) -> dict[str, NDArray[Any]]:
    return {f"{name}{image}": value for image, features in enumerate(pair)
            for name, value in (("keypoints", normalised_keypoints(features)), ("scores", features.scores),
                                ("descriptors", features.descriptors))}


def _all_matched(model: onnx.ModelProto, pairs: Sequence[Pair]) -> list[set[tuple[int, int]]]:
    # Of the network alone: where few matches are likely, whether neighbours confirm them all or none hangs by a hair.
    matcher = FeatureMatcher(WholeNetwork(opened(model)), MatchConfig(motion_prior=False))
    return [set(map(tuple, matcher(*pair)[0].indices.tolist())) for pair in pairs]


def _changed(wanted: set[tuple[int, int]], found: set[tuple[int, int]]) -> float:
    """Share of both answers' matches that only one has."""
    either = wanted | found
    return len(wanted ^ found) / len(either) if either else 0.0
