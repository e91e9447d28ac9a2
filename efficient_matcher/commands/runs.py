"""What the commands that train have in common: options, processes, images, what a weight file says of its run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

from efficient_matcher.errors import MatcherError, RecipeError


@dataclass(frozen=True)
class RunOptions:
    """images: folder, tar file or bag of training images; out: folder of the run, which is resumed if it exists.

    steps and pairs: None keeps the recipe's. processes: 0 takes one per core, or per GPU. limit: images used at most.
    topic: of a bag. data: a sentence on the images, for the model card. device, precision: as in `compute.py`.
    settings: a recipe as its dataclass, instead of the command's own or a file.
    """

    images: Path | None
    out: Path
    _: KW_ONLY
    steps: int | None = None
    pairs: int | None = None
    seed: int = 0
    processes: int = 0
    limit: int | None = None
    topic: str | None = None
    data: str = ""
    device: str = "auto"
    precision: str = "fp32"
    json: Path | None = None
    settings: Any = None


def launch_run(options: RunOptions, process: Callable[..., None], *arguments: Any) -> bool:
    """Call process(options, *arguments, processes) in all processes of a run; False where another one reports.

    Checks first what can be checked before they start. Raises MatcherError.
    """
    from efficient_matcher.learn.compute import Compute, default_processes
    from efficient_matcher.learn.parallel import launch, started_together
    from efficient_matcher.sources.image_sets import open_images
    Compute.chosen(options.device, options.precision)
    if options.images is not None:
        open_images(options.images, options.topic)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MatcherError(f"{options.out}: cannot be made: {error.strerror}") from None
    cores = len(os.sched_getaffinity(0))
    processes = started_together() or options.processes or default_processes(options.device, cores)
    return launch(process, processes, options, *arguments, processes)


def compute_of(options: RunOptions) -> Any:
    """Where this process computes."""
    from efficient_matcher.learn.compute import Compute
    return Compute.chosen(options.device, options.precision)


def training_images(options: Any) -> Any:
    """The images of `options.images`, at most `options.limit`; process 0 says what was skipped."""
    import cv2

    from efficient_matcher.learn.data import load_images
    from efficient_matcher.learn.parallel import rank
    cv2.setNumThreads(1)  # the processes already take every core
    images = load_images(options.images, options.limit, getattr(options, "topic", None))
    if images.skipped and rank() == 0:
        shown = ", ".join(f"{name} ({why})" for name, why in list(images.skipped.items())[:5])
        print(f"skipped {len(images.skipped)} of {len(images.skipped) + len(images)} images: {shown}")
    return images


def loop_of(options: RunOptions, recipe: Any) -> Any:
    """The recipe's loop with the options' steps and seed. Raises RecipeError for a seed of its own."""
    if recipe.loop.seed not in (0, options.seed):
        raise RecipeError(f"loop.seed: {recipe.loop.seed} in the recipe; a run's seed is given by --seed")
    return replace(recipe.loop, steps=options.steps or recipe.loop.steps, seed=options.seed)


def scene_pairs(options: RunOptions, recipe: Any, images: Any) -> Any:
    """The scenes that an extractor's recipe asks for, papered with the images; None if it asks for none."""
    if not recipe.scenes_share:
        return None
    if recipe.pairs.pairs < 2:
        raise RecipeError("scenes_share: takes two pairs a step or more, of which one stays a warped photograph")
    from efficient_matcher.learn.scene_pairs import ScenePairConfig, gather_scene_pairs
    scenes = ScenePairConfig(recipe.scenes, width=recipe.pairs.width, height=recipe.pairs.height)
    return gather_scene_pairs(images, scenes, options.seed, options.out, reporter("rendering scenes"))


def run_notes(options: RunOptions, processes: int, hours: float, images: Any) -> dict[str, Any]:
    """What a weight file says of the run that made it."""
    kind = "folder" if options.images.is_dir() else "file"
    return {"data": options.data or f"{len(images)} images of a {kind} named {options.images.name}",
            "images": len(images), "skipped_images": len(images.skipped), **plain_notes(options, processes, hours)}


def plain_notes(options: RunOptions, processes: int, hours: float) -> dict[str, Any]:
    """The same where there are no images."""
    compute = compute_of(options)
    return {"seed": options.seed, "processes": processes, "device": compute.device.type, **compute.description,
            "hours": round(hours, 2)}


def reporter(what: str) -> Callable[[int, int], None]:
    """Says every tenth how far `what` has come."""
    from efficient_matcher.learn.parallel import rank

    def report(done: int, of: int) -> None:
        if rank() == 0 and (done == of or done % max(1, of // 10) == 0):
            print(f"{what}: {done} of {of}", flush=True)
    return report
