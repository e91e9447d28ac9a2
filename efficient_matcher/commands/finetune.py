"""`efficient-matcher finetune superpoint | superglue | both`: weights to better ones, of the same size or smaller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from efficient_matcher.commands.common import print_table
from efficient_matcher.commands.runs import (
    RunOptions, compute_of, launch_run, loop_of, reporter, run_notes, scene_pairs, training_images)
from efficient_matcher.errors import MatcherError, RecipeError
from efficient_matcher.files import check_apart, write_json

ENCODER = ("1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b")  # of superpoint.py, which needs torch
RESULTS = {"superpoint": ("superpoint",), "superglue": ("superglue",), "both": ("superpoint", "superglue")}


@dataclass(frozen=True)
class FinetuneOptions(RunOptions):
    """superpoint, superglue: weight files to begin with; the teachers' where not given.

    recipe: a file, or the name of one that ships. sizes: added to the recipe's. labels: file of labels that were made
    earlier.
    """

    superpoint: Path | None = None
    superglue: Path | None = None
    teacher_superpoint: Path | None = None
    teacher_superglue: Path | None = None
    recipe: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    labels: Path | None = None
    more_superpoints: tuple[Path, ...] = ()


def parse_sizes(widths: str | None, sizes: list[str] | None) -> dict[str, int]:
    """`16,16,..` for the eight encoder layers and `NAME=N` texts, as one mapping. Raises MatcherError."""
    found: dict[str, int] = {}
    try:
        if widths is not None:
            found = {name: int(width) for name, width in zip(ENCODER, widths.split(","), strict=True)}
        found.update({name: int(size) for name, size in (text.split("=") for text in sizes or [])})
    except ValueError:
        raise MatcherError("sizes are eight whole numbers for --widths, and NAME=N for --size") from None
    return found


def run(options: FinetuneOptions, what: str) -> dict[str, Any]:
    """Finetune `what` (a key of RESULTS) and write weight files into `out`; returns what --json writes.

    Raises MatcherError.
    """
    from efficient_matcher.learn.weights import read_weights
    _check(options, what)  # before processes start
    reports = launch_run(options, _process, what)
    report = {}
    for name in RESULTS[what]:
        path = options.out / f"{name}.safetensors"
        notes = read_weights(path).notes
        report[name] = {"weights": str(path), **notes}
        shown = {key: notes["training"][key] for key in ("images", "hours", "parameters", "nonzero_parameters")}
        if reports:
            print_table(f"wrote {path}", [(key, str(value)) for key, value in shown.items()])
    if options.json is not None and reports:
        write_json(options.json, report)
    return report


def _check(options: FinetuneOptions, what: str) -> None:
    """Raise MatcherError for what would fail later, in the processes."""
    from efficient_matcher.learn.channels import check_targets
    from efficient_matcher.learn.finetune import check_zeros
    recipe = _recipe(options, what)
    check_apart([options.out / f"{name}.safetensors" for name in RESULTS[what]], [
        options.superpoint, options.superglue, options.teacher_superpoint, options.teacher_superglue])
    _check_teacher(options, what, recipe)
    parts = []
    for name in RESULTS[what]:
        network = _load(options, name)
        if getattr(recipe, "wider", {}):
            from efficient_matcher.learn.widen import widened
            network = widened(network, recipe.wider)
        check_targets(network, getattr(recipe, "sizes", {}))
        ramp = getattr(recipe, "prune", None) or getattr(recipe, f"prune_{name}", None)
        if ramp is not None:
            from efficient_matcher.learn.fold import sparse_form
            from efficient_matcher.learn.prune import prune_magnitude
            prune_magnitude(sparse_form(network), ramp)
        parts.append((network, ramp))
    check_zeros(parts, recipe)


def _check_teacher(options: FinetuneOptions, what: str, recipe: Any) -> None:
    """Raise MatcherError for an extractor that cannot learn from its teacher, or that nothing teaches."""
    if what == "superglue":
        return
    teacher = _teacher(options, "superpoint")
    if what == "superpoint" and teacher is None and not recipe.task:
        raise RecipeError("task: without a teacher, with weight 0 there is nothing to learn; give --teacher or a task")


def _process(options: FinetuneOptions, what: str, processes: int) -> None:
    recipe, images = _recipe(options, what), training_images(options)
    finetune = {"superpoint": _superpoint, "superglue": _superglue, "both": _both}[what]
    networks, hours = finetune(options, recipe, images, processes)
    _save(options, what, networks, {**run_notes(options, processes, hours, images)}, recipe)


def _superpoint(options: FinetuneOptions, recipe: Any, images: Any, processes: int) -> tuple[list[Any], float]:
    from efficient_matcher.learn.finetune import finetune_superpoint
    labels = _labels(options, recipe, images, processes)
    network, hours = finetune_superpoint(_load(options, "superpoint"), images, labels, recipe, options.out,
                                         _teacher(options, "superpoint"), compute_of(options),
                                         scene_pairs(options, recipe, images))
    return [network], hours


def _superglue(options: FinetuneOptions, recipe: Any, images: Any, processes: int) -> tuple[list[Any], float]:
    from efficient_matcher.learn.finetune_matching import finetune_superglue
    from efficient_matcher.learn.views import gather_views_of_all
    from efficient_matcher.learn.weights import load_superpoint
    extractors = [_load(options, "superpoint"), *map(load_superpoint, options.more_superpoints)]
    matcher, teacher = _load(options, "superglue"), _teacher(options, "superglue")
    for extractor in extractors:
        _same_descriptors(extractor, matcher, "the matcher")
        _same_descriptors(extractor, teacher, "the teacher")
    compute = compute_of(options)
    views = gather_views_of_all([extractor.to(compute.device) for extractor in extractors], images, recipe.views,
                                options.seed, options.out, reporter("extracting views"))
    network, hours = finetune_superglue(matcher, views, recipe, options.out, teacher, compute, extractors, images)
    return [network], hours


def _both(options: FinetuneOptions, recipe: Any, images: Any, processes: int) -> tuple[list[Any], float]:
    from efficient_matcher.learn.finetune_matching import finetune_both
    extractor, matcher = _load(options, "superpoint"), _load(options, "superglue")
    teachers = _teacher(options, "superpoint"), _teacher(options, "superglue")
    if (teachers[0] is None) != (teachers[1] is None):
        raise MatcherError("both networks need a teacher, or neither")
    _same_descriptors(extractor, matcher, "the matcher")
    _same_descriptors(*teachers, "its matcher", "the teacher's")
    superpoint, superglue, hours = finetune_both(
        extractor, matcher, images, _labels(options, recipe, images, processes), recipe, options.out,
        teachers if teachers[0] is not None else None, compute_of(options))
    return [superpoint, superglue], hours


def _recipe(options: FinetuneOptions, what: str) -> Any:
    from efficient_matcher.learn import finetune_recipes as recipes
    from efficient_matcher.learn.recipe import find_recipe, read_recipe
    kind = {"superpoint": recipes.SuperPointFinetuning, "superglue": recipes.SuperGlueFinetuning,
            "both": recipes.JointFinetuning}[what]
    recipe = options.settings or (read_recipe(find_recipe(options.recipe), kind) if options.recipe else kind())
    loop = loop_of(options, recipe)
    pairs = recipe.pairs
    if options.pairs:
        pairs = options.pairs if what == "superglue" else replace(pairs, pairs=options.pairs)
    sizes = {"sizes": {**recipe.sizes, **options.sizes}} if options.sizes else {}
    try:
        return replace(recipe, loop=loop, pairs=pairs, **sizes)
    except ValueError as error:
        raise RecipeError(str(error)) from None


def _load(options: FinetuneOptions, name: str) -> Any:
    from efficient_matcher.learn import weights
    path = getattr(options, name) or getattr(options, f"teacher_{name}")
    if path is None:
        raise MatcherError(f"no weights of {name} to begin with: give --{name}, or a teacher")
    return getattr(weights, f"load_{name}")(path)


def _teacher(options: FinetuneOptions, name: str) -> Any:
    from efficient_matcher.learn import weights
    path = getattr(options, f"teacher_{name}")
    return None if path is None else getattr(weights, f"load_{name}")(path)


def _same_descriptors(extractor: Any, matcher: Any, named: str, whose: str = "the extractor's") -> None:
    if matcher is None or matcher.config.descriptor_dim == extractor.config.descriptor_dim:
        return
    raise MatcherError(f"{whose} descriptors have {extractor.config.descriptor_dim} numbers, {named} takes "
                       f"{matcher.config.descriptor_dim}")


def _labels(options: FinetuneOptions, recipe: Any, images: Any, processes: int) -> Any:
    from efficient_matcher.learn.label_cache import SIFT, label_images
    from efficient_matcher.learn.parallel import once_first
    if not recipe.task:
        return None
    cache, labeller = (options.labels, None) if options.labels else (options.out / "labels.npz", SIFT)
    return once_first(lambda: label_images(images, cache, processes, reporter("labelling images"), labeller))


def _save(options: FinetuneOptions, what: str, networks: list[Any], training: dict[str, Any], recipe: Any) -> None:
    from efficient_matcher.learn.parallel import rank
    from efficient_matcher.learn.prune import nonzero_parameters, sparsity
    from efficient_matcher.learn.recipe import to_mapping
    from efficient_matcher.learn.weights import read_weights, save_weights
    if rank() != 0:
        return
    for name, network in zip(RESULTS[what], networks):
        begun = getattr(options, name) or getattr(options, f"teacher_{name}")
        notes = read_weights(begun).notes
        told = {"command": f"efficient-matcher finetune {what}", **training, "begun_with": notes.get("training", {}),
                "teacher": getattr(options, f"teacher_{name}") is not None, "recipe": to_mapping(recipe),
                "parameters": sum(p.numel() for p in network.parameters()),
                "nonzero_parameters": nonzero_parameters(network)}
        zeros = {layer: round(share, 4) for layer, share in sparsity(network).items() if share > 0}
        save_weights(options.out / f"{name}.safetensors", network,
                     {"licence": notes.get("licence", "that of the weights it was made from"), "training": told,
                      **({"pruned": zeros} if zeros else {})})
