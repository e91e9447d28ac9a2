"""Subcommands that store trained networks in fewer bits, and measure what that costs: arguments to a call."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, List, Optional  # typer evaluates these on every Python we support

import typer

from efficient_matcher.commands.app_evaluate import Variant
from efficient_matcher.commands.app_models import LimitOption, ProcessesOption
from efficient_matcher.commands.options import ConfigOption, JsonOption, SetOption, ThreadsOption, settings_of
from efficient_matcher.errors import ConfigError

report = typer.Typer(no_args_is_help=True, help="Pages made of measurements.")

SuperPointOption = Annotated[Path, typer.Option("--superpoint", metavar="WEIGHTS", help="safetensors, official .pth.")]
SuperGlueOption = Annotated[Path, typer.Option("--superglue", metavar="WEIGHTS", help="safetensors or official .pth.")]
BundleOutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder; a bundle there is replaced.")]
BundleArgument = Annotated[str, typer.Argument(metavar="NAME|PATH", help="Model bundle.")]
ImagesOption = Annotated[Optional[Path], typer.Option(
    "--images", metavar="DIR", help="Folder of the pairs' images. [dim]default: images beside the list[/dim]")]


class Quantizer(str, Enum):
    """How weights are made coarser."""

    kmeans = "kmeans"
    linear = "linear"


class LayerMethod(str, Enum):
    """What is done to one layer."""

    magnitude = "magnitude"
    kmeans = "kmeans"
    linear = "linear"


def quantize(
    superpoint: SuperPointOption,
    superglue: SuperGlueOption,
    out: BundleOutOption,
    method: Annotated[Quantizer, typer.Option(
        "--method", help="kmeans: codebooks, entropy-coded. linear: 8 bits for integer kernels, or 4 or 16 to store.")]
    = Quantizer.kmeans,
    bits: Annotated[Optional[int], typer.Option(
        "--bits", help="Of every layer: 2 to 8, or 4, 8, 16 for linear. [dim]default: 4; linear: 8[/dim]")] = None,
    images: Annotated[Optional[Path], typer.Option(
        "--images", metavar="DIR|TAR|BAG", help="Photographs to calibrate on, for linear in 8 bits.")] = None,
    topic: Annotated[Optional[str], typer.Option("--topic", help="Of a bag with several image topics.")] = None,
    picture: Annotated[Optional[Path], typer.Option(
        "--picture", metavar="PNG", help="Draw histograms and the ranges chosen, for linear in 8 bits.")] = None,
    float_matcher: Annotated[bool, typer.Option(
        "--float-matcher", help="Leave the matcher in float, for linear in 8 bits.")] = False,
    layer: Annotated[Optional[List[str]], typer.Option(
        "--layer", metavar="NAME=BITS", help="Bits of one layer; may be repeated.")] = None,
    recipe: Annotated[Optional[str], typer.Option(
        "--recipe", metavar="NAME|YAML", help="Bits by network and layer.")] = None,
    weights: Annotated[Optional[Path], typer.Option(
        "--weights", metavar="DIR", help="Keep the coarser weights there, to finetune their values.")] = None,
    name: Annotated[Optional[str], typer.Option("--name", help="Of the bundle; the folder's if not given.")] = None,
    licence: Annotated[Optional[str], typer.Option(
        "--licence", metavar="TEXT", help="Of the weights, where their files do not say it.")] = None,
    json: JsonOption = None,
) -> None:
    """Put networks into few bits; writes a bundle that runs as any other."""
    if method is Quantizer.linear:
        from efficient_matcher.commands import quantize_linear
        if layer or weights:
            raise ConfigError("--layer and --weights belong to --method kmeans")
        quantize_linear.run(quantize_linear.LinearOptions(superpoint, superglue, out, images, bits, recipe, picture,
                                                          float_matcher, name, licence, json, topic))
        return
    if images or picture or float_matcher or topic:
        raise ConfigError("--images, --topic, --picture and --float-matcher belong to --method linear")
    from efficient_matcher.commands import quantize_kmeans as command
    command.run(command.KMeansOptions(superpoint, superglue, out, bits, tuple(layer or ()), recipe, weights, name,
                                      licence, json))


def pack(bundle: BundleArgument, out: BundleOutOption, json: JsonOption = None) -> None:
    """Entropy-code the files of a bundle; it runs as before, bit by bit."""
    from efficient_matcher.commands import pack as command
    command.run(bundle, out, json=json)


def unpack(bundle: BundleArgument, out: BundleOutOption, json: JsonOption = None) -> None:
    """Turn a packed bundle into one of ordinary ONNX files."""
    from efficient_matcher.commands import pack as command
    command.run(bundle, out, unpack=True, json=json)


def sensitivity(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="Names and homographies (see make-pairs).")],
    superpoint: SuperPointOption,
    superglue: SuperGlueOption,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Cells and plots; an existing scan goes on.")],
    method: Annotated[LayerMethod, typer.Option("--method", help="What is done to one layer at a time.")]
    = LayerMethod.magnitude,
    level: Annotated[Optional[List[float]], typer.Option(
        "--level", help="Share of zeros in [0,1), or bits 2 to 8; may be repeated.")] = None,
    layer: Annotated[Optional[List[str]], typer.Option(
        "--layer", metavar="PATTERN", help="Only these layers; may be repeated.")] = None,
    images: ImagesOption = None,
    limit: LimitOption = None,
    variant: Annotated[Variant, typer.Option("--variant", help="Of the benchmark.")] = Variant.clean,
    processes: ProcessesOption = 0,
    scheduler: Annotated[Optional[str], typer.Option(
        "--scheduler", metavar="ADDRESS", help="Dask scheduler (tcp://host:8786) whose workers do it; they need the "
        "package, and the files under the same paths.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = None,
) -> None:
    """Prune or round each layer by itself, at each level: precision, recall and AUC, as table, plots and JSON."""
    from efficient_matcher.commands import sensitivity as command
    variants = ("clean", "hard") if variant is Variant.both else (variant.value,)
    command.run(command.SensitivityOptions(
        superpoint, superglue, pairs, out, method.value, tuple(level or ()), tuple(layer or ()), images, limit,
        variants, settings_of(config, set_), processes, scheduler, json))


@report.command()
def compression(
    rows: Annotated[str, typer.Argument(
        metavar="NAME|YAML", help="The rows: titles, bundles, how each is made; a file, or report-compression.")],
    pairs: Annotated[Path, typer.Option("--pairs", metavar="PAIRS", help="List of file names and homographies.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the page: .md, .html, .json.")],
    images: ImagesOption = None,
    limit: LimitOption = None,
    make: Annotated[bool, typer.Option("--make", help="Run the commands of rows whose bundle is missing.")] = False,
    folder: Annotated[Optional[Path], typer.Option(
        "--folder", metavar="DIR", help="Where weights and bundles of the rows lie. [dim]default: the file's[/dim]")]
    = None,
    value: Annotated[Optional[List[str]], typer.Option(
        "--value", metavar="NAME=TEXT", help="Of the rows' commands, over the file's values; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Turns of each row in the timing.")] = 10,
    config: ConfigOption = None,
    set_: SetOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Size, accuracy and speed of dense and compressed pairs beside each other."""
    from efficient_matcher.commands import report as command
    command.run(command.ReportOptions(rows, pairs, out, images, limit, make, rounds, settings_of(config, set_, None,
                                                                                               threads),
                                      tuple(value or ()), folder))
