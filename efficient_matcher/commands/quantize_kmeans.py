"""`quantize --method kmeans`: weights of a layer share a few values; the bundle stores which, entropy-coded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from efficient_matcher.commands.common import print_table
from efficient_matcher.errors import ConfigError
from efficient_matcher.files import check_apart, write_json

BITS = range(2, 9)


@dataclass(frozen=True)
class KMeansOptions:
    """superpoint, superglue: weight files, dense or pruned. out: folder of the bundle.

    bits: of every layer, the recipe's if not given. layers: `NAME=BITS` of single layers or patterns. recipe: file or
    name of one that ships. weights: folder for the clustered weights, to finetune their values. name, licence: as for
    export.
    """

    superpoint: Path
    superglue: Path
    out: Path
    bits: int | None = None
    layers: tuple[str, ...] = ()
    recipe: str | None = None
    weights: Path | None = None
    name: str | None = None
    licence: str | None = None
    json: Path | None = None


def run(options: KMeansOptions) -> dict[str, Any]:
    """Cluster both networks, write the compressed bundle; returns what --json writes. Raises MatcherError."""
    from efficient_matcher.learn.cluster import cluster, layer_bits
    from efficient_matcher.learn.fold import folded
    from efficient_matcher.learn.prune import weight_layers
    from efficient_matcher.learn.recipe import to_mapping
    from efficient_matcher.learn.weights import load_superglue, load_superpoint
    if options.weights is not None:
        check_apart([options.weights / f"{name}.safetensors" for name in ("superpoint", "superglue")],
                    [options.superpoint, options.superglue])
    networks = {"superpoint": folded(load_superpoint(options.superpoint)),
                "superglue": folded(load_superglue(options.superglue))}
    recipes = _recipes(options, {name: weight_layers(network) for name, network in networks.items()})
    for name, network in networks.items():
        layer_bits(weight_layers(network), recipes[name])  # unknown layers are told before anything is written
    layers = {name: cluster(network, recipes[name]) for name, network in networks.items()}
    method = {"method": "kmeans", **{name: to_mapping(recipe) for name, recipe in recipes.items()}}
    _save(options, networks, method)
    sizes = _bundle(options, networks, method)
    report = {"bundle": str(options.out), **sizes, "recipe": method,
              "layers": {name: {layer: facts.to_dict() for layer, facts in found.items()}
                         for name, found in layers.items()}}
    if options.json is not None:
        write_json(options.json, report)
    print_table(f"{options.out}: {sizes['bytes'] / 2**20:.3f} MiB, {100 * sizes['share']:.1f} % of the float32 weights",
                _rows(layers), ("bits", "weights", "not zero", "values", "error %"))
    return report


def _recipes(options: KMeansOptions, layers: dict[str, Any]) -> dict[str, Any]:
    """Codebooks of each network. Raises MatcherError naming what is wrong."""
    from efficient_matcher.learn.cluster import CodebookRecipe
    from efficient_matcher.learn.recipe import find_recipe, read_recipe
    recipe = CodebookRecipe() if options.recipe is None else read_recipe(find_recipe(options.recipe), CodebookRecipe)
    found = {"superpoint": recipe.superpoint, "superglue": recipe.superglue}
    if options.bits is not None:
        _check_bits("--bits", options.bits)
        found = {name: replace(own, bits=options.bits) for name, own in found.items()}
    for text in options.layers:
        layer, bits = _layer(text)
        owners = [name for name in found if layer in layers[name]]
        if not owners:
            known = ", ".join(layer for own in layers.values() for layer in own)
            raise ConfigError(f"--layer {text}: unknown layer '{layer}' (known: {known})")
        for name in owners:
            found[name] = replace(found[name], layers={**found[name].layers, layer: bits})
    return found


def _layer(text: str) -> tuple[str, int]:
    layer, equals, bits = text.partition("=")
    if not equals or not bits.strip().isdigit():
        raise ConfigError(f"--layer {text}: must be NAME=BITS")
    _check_bits(f"--layer {text}", int(bits))
    return layer.strip(), int(bits)


def _check_bits(what: str, bits: int) -> None:
    if bits not in BITS:
        raise ConfigError(f"{what}: {bits} bits; k-means codebooks take {BITS[0]} to {BITS[-1]}")


def _save(options: KMeansOptions, networks: dict[str, Any], method: dict[str, Any]) -> None:
    if options.weights is None:
        return
    from efficient_matcher.learn.weights import read_weights, save_weights
    for name, network in networks.items():
        notes = read_weights(getattr(options, name)).notes
        save_weights(options.weights / f"{name}.safetensors", network, {**notes, "quantized": method})


def _bundle(options: KMeansOptions, networks: dict[str, Any], method: dict[str, Any]) -> dict[str, Any]:
    """Export, compress, and say in the card what was done; bytes, and their share of the float32 weights given."""
    from efficient_matcher.commands.export import ExportOptions, card_fields
    from efficient_matcher.learn.bundle_folder import check_free, filled_beside
    from efficient_matcher.learn.export import write_bundle
    from efficient_matcher.learn.pack import pack_bundle, stored_bytes
    from efficient_matcher.learn.weights import load_superglue, load_superpoint
    dense = load_superpoint(options.superpoint), load_superglue(options.superglue)
    given = sum(parameter.numel() for network in dense for parameter in network.parameters())
    fields = card_fields(ExportOptions(options.superpoint, options.superglue, options.out, options.name,
                                       options.licence))

    def told(card: Any) -> Any:
        parts = {part: {**getattr(card, part), "precision": f"float32 in codebooks of {method[name]['bits']} bits"}
                 for part, name in (("extractor", "superpoint"), ("matcher", "superglue"))}
        return replace(card, **parts, training={**card.training, "quantized": method})

    check_free(options.out)
    with filled_beside(options.out) as plain:
        write_bundle(plain, networks["superpoint"], networks["superglue"], fields)
        pack_bundle(plain, options.out, told)
    size = stored_bytes(options.out)
    return {"bytes": size, "given_parameters": given, "share": size / (4 * given)}


def _rows(layers: dict[str, Any]) -> list[tuple[str, ...]]:
    return [(f"{name} {layer}", str(facts.bits), str(facts.weights), str(facts.nonzero), str(facts.values),
             f"{100 * facts.relative_error:.1f}") for name, found in layers.items() for layer, facts in found.items()]
