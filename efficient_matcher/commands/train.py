"""`efficient-matcher train detector | superpoint | superglue | locator`: drawings or images to weight files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from efficient_matcher.commands.common import print_table
from efficient_matcher.commands.runs import (
    RunOptions, compute_of, launch_run, loop_of, plain_notes, reporter, run_notes, scene_pairs, training_images)
from efficient_matcher.errors import MatcherError
from efficient_matcher.files import check_apart, write_json

LICENCE = "Apache-2.0"
NOT_SHOWN = ("recipe", "begun_with")


@dataclass(frozen=True)
class TrainOptions(RunOptions):
    """superpoint: weight file of the extractor, for training the matcher or a locator; start: weights to begin with.

    scenes_share: of the matcher's pairs that are views of synthetic scenes; scenes: how many of these are rendered.
    labels: `sift`, or `adapted`, made by the weights `detector`; adaptation: how. recipe: a file, or one that ships.
    """

    superpoint: Path | None = None
    start: Path | None = None
    scenes_share: float = 0.0
    scenes: int = 600
    labels: str = "sift"
    detector: Path | None = None
    adaptation: Any = None
    recipe: str | None = None


def run_detector(options: TrainOptions) -> dict[str, Any]:
    """Train a detector of corners on synthetic shapes and write `detector.safetensors`; the same otherwise."""
    return _run(options, "detector", _detector_process)


def run_superpoint(options: TrainOptions) -> dict[str, Any]:
    """Train a SuperPoint and write `superpoint.safetensors`; returns what --json writes. Raises MatcherError."""
    if options.labels == "adapted" and options.detector is None:
        raise MatcherError("adapted labels need --detector, the weights of a trained one")
    if options.labels != "adapted" and options.detector is not None:
        raise MatcherError("--detector belongs to --labels adapted")
    return _run(options, "superpoint", _superpoint_process)


def run_superglue(options: TrainOptions) -> dict[str, Any]:
    """Train a SuperGlue on the features of a trained SuperPoint; the same otherwise."""
    return _run(options, "superglue", _superglue_process)


def run_locator(options: TrainOptions) -> dict[str, Any]:
    """Train a locator for a SuperPoint and write `superpoint.safetensors`, which has both; the same otherwise."""
    return _run(options, "superpoint", _locator_process, "locator")


def _run(options: TrainOptions, name: str, process: Callable[[TrainOptions, int], None],
         what: str = "") -> dict[str, Any]:
    """name: of the file that is written; what: is trained, where that is not the same."""
    from efficient_matcher.learn.weights import read_weights
    _recipe(options, what or name)  # before processes start
    check_apart([options.out / f"{name}.safetensors"], [options.superpoint, options.start, options.detector])
    reports = launch_run(options, process)
    path = options.out / f"{name}.safetensors"
    report = {"weights": str(path), **read_weights(path).notes}
    if reports:
        if options.json is not None:
            write_json(options.json, report)
        print_table(f"wrote {path}", [(key, str(value)) for key, value in report["training"].items()
                                      if key not in NOT_SHOWN])
    return report


def _recipe(options: TrainOptions, name: str) -> Any:
    """The recipe with what the options say over it. Raises RecipeError."""
    from efficient_matcher.learn.chain import DetectorTraining
    from efficient_matcher.learn.recipe import find_recipe, read_recipe
    from efficient_matcher.learn.train_locator import LocatorTraining
    from efficient_matcher.learn.train_superglue import SuperGlueTraining
    from efficient_matcher.learn.train_superpoint import SuperPointTraining
    kind = {"detector": DetectorTraining, "superpoint": SuperPointTraining, "superglue": SuperGlueTraining,
            "locator": LocatorTraining}[name]
    base = _going_on(options) if name == "superpoint" and options.start is not None else None
    config = options.settings or (
        read_recipe(find_recipe(options.recipe), kind, base) if options.recipe else base or kind())
    pairs = config.pairs
    if options.pairs:
        pairs = options.pairs if isinstance(pairs, int) else replace(pairs, pairs=options.pairs)
    return replace(config, loop=loop_of(options, config), pairs=pairs)


def _going_on(options: TrainOptions) -> Any:
    """What training of trained weights does where the recipe does not say otherwise."""
    from efficient_matcher.learn.train_superpoint import SuperPointTraining
    from efficient_matcher.learn.weights import load_superpoint
    return SuperPointTraining().going_on(load_superpoint(options.start).config)


def _detector_process(options: TrainOptions, processes: int) -> None:
    from efficient_matcher.learn.shapes import shape_set
    from efficient_matcher.learn.train_superpoint import train_superpoint
    config = _recipe(options, "detector")
    drawings, corners = shape_set(config.shapes, options.seed)
    network, hours = train_superpoint(drawings, corners, config, options.out, compute=compute_of(options),
                                      labelled_by="shapes")
    _save(options, "detector", network, {"data": options.data or "synthetic shapes", "images": len(drawings),
                                         **plain_notes(options, processes, hours), "recipe": asdict(config)})


def _superpoint_process(options: TrainOptions, processes: int) -> None:
    from efficient_matcher.learn.train_superpoint import train_superpoint
    from efficient_matcher.learn.weights import load_superpoint
    config = _recipe(options, "superpoint")
    start = load_superpoint(options.start) if options.start is not None else None
    config = replace(config, network=start.config) if start is not None else config
    images = training_images(options)
    labels, made_by = _labels(options, images, processes)
    network, hours = train_superpoint(images, labels, config, options.out, start, compute_of(options), made_by,
                                      scene_pairs(options, config, images))
    _save(options, "superpoint", network, {**run_notes(options, processes, hours, images), "labels": made_by,
                                           **_begun_with(options), "recipe": asdict(config)})


def _labels(options: TrainOptions, images: Any, processes: int) -> tuple[Any, str]:
    """Labels of the images, and who made them."""
    from efficient_matcher.learn.label_cache import SIFT, label_images
    from efficient_matcher.learn.parallel import once_first
    labeller, cache = SIFT, options.out / "labels.npz"
    if options.labels == "adapted":
        from efficient_matcher.learn.adaptation import AdaptationConfig, AdaptedLabeller
        from efficient_matcher.learn.weights import load_superpoint
        labeller = AdaptedLabeller(load_superpoint(options.detector), options.adaptation or AdaptationConfig(),
                                   compute_of(options))
        cache = options.out / "labels-adapted.npz"
    made = once_first(lambda: label_images(images, cache, processes, reporter("labelling images"), labeller))
    return made, labeller.name


def _superglue_process(options: TrainOptions, processes: int) -> None:
    from efficient_matcher.learn.train_superglue import train_superglue
    from efficient_matcher.learn.views import features_key, gather_views
    from efficient_matcher.learn.weights import load_superglue, load_superpoint
    if options.superpoint is None:
        raise MatcherError("training SuperGlue needs the weights of a SuperPoint")
    config, compute = _recipe(options, "superglue"), compute_of(options)
    extractor = load_superpoint(options.superpoint)
    start = load_superglue(options.start) if options.start is not None else None
    config = replace(config, network=start.config if start is not None else config.network)
    if extractor.config.descriptor_dim != config.network.descriptor_dim:
        raise MatcherError(f"{options.superpoint}: descriptors of {extractor.config.descriptor_dim} numbers, "
                           f"the matcher takes {config.network.descriptor_dim}")
    images = training_images(options)
    extractor = extractor.to(compute.device)
    views = gather_views(extractor, images, config.views, options.seed, options.out, reporter("extracting views"))
    scenes = _scene_views(options, extractor, images, config) if options.scenes_share else None
    network, hours = train_superglue(views, config, options.out, start, scenes, options.scenes_share, compute,
                                     features_key(extractor, images, config.views, options.seed))
    mixture = {"scenes_share": options.scenes_share, "scenes": options.scenes} if scenes is not None else {}
    _save(options, "superglue", network, {**run_notes(options, processes, hours, images), **_begun_with(options),
                                          **mixture, "recipe": asdict(config)})


def _locator_process(options: TrainOptions, processes: int) -> None:
    from efficient_matcher.learn.train_locator import train_locator
    from efficient_matcher.learn.weights import load_superpoint, read_weights
    if options.superpoint is None:
        raise MatcherError("training a locator needs the weights of a SuperPoint")
    config, superpoint = _recipe(options, "locator"), load_superpoint(options.superpoint)
    images = training_images(options)
    network, hours = train_locator(superpoint, images, config, options.out, compute_of(options),
                                   reporter("finding keypoints"))
    notes = read_weights(options.superpoint).notes
    _save(options, "superpoint", network, {**run_notes(options, processes, hours, images), "recipe": asdict(config),
                                           "begun_with": notes.get("training", {})}, "locator", notes)


def _scene_views(options: TrainOptions, extractor: Any, images: Any, config: Any) -> Any:
    """Features of views of synthetic scenes papered with the training images, like the warped ones in size."""
    from efficient_matcher.learn.scene_views import SceneViewConfig, gather_scene_views
    like = config.views
    scenes = SceneViewConfig(options.scenes, width=like.width, height=like.height, keypoints=like.keypoints,
                             nms_radius_px=like.nms_radius_px)
    return gather_scene_views(extractor, images, scenes, options.seed, options.out, reporter("rendering scenes"))


def _begun_with(options: TrainOptions) -> dict[str, Any]:
    from efficient_matcher.learn.weights import read_weights
    return {} if options.start is None else {"begun_with": read_weights(options.start).notes.get("training", {})}


def _save(options: TrainOptions, name: str, network: Any, training: dict[str, Any], what: str = "",
          notes: Mapping[str, Any] = MappingProxyType({"licence": LICENCE})) -> None:
    """notes: besides, of the file; what: was trained, where that is not what is in it."""
    from efficient_matcher.learn.parallel import rank
    from efficient_matcher.learn.weights import save_weights
    if rank() == 0:
        parameters = sum(math.prod(p.shape) for p in network.parameters())
        training = {"command": f"efficient-matcher train {what or name}", **training, "parameters": parameters}
        save_weights(options.out / f"{name}.safetensors", network, {**notes, "training": training})
