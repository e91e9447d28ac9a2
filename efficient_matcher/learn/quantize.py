"""An extractor in 8 bits: ranges from real images, and layers left wider where a measurement asks for it.

Everything is judged by what reaches the user, through core's own decoding: how far keypoints move against the float
network, how many are lost, how far descriptors turn. Measurements are kept in a file as they are made, so that a run
that was stopped goes on where it was.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Generic, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from efficient_matcher.config import ExtractConfig
from efficient_matcher.core.backend import Backend, open_model
from efficient_matcher.core.features import detect, sample_descriptors
from efficient_matcher.errors import MatcherError, RecipeError
from efficient_matcher.learn.bit_search import D, Measured, choose, digest, largest_share
from efficient_matcher.learn.calibrate import (METHODS, Histogram, Range, chosen_range, histograms, observed_tensors,
                                               with_outputs)
from efficient_matcher.learn.qdq import answering_in_bytes, layers_of, quantized
from efficient_matcher.learn.recipe import setting

FOUND_PX = 3.0  # a keypoint further from all others is lost
SAME_EXTREMES = 1e-3  # of the larger one; another layout sums in another order
Maps = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Limits:
    """What the 8-bit extractor may do to the float one's answers, on average over the judged images."""

    shift_px: float = setting(0.05, minimum=0.0)  # median move of a keypoint
    lost: float = setting(0.06, minimum=0.0, maximum=1.0)  # share without a keypoint within FOUND_PX
    descriptor: float = setting(0.01, minimum=0.0)  # 1 - cosine


@dataclass(frozen=True)
class MatcherLimits:
    """What the 8-bit matcher may do to the float one's answers, on average over the judged pairs of views."""

    matches: float = setting(0.05, minimum=0.0, maximum=1.0)  # share of both answers' matches that only one has


@dataclass(frozen=True)
class MatcherBits:
    """The matcher's part. quantize: else it stays float. wider: layers that stay float anyway."""

    quantize: bool = True
    limits: MatcherLimits = field(default_factory=MatcherLimits)
    wider: tuple[str, ...] = ()


@dataclass(frozen=True)
class LinearRecipe:
    """`quantize --method linear`. Of 4 and 16 bits, only `bits` counts: they are about stored weights alone.

    images: of the folder, evenly spread, half to calibrate and half to judge. calibration: `best` measures all.
    layout: `phases` for onnxruntime's 8-bit kernels, `plain` for OpenVINO's, `both` in a file each, with the same
    ranges and each held to the limits. wider: layers that stay float anyway.
    """

    bits: int = setting(8, choices=(4, 8, 16))
    images: int = setting(16, minimum=2)
    calibration: Literal["best", "min-max", "percentile", "entropy", "mse"] = "best"
    percentile: float = setting(99.99, minimum=50, below=100)
    layout: Literal["phases", "plain", "both"] = "phases"
    limits: Limits = field(default_factory=Limits)
    wider: tuple[str, ...] = ()
    matcher: MatcherBits = field(default_factory=MatcherBits)


@dataclass(frozen=True)
class Damage:
    """How far answers are from the float network's: see Limits."""

    shift_px: float
    lost: float
    descriptor: float


@dataclass(frozen=True)
class Quantized(Generic[D]):
    """A graph, and how it came about; D says what fewer bits do to its answers.

    alone: damage of each layer quantized by itself; empty if none had to be measured. methods: damage of all layers
    together, by calibration.
    """

    model: onnx.ModelProto
    calibration: str
    wider: tuple[str, ...]
    damage: D
    ranges: dict[str, Range]
    histograms: dict[str, Histogram]
    methods: dict[str, D]
    alone: dict[str, D]


class Judge:
    """Holds graphs against the float one on images [H,W] uint8, through core."""

    def __init__(self, model: onnx.ModelProto, images: Sequence[NDArray[np.uint8]]) -> None:
        self._images = images
        self._config = ExtractConfig()
        backend = opened(model)
        self._wanted = [self._answer(backend, image) for image in images]

    def damage(self, model: onnx.ModelProto) -> Damage:
        """Averages over the images."""
        backend = opened(model)
        found = [_difference(wanted, self._answer(backend, image)) for wanted, image in zip(self._wanted, self._images)]
        return Damage(*(float(value) for value in np.mean(found, axis=0)))

    def _answer(self, backend: Backend, image: NDArray[np.uint8]) -> Maps:
        outputs = backend.run({"image": image[None, None]})
        return {"points": detect(outputs["scores"][0], self._config)[0], "coarse": outputs["descriptors"][0].copy()}


def quantize(model: onnx.ModelProto, images: Sequence[NDArray[np.uint8]], recipe: LinearRecipe,
             notes: Path | None = None, on_step: Callable[[str], None] = lambda what: None,
             like: Quantized[Damage] | None = None) -> Quantized[Damage]:
    """Calibrate on every second image [H,W] and judge on the others; the float `model` reads `image`.

    like: the same network in another layout and on the same images; its calibration, its float layers and its ranges
    are taken over where they mean the same, so that both layouts round alike and give nearly the same answers.
    notes: file of measurements, gone on from and written as they are made. on_step: called before each step of work.
    Raises RecipeError for unknown layers, MatcherError when the images are too few or empty.
    """
    layers = check_wider(recipe.wider, layers_of(model), "wider")
    if like is not None:
        recipe = replace(recipe, calibration=like.calibration)
        layers = [layer for layer in layers if layer not in like.wider]
    images = _with_content(images)
    on_step("calibrating")
    seen = _histograms(model, images[::2])
    judge = Judge(model, images[1::2])
    measured = Measured(notes, [digest(model.SerializeToString()), asdict(recipe), like and [like.ranges, like.wider],
                                [digest(image.tobytes()) for image in images]])

    def ranges(method: str) -> dict[str, Range]:
        return {**_ranges(seen, method, recipe), **(_shared_ranges(seen, like) if like else {})}

    def graph(method: str, chosen: Sequence[str]) -> onnx.ModelProto:
        return answering_in_bytes(quantized(model, ranges(method), chosen))

    def damage(method: str, chosen: Sequence[str]) -> Damage:
        on_step(f"{method}, {len(chosen)} layers")
        return Damage(**measured(f"{method}: {' '.join(chosen)}", lambda: judge.damage(graph(method, chosen))))

    choice = choose(layers, tried_methods(recipe.calibration), damage, lambda cost: largest_share(cost, recipe.limits))
    wider = tuple(layer for layer in layers_of(model) if layer not in choice.layers)
    return Quantized(graph(choice.method, choice.layers), choice.method, wider, choice.cost,
                     ranges(choice.method), seen, choice.methods, choice.alone)


def calibrated_ranges(model: onnx.ModelProto, images: Sequence[NDArray[np.uint8]],
                      method: str = "mse") -> dict[str, Range]:
    """What the tensors of a float `model` take on images [H,W] uint8, by one calibration. Raises MatcherError."""
    return _ranges(_histograms(model, _with_content(images)), method, LinearRecipe())


def tried_methods(calibration: str) -> tuple[str, ...]:
    """Those of a recipe's `calibration`."""
    return METHODS if calibration == "best" else (calibration,)


def check_wider(names: Sequence[str], known: Sequence[str], where: str) -> list[str]:
    """The `known` layers without those in `names`. Raises RecipeError for a name that is unknown; `where`: its key."""
    for name in names:
        if name not in known:
            raise RecipeError(f"{where}: unknown layer '{name}' (known: {', '.join(known)})")
    return [name for name in known if name not in names]


def opened(model: onnx.ModelProto, threads: int = 0) -> Backend:
    """The graph in core's onnxruntime backend; `threads` as there."""
    with tempfile.TemporaryDirectory(prefix="efficient-matcher-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, str(path))
        return open_model(path, threads, kind="onnxruntime")


def _with_content(images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    kept = [image for image in images if image.max() > image.min()]
    if not kept:
        raise MatcherError("calibration: every image is of one brightness all over; nothing can be learned from them")
    if len(kept) < 2:
        raise MatcherError("calibration: needs at least two images with content, to calibrate and to judge")
    return kept


def _histograms(model: onnx.ModelProto, images: Sequence[NDArray[np.uint8]]) -> dict[str, Histogram]:
    names = observed_tensors(model)
    backend = opened(with_outputs(model, names))
    return histograms(backend.run, [{"image": image[None, None]} for image in images], names)


def _ranges(seen: dict[str, Histogram], method: str, recipe: LinearRecipe) -> dict[str, Range]:
    ranges = {name: chosen_range(histogram, method, recipe.percentile) for name, histogram in seen.items()}
    # Bytes are exact as they are.
    return {**ranges, **{name: (0.0, 255.0) for name in ranges if name == "image/float"}}


def _shared_ranges(seen: dict[str, Histogram], like: Quantized[Damage]) -> dict[str, Range]:
    """Ranges of `like` for tensors of the same name that also hold the same: a name alone may mean another thing."""
    def same(mine: Histogram, other: Histogram) -> bool:
        slack = SAME_EXTREMES * max(-other.low, other.high)
        return max(abs(mine.low - other.low), abs(mine.high - other.high)) <= slack
    return {name: like.ranges[name] for name in seen
            if name in like.ranges and same(seen[name], like.histograms[name])}


def _difference(wanted: Maps, found: Maps) -> tuple[float, float, float]:
    if not len(wanted["points"]):
        return 0.0, 0.0, 0.0
    if not len(found["points"]):
        return FOUND_PX, 1.0, 1.0
    nearest = np.linalg.norm(wanted["points"][:, None] - found["points"][None], axis=2).min(axis=1)
    kept = nearest <= FOUND_PX
    pair = [sample_descriptors(maps["coarse"], wanted["points"]) for maps in (wanted, found)]
    turn = 1 - np.einsum("nd,nd->n", *pair)
    return (float(np.median(nearest[kept])) if kept.any() else FOUND_PX), float(1 - kept.mean()), float(turn.mean())
