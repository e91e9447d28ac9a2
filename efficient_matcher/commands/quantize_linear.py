"""`quantize --method linear`: 8-bit layers for integer kernels, or weights alone in 16 or 4 bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.commands.common import print_table
from efficient_matcher.errors import ConfigError, MatcherError, SourceError
from efficient_matcher.files import write_bytes_atomic, write_json

BITS = (4, 8, 16)


@dataclass(frozen=True)
class LinearOptions:
    """superpoint, superglue: weight files. images: to calibrate on, for 8 bits; topic: of a bag. out: of the bundle.

    bits: the recipe's if not given. recipe: file or name of one that ships. picture: PNG of the extractor's histograms
    and ranges; the matcher's go beside it, NAME-matcher.png. float_matcher: leave the matcher as it is. name, licence:
    as for export.
    """

    superpoint: Path
    superglue: Path
    out: Path
    images: Path | None = None
    bits: int | None = None
    recipe: str | None = None
    picture: Path | None = None
    float_matcher: bool = False
    name: str | None = None
    licence: str | None = None
    json: Path | None = None
    topic: str | None = None


def run(options: LinearOptions) -> dict[str, Any]:
    """Quantize, write the bundle; returns what --json writes. Raises MatcherError. A run that was stopped goes on."""
    from efficient_matcher.commands.export import ExportOptions, card_fields
    from efficient_matcher.learn.bundle_folder import check_free, filled_beside, replace_bundle
    from efficient_matcher.learn.export import write_bundle
    from efficient_matcher.learn.weights import load_superglue, load_superpoint
    recipe = _recipe(options)
    check_free(options.out)
    superpoint, superglue = load_superpoint(options.superpoint), load_superglue(options.superglue)
    fields = card_fields(ExportOptions(options.superpoint, options.superglue, options.out, options.name,
                                       options.licence))
    images = _images(options, fields.input_size, recipe.images) if recipe.bits == 8 else []
    with filled_beside(options.out) as partial:
        write_bundle(partial, superpoint, superglue, fields)
        if recipe.bits == 8:
            report = _eight_bits(options, recipe, superpoint, images, partial)
            report["matcher"] = _matcher(options, recipe, superglue, images, partial)
            _store_locator(partial)
        else:
            report = _stored_weights(partial, recipe.bits)
        report = {"bundle": str(options.out), "recipe": asdict(recipe), **report, **_sizes(partial)}
        _tell_card(partial, report)
        replace_bundle(options.out, partial)
    for notes in options.out.parent.glob(_notes_file(options.out, "*").name):
        notes.unlink()
    if options.json is not None:
        write_json(options.json, report)
    _print(report)
    return report


def _recipe(options: LinearOptions) -> Any:
    from efficient_matcher.learn.quantize import LinearRecipe
    from efficient_matcher.learn.recipe import find_recipe, read_recipe
    recipe = LinearRecipe() if options.recipe is None else read_recipe(find_recipe(options.recipe), LinearRecipe)
    if options.bits is not None and options.bits not in BITS:
        raise ConfigError(f"--bits must be one of {', '.join(map(str, BITS))} for --method linear, got {options.bits}")
    bits = recipe.bits if options.bits is None else options.bits
    for name in ("float_matcher", "picture", "images") if bits != 8 else ():
        if getattr(options, name):
            raise ConfigError(f"--{name.replace('_', '-')} belongs to 8 bits, these are {bits}")
    if options.float_matcher:
        recipe = replace(recipe, matcher=replace(recipe.matcher, quantize=False))
    return recipe if options.bits is None else replace(recipe, bits=options.bits)


def _images(options: LinearOptions, size: tuple[int, int], count: int) -> list[NDArray[np.uint8]]:
    """As core would give them to the network, spread evenly over the source; what cannot be decoded is named."""
    from efficient_matcher.config import InputConfig
    from efficient_matcher.core.image import to_frame
    from efficient_matcher.sources.image_sets import read_images
    if options.images is None:
        raise MatcherError("8 bits need --images, photographs to calibrate on")
    found = list(read_images(options.images, options.topic, count, spread=True))
    unreadable = [name for name, image in found if image is None]
    if len(unreadable) == len(found):
        raise SourceError(f"{options.images}: no usable image ({len(unreadable)} skipped)")
    if unreadable:
        print(f"skipped {len(unreadable)} of {len(found)} images: {', '.join(unreadable[:5])} (unreadable)")
    config = replace(InputConfig(), width=size[0], height=size[1])
    return [to_frame(image, config).image for _, image in found if image is not None]


def _eight_bits(options: LinearOptions, recipe: Any, superpoint: Any, images: list[NDArray[np.uint8]],
                folder: Path) -> dict[str, Any]:
    import onnx

    from efficient_matcher.core.bundle import EXTRACTOR_NAME
    from efficient_matcher.learn.export import extractor_parity
    from efficient_matcher.learn.quantize import quantize
    from efficient_matcher.learn.range_picture import range_picture
    told: dict[str, Any] = {}
    first = None
    for name, model in _layouts(recipe.layout, superpoint).items():
        extractor_parity(model, superpoint)
        with _progress(name) as on_step:
            result = quantize(model, images, recipe, _notes_file(options.out, name), on_step, first)
        first = first or result
        onnx.save(result.model, str(folder / name))
        told[name] = _told(result)
        if options.picture is not None and name == EXTRACTOR_NAME:
            write_bytes_atomic(options.picture, range_picture(model, result.histograms, result.ranges))
    return {"bits": 8, "images": len(images), **told.pop(EXTRACTOR_NAME), "variants": told}


def _matcher(options: LinearOptions, recipe: Any, superglue: Any, images: list[NDArray[np.uint8]],
             folder: Path) -> dict[str, Any] | None:
    """Put the stages in place that are made for the features of the folder's extractor; None where they stay float."""
    import onnx

    from efficient_matcher.core.backend import open_model
    from efficient_matcher.core.bundle import EXTRACTOR_NAME
    from efficient_matcher.learn.matcher_graph import matcher_model
    from efficient_matcher.learn.matcher_stages import matcher_stages
    from efficient_matcher.learn.quantize_matcher import quantize_matcher, view_pairs
    from efficient_matcher.learn.range_picture import range_picture
    if not recipe.matcher.quantize:
        return None
    model = matcher_model(superglue)
    with _progress("matcher") as on_step:
        on_step("extracting features")
        pairs = view_pairs(open_model(folder / EXTRACTOR_NAME), images)
        result = quantize_matcher(model, pairs, recipe, _notes_file(options.out, "matcher"), on_step)
    for name, stage in matcher_stages(result.model).items():
        onnx.save(stage, str(folder / name))
    if options.picture is not None:
        seen = {name: found for name, found in result.histograms.items() if "/0/" in name}  # image 1 has the same
        write_bytes_atomic(options.picture.with_stem(f"{options.picture.stem}-matcher"),
                           range_picture(model, seen, result.ranges))
    return {**_told(result), "pairs": len(pairs)}


def _layouts(layout: str, superpoint: Any) -> dict[str, Any]:
    """The float graphs, by the file of the bundle that each is for."""
    from efficient_matcher.core.bundle import EXTRACTOR_NAME, VARIANT_NAMES
    from efficient_matcher.learn.extractor_graph import extractor_model
    from efficient_matcher.learn.extractor_phases import phased_extractor_model
    first = extractor_model(superpoint) if layout == "plain" else phased_extractor_model(superpoint)
    variant = {VARIANT_NAMES["openvino"]: extractor_model(superpoint)} if layout == "both" else {}
    return {EXTRACTOR_NAME: first, **variant}


def _told(result: Any) -> dict[str, Any]:
    damages = {name: {key: asdict(damage) for key, damage in found.items()}
               for name, found in (("methods", result.methods), ("alone", result.alone))}
    return {"calibration": result.calibration, "wider": result.wider, "damage": asdict(result.damage),
            "ranges": result.ranges, **damages}


def _stored_weights(folder: Path, bits: int) -> dict[str, Any]:
    import onnx

    from efficient_matcher.learn.qdq import four_bit_weights, half_weights
    for path in sorted(folder.glob("*.onnx")):
        onnx.save((half_weights if bits == 16 else four_bit_weights)(onnx.load(str(path))), str(path))
    return {"bits": bits}


def _store_locator(folder: Path) -> None:
    """Put the locator's weights in 8 bits, if there is one; it computes in float, in about a millisecond."""
    import onnx

    from efficient_matcher.core.bundle import LOCATOR_NAME
    from efficient_matcher.learn.qdq import byte_weights
    path = folder / LOCATOR_NAME
    if path.exists():
        onnx.save(byte_weights(onnx.load(str(path))), str(path))


def _tell_card(folder: Path, report: dict[str, Any]) -> None:
    from efficient_matcher.core.bundle import file_sha256, read_card, write_card
    from efficient_matcher.files import plain
    card = read_card(folder)
    bits = report["bits"]
    extractor = "int8" if bits == 8 else f"float32, weights stored in {bits} bits"
    keys = ("bits", "calibration", "wider", "damage", "images")
    variants = report.get("variants") or {}
    told = {key: report[key] for key in keys if key in report}
    matcher = report.get("matcher")
    told.update({name: {key: found[key] for key in (*keys, "pairs") if key in found}
                 for name, found in (*variants.items(), *([("matcher", matcher)] if matcher else []))})
    write_card(folder, replace(
        card, extractor={**card.extractor, "precision": extractor},
        matcher=card.matcher if bits == 8 and not matcher else {**card.matcher, "precision": extractor},
        measured=plain({"quantization": told}),  # how far from torch the graphs in floats were is not told of these
        files={name: file_sha256(folder / name) for name in (*card.files, *variants)}))


def _sizes(folder: Path) -> dict[str, Any]:
    return {"bytes": {path.name: path.stat().st_size for path in sorted(folder.glob("*.onnx"))}}


def _notes_file(out: Path, file: str) -> Path:
    return out.with_name(f".{out.name}.{file}.quantize.json")


@contextmanager
def _progress(file: str) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("quantize " + file + ": {task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        yield lambda what: progress.update(task, description=what)


def _print(report: dict[str, Any]) -> None:
    sizes = [(name, f"{size / 2**20:.3f} MiB") for name, size in report["bytes"].items()]
    rows = [("bits", str(report["bits"])), *sizes]
    if report["bits"] == 8:
        rows += _damage_rows(report)
        for name, found in report["variants"].items():
            rows += [(name, ""), *_damage_rows(found)]
        if report["matcher"] is not None:
            rows += [("matcher", ""), *_damage_rows(report["matcher"])]
    print_table(report["bundle"], rows)


_DAMAGES = {"shift_px": ("keypoints move by", "{:.3f} px (median)", 1), "lost": ("keypoints lost", "{:.1f} %", 100),
            "descriptor": ("descriptors turn by", "{:.4f} (1 - cosine)", 1),
            "matches": ("matches that change", "{:.1f} %", 100)}


def _damage_rows(told: dict[str, Any]) -> list[tuple[str, str]]:
    found = [(_DAMAGES[key], value) for key, value in told["damage"].items()]
    return [("calibration", told["calibration"]), ("left in float", ", ".join(told["wider"]) or "none"),
            *((title, text.format(factor * value)) for (title, text, factor), value in found)]
