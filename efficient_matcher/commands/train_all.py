"""`efficient-matcher train all`: every stage of the training, each in a folder of its own below the run's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from efficient_matcher.commands import finetune, train
from efficient_matcher.commands.common import print_table
from efficient_matcher.commands.runs import RunOptions
from efficient_matcher.errors import MatcherError
from efficient_matcher.files import write_json

RECIPE_NAME = "recipe.json"


@dataclass(frozen=True)
class ChainOptions(RunOptions):
    """As of any run; steps, if given, are those of every stage. recipe: a file, or the name of one that ships."""

    recipe: str | None = None


def run(options: ChainOptions) -> dict[str, Any]:
    """All stages in turn; one that is done is not done again, one that was stopped goes on.

    Returns what --json writes. Raises MatcherError, also when the folder belongs to another recipe.
    """
    from efficient_matcher.learn.parallel import started_together
    if started_together():
        raise MatcherError("train all starts its processes itself; under torchrun run the stages one by one")
    from efficient_matcher.sources.image_sets import open_images
    chain = _chain(options)
    open_images(options.images, options.topic)  # of which the first stage needs none
    _keep_to(options, chain)
    detector = options.out / "detector" / "detector.safetensors"
    extractor = options.out / "superpoint" / "superpoint.safetensors"
    matcher = options.out / "superglue" / "superglue.safetensors"
    final = [options.out / "both" / path.name for path in (extractor, matcher)]
    if chain.labels == "adapted":
        _stage([detector], lambda: train.run_detector(_part(options, "detector", chain.detector, images=None)))
    by = {"detector": detector, "adaptation": chain.adaptation} if chain.labels == "adapted" else {}
    _stage([extractor], lambda: train.run_superpoint(_part(options, "superpoint", chain.superpoint,
                                                           labels=chain.labels, **by)))
    _stage([matcher], lambda: train.run_superglue(_part(options, "superglue", chain.superglue, superpoint=extractor,
                                                        scenes_share=chain.scenes_share, scenes=chain.scenes)))
    labels = extractor.parent / ("labels-adapted.npz" if chain.labels == "adapted" else "labels.npz")
    _stage(final, lambda: finetune.run(_part(options, "both", chain.both, finetune.FinetuneOptions, labels=labels,
                                             superpoint=extractor, superglue=matcher), "both"))
    report = {"weights": [str(path) for path in final], "recipe": str(options.out / RECIPE_NAME)}
    if options.json is not None:
        write_json(options.json, report)
    print_table("trained", [(path.name, str(path)) for path in final])
    return report


def _chain(options: ChainOptions) -> Any:
    from efficient_matcher.learn.chain import TrainingChain
    from efficient_matcher.learn.recipe import find_recipe, read_recipe
    if options.settings is not None:
        return options.settings
    return read_recipe(find_recipe(options.recipe), TrainingChain) if options.recipe else TrainingChain()


def _keep_to(options: ChainOptions, chain: Any) -> None:
    """Write down what the folder is for. Raises MatcherError when it is for something else."""
    from efficient_matcher.learn.recipe import to_mapping
    from efficient_matcher.learn.training import difference
    path = options.out / RECIPE_NAME
    told = json.loads(json.dumps({"recipe": to_mapping(chain), "seed": options.seed, "steps": options.steps,
                                  "pairs": options.pairs, "limit": options.limit, "precision": options.precision}))
    if not path.exists():
        write_json(path, told)
        return
    try:
        there = json.loads(path.read_text())
    except (OSError, ValueError):
        raise MatcherError(f"{path}: not readable; choose another folder") from None
    if there != told:
        raise MatcherError(f"{path}: the run is of another recipe ({difference(there, told)}); choose another folder")


def _stage(results: list[Path], run_stage: Callable[[], Any]) -> None:
    """Run a stage whose results are not all there yet."""
    if all(path.exists() for path in results):
        print(f"{results[0].parent.name}: done before")
    else:
        print(f"{results[0].parent.name}:", flush=True)
        run_stage()


def _part(options: ChainOptions, name: str, settings: Any, kind: type = train.TrainOptions, **own: Any) -> Any:
    """The options of one stage."""
    shared = {key: getattr(options, key) for key in (
        "images", "steps", "pairs", "seed", "processes", "limit", "topic", "data", "device", "precision")}
    return replace(kind(**{**shared, **own}, out=options.out / name), settings=settings)
