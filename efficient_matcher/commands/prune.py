"""`efficient-matcher prune`: weight files to sparse or smaller ones, by a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from efficient_matcher.commands.common import print_table
from efficient_matcher.commands.runs import training_images
from efficient_matcher.errors import MatcherError, RecipeError
from efficient_matcher.files import check_apart, result_folder, write_json

NAMES = ("superpoint", "superglue")


@dataclass(frozen=True)
class PruneOptions:
    """Weight files of one network or both, and what becomes of them; out: folder of the results.

    recipe: a file, or the name of one that ships; None takes the method's empty one. The fields from ratio on, where
    given, go over the recipe, for every network that is given. images: folder, for criterion taylor.
    """

    out: Path
    superpoint: Path | None = None
    superglue: Path | None = None
    method: str | None = None
    recipe: str | None = None
    ratio: float | None = None
    scope: str | None = None
    criterion: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    descriptors: int | None = None
    target_macs: float | None = None
    target_latency_ms: float | None = None
    images: Path | None = None
    limit: int | None = None
    threads: int = 0
    overwrite: bool = False
    json: Path | None = None


def run(options: PruneOptions) -> dict[str, Any]:
    """Prune and write weight files; returns what --json writes. Raises MatcherError, having written nothing."""
    from efficient_matcher.learn.pruning import prune_networks
    given = [name for name in NAMES if getattr(options, name) is not None]
    if not given:
        raise MatcherError("nothing to prune: give --superpoint, --superglue or both")
    results = [f"{name}.safetensors" for name in given]
    check_apart([*(options.out / name for name in results), options.json], [options.superpoint, options.superglue])
    before = {name: _loaded(options, name) for name in given}
    recipe = _recipe(options, before)
    images = training_images(options) if options.images is not None else None
    pruned = prune_networks(before.get("superpoint"), before.get("superglue"), recipe, images, options.threads, print)
    after = {name: network for name, network in zip(NAMES, pruned) if network is not None}
    folder = result_folder(options.out, results, options.overwrite)
    report = {name: _written(folder / f"{name}.safetensors", getattr(options, name), before[name], after[name], recipe)
              for name in given}
    if options.json is not None:
        write_json(options.json, report)
    return report


def parse_sizes(texts: list[str] | None) -> dict[str, int]:
    """`NAME=N` texts as a mapping. Raises MatcherError."""
    try:
        return {name: int(size) for name, size in (text.split("=") for text in texts or [])}
    except ValueError:
        raise MatcherError("sizes are given as LAYER=N") from None


OF_METHOD = {"magnitude": ("scope",), "channel": ("criterion", "sizes", "descriptors", "target_macs",
                                                  "target_latency_ms", "images")}


def _check_options(options: PruneOptions, method: str) -> None:
    """Raise MatcherError for an option that only the other method knows."""
    other = "channel" if method == "magnitude" else "magnitude"
    for name in OF_METHOD[other]:
        if getattr(options, name) not in (None, {}):
            flag = "size" if name == "sizes" else name.replace("_", "-")
            raise MatcherError(f"--{flag} belongs to --method {other}, this is {method}")


def _loaded(options: PruneOptions, name: str) -> Any:
    from efficient_matcher.learn import weights
    return getattr(weights, f"load_{name}")(getattr(options, name))


def _recipe(options: PruneOptions, networks: Mapping[str, Any]) -> Any:
    """The recipe with the options over it, checked as a whole. Raises RecipeError."""
    from efficient_matcher.learn.pruning import RECIPES
    from efficient_matcher.learn.recipe import find_recipe, from_mapping, read_recipe, recipe_kind, to_mapping
    method = options.method or "magnitude"
    if options.recipe is not None:
        path = find_recipe(options.recipe)
        kind = RECIPES[options.method] if options.method else recipe_kind(path, RECIPES)
        tree = to_mapping(read_recipe(path, kind))
        method = tree["method"]
    else:
        tree = to_mapping(RECIPES[method]())
    _check_options(options, method)
    for name, network in networks.items():
        over = _overrides(options, method, network)
        if over:
            part = tree[name] or {}
            sizes = {**part.get("sizes", {}), **over.pop("sizes", {})}
            tree[name] = {**part, **over, **({"sizes": sizes} if sizes else {})}
    if method == "channel":
        own = {key: getattr(options, key) for key in ("criterion", "descriptors")}
        tree.update({key: value for key, value in own.items() if value is not None})
        _known_sizes(options, networks)
    recipe = from_mapping(tree, RECIPES[method])
    if not any(tree[name] for name in NAMES) and tree.get("descriptors") is None:
        raise RecipeError("nothing to prune: give a recipe, a ratio, sizes or a target")
    return recipe


def _overrides(options: PruneOptions, method: str, network: Any) -> dict[str, Any]:
    """Fields of one network's part of the recipe that the options set."""
    from efficient_matcher.learn.channels import limits
    fields = {"magnitude": ("ratio", "scope"), "channel": ("ratio", "target_macs", "target_latency_ms")}[method]
    found = {key: getattr(options, key) for key in fields if getattr(options, key) is not None}
    own = {name: size for name, size in options.sizes.items() if name in limits(network)}
    if own and method == "channel":
        found["sizes"] = own
    return found


def _known_sizes(options: PruneOptions, networks: Mapping[str, Any]) -> None:
    from efficient_matcher.learn.channels import limits
    known = [name for network in networks.values() for name in limits(network)]
    for name in options.sizes:
        if name not in known:
            raise RecipeError(f"unknown layer '{name}' (known: {', '.join(known)})")


def _written(path: Path, source: Path, before: Any, after: Any, recipe: Any) -> dict[str, Any]:
    from efficient_matcher.learn.prune import nonzero_parameters, sparsity
    from efficient_matcher.learn.recipe import to_mapping
    from efficient_matcher.learn.weights import read_weights, save_weights
    from efficient_matcher.learn.width_search import macs_of
    notes = read_weights(source).notes
    zeros = {layer: round(share, 4) for layer, share in sparsity(after).items() if share > 0}
    figures = {kind: {"parameters": sum(p.numel() for p in network.parameters()),
                      "nonzero_parameters": nonzero_parameters(network), "macs": macs_of(network, {})}
               for kind, network in (("before", before), ("after", after))}
    training = {"command": "efficient-matcher prune", "begun_with": notes.get("training", {}),
                "recipe": to_mapping(recipe), **figures["after"]}
    save_weights(path, after, {**notes, "licence": notes.get("licence", "that of the weights it was made from"),
                               "training": training, **({"pruned": zeros} if zeros else {})})
    rows = [(key.replace("_", " "), *(f"{figures[kind][key]:,}" for kind in ("before", "after")))
            for key in figures["before"]]
    print_table(f"wrote {path}", rows, ("before", "after"))
    return {"weights": str(path), **figures, "config": after.config.to_dict(), "pruned": zeros}
