"""`efficient-matcher train superpoint | superglue`: images in a folder to weight files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from efficient_matcher.commands.common import print_table
from efficient_matcher.errors import MatcherError
from efficient_matcher.files import write_json

LICENCE = "Apache-2.0"


@dataclass(frozen=True)
class TrainOptions:
    """images: folder of training images; out: folder of the run, which is resumed if it exists.

    superpoint: weight file of the extractor, for training the matcher; start: of a matcher to begin with. steps and pairs: None keeps the
    recipe's. processes: 0 takes one per core. data: a sentence on the images, for the model card.
    scenes_share: of the matcher's pairs that are views of synthetic scenes; scenes: how many of these are rendered.
    """

    images: Path
    out: Path
    superpoint: Path | None = None
    steps: int | None = None
    pairs: int | None = None
    seed: int = 0
    processes: int = 0
    limit: int | None = None
    data: str = ""
    json: Path | None = None
    start: Path | None = None
    scenes_share: float = 0.0
    scenes: int = 600


def run_superpoint(options: TrainOptions) -> dict[str, Any]:
    """Train a SuperPoint and write `superpoint.safetensors`; returns what --json writes. Raises MatcherError."""
    return _run(options, "superpoint", _superpoint_process)


def run_superglue(options: TrainOptions) -> dict[str, Any]:
    """Train a SuperGlue on the features of a trained SuperPoint; the same otherwise."""
    return _run(options, "superglue", _superglue_process)


def _run(options: TrainOptions, architecture: str, process: Callable[[TrainOptions, int], None]) -> dict[str, Any]:
    from efficient_matcher.learn.parallel import launch
    from efficient_matcher.learn.weights import read_weights
    if not options.images.is_dir():
        raise MatcherError(f"{options.images}: no such folder")
    processes = options.processes or len(os.sched_getaffinity(0))
    options.out.mkdir(parents=True, exist_ok=True)
    launch(process, processes, options, processes)
    path = options.out / f"{architecture}.safetensors"
    report = {"weights": str(path), **read_weights(path).notes}
    if options.json is not None:
        write_json(options.json, report)
    print_table(f"wrote {path}", [(key, str(value)) for key, value in report["training"].items() if key not in ("recipe", "begun_with")])
    return report


def _superpoint_process(options: TrainOptions, processes: int) -> None:
    from efficient_matcher.learn.data import label_images
    from efficient_matcher.learn.parallel import once_first
    from efficient_matcher.learn.train_superpoint import SuperPointTraining, train_superpoint
    from efficient_matcher.learn.weights import load_superpoint
    config = SuperPointTraining()
    start = load_superpoint(options.start) if options.start is not None else None
    config = config.going_on(start.config) if start is not None else config
    config = replace(config, loop=_loop(config.loop, options),
                     pairs=replace(config.pairs, pairs=options.pairs or config.pairs.pairs))
    images = training_images(options)
    cache = options.out / "labels.npz"
    labels = once_first(lambda: label_images(images, cache, processes, reporter("labelling images")))
    network, hours = train_superpoint(images, labels, config, options.out, start)
    _save(options, "superpoint", network,
          {**run_notes(options, processes, hours, images), **_begun_with(options), "recipe": asdict(config)})


def _superglue_process(options: TrainOptions, processes: int) -> None:
    from efficient_matcher.learn.train_superglue import SuperGlueTraining, train_superglue
    from efficient_matcher.learn.views import gather_views
    from efficient_matcher.learn.weights import load_superglue, load_superpoint
    if options.superpoint is None:
        raise MatcherError("training SuperGlue needs the weights of a SuperPoint")
    config = SuperGlueTraining()
    config = replace(config, loop=_loop(config.loop, options), pairs=options.pairs or config.pairs)
    images = training_images(options)
    extractor = load_superpoint(options.superpoint)
    start = load_superglue(options.start) if options.start is not None else None
    config = replace(config, network=start.config if start is not None else config.network)
    if extractor.config.descriptor_dim != config.network.descriptor_dim:
        raise MatcherError(f"{options.superpoint}: descriptors of {extractor.config.descriptor_dim} numbers, "
                           f"the matcher takes {config.network.descriptor_dim}")
    views = gather_views(extractor, images, config.views, options.seed, options.out, reporter("extracting views"))
    scenes = _scene_views(options, extractor, images, config) if options.scenes_share else None
    network, hours = train_superglue(views, config, options.out, start, scenes, options.scenes_share)
    mixture = {"scenes_share": options.scenes_share, "scenes": options.scenes} if scenes is not None else {}
    _save(options, "superglue", network, {**run_notes(options, processes, hours, images), **_begun_with(options),
                                          **mixture, "recipe": asdict(config)})


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


def training_images(options: Any) -> Any:
    """The images of `options.images`, at most `options.limit`; process 0 says what was skipped."""
    import cv2

    from efficient_matcher.learn.data import load_images
    from efficient_matcher.learn.parallel import rank
    cv2.setNumThreads(1)  # the processes already take every core
    images = load_images(options.images, options.limit)
    if images.skipped and rank() == 0:
        shown = ", ".join(f"{name} ({why})" for name, why in list(images.skipped.items())[:5])
        print(f"skipped {len(images.skipped)} of {len(images.skipped) + len(images)} images: {shown}")
    return images


def _loop(loop: Any, options: TrainOptions) -> Any:
    return replace(loop, steps=options.steps or loop.steps, seed=options.seed)


def run_notes(options: Any, processes: int, hours: float, images: Any) -> dict[str, Any]:
    """What a weight file says of the run that made it."""
    return {"data": options.data or f"{len(images)} images of a folder named {options.images.name}",
            "images": len(images), "skipped_images": len(images.skipped), "seed": options.seed,
            "processes": processes, "hours": round(hours, 2)}


def _save(options: TrainOptions, architecture: str, network: Any, training: dict[str, Any]) -> None:
    from efficient_matcher.learn.parallel import rank
    from efficient_matcher.learn.weights import save_weights
    if rank() == 0:
        parameters = sum(math.prod(p.shape) for p in network.parameters())
        training = {"command": f"efficient-matcher train {architecture}", **training, "parameters": parameters}
        save_weights(options.out / f"{architecture}.safetensors", network, {"licence": LICENCE, "training": training})


def reporter(what: str) -> Callable[[int, int], None]:
    """Says every tenth how far `what` has come."""
    from efficient_matcher.learn.parallel import rank

    def report(done: int, of: int) -> None:
        if rank() == 0 and (done == of or done % max(1, of // 10) == 0):
            print(f"{what}: {done} of {of}", flush=True)
    return report
