"""Subcommands that measure accuracy and prepare it: arguments to a call, nothing more."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, List, Optional  # typer evaluates these on every Python we support

import typer

from efficient_matcher.commands.app_models import evaluate
from efficient_matcher.commands.options import (ConfigOption, JsonOption, OverwriteOption, SetOption, ThreadsOption,
                                                XFeatOption, settings_of)


class Method(str, Enum):
    """What is evaluated."""

    bundle = "bundle"
    nearest = "nearest"
    sift = "sift"
    orb = "orb"


class Variant(str, Enum):
    """Variants of the benchmark."""

    clean = "clean"
    hard = "hard"
    both = "both"


class Change(str, Enum):
    """What is swept."""

    rotation = "rotation"
    scale = "scale"
    tilt = "tilt"
    blur = "blur"
    noise = "noise"
    gamma = "gamma"
    jpeg = "jpeg"


MethodsOption = Annotated[Optional[List[Method]], typer.Option(
    "--method", help="May be repeated; nearest: the bundle's features with nearest neighbours.")]
BundlesOption = Annotated[Optional[List[str]], typer.Option(
    "--bundle", metavar="NAME|PATH", help="May be repeated. [dim]default: default[/dim]")]


@evaluate.command()
def homography(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="List of file names and homographies.")],
    images: Annotated[Optional[Path], typer.Option(
        "--images", metavar="DIR", help="Folder of the images. [dim]default: images beside PAIRS[/dim]")] = None,
    method: MethodsOption = None,
    bundle: BundlesOption = None,
    xfeat: XFeatOption = None,
    variant: Annotated[Variant, typer.Option("--variant", help="hard: other light, blur, noise, JPEG.")] = Variant.both,
    limit: Annotated[Optional[int], typer.Option("--limit", min=1, help="Use only so many of the pairs.")] = None,
    worst: Annotated[int, typer.Option("--worst", min=0, help="Say why so many of the worst pairs fail.")] = 0,
    pictures: Annotated[Optional[Path], typer.Option(
        "--pictures", metavar="DIR", help="Draw the worst pairs there, 8 if --worst is not given.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = None,
    summary: Annotated[bool, typer.Option("--summary", help="Leave the single pairs out of the JSON.")] = False,
) -> None:
    """Homographies of image pairs against the truth: AUC of the corner error, precision, recall, causes of failure."""
    from efficient_matcher.commands import evaluate as command
    methods = tuple(entry.value for entry in method or [Method.bundle])
    command.run(pairs, images=images, config=settings_of(config, set_, (bundle or [None])[0], threads),
                methods=methods, bundles=bundle or (), variant=variant.value, limit=limit, json=json,
                worst=worst or (8 if pictures else 0), pictures=pictures, summary=summary, xfeat=xfeat)


def make_pairs(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The list to write.")],
    count: Annotated[Optional[int], typer.Option(
        "--count", min=1, help="Pairs. [dim]default: one per image[/dim]")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same list.")] = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = None,
) -> None:
    """Draw homographies for your own images, as the published pairs were drawn, for `evaluate homography`."""
    from efficient_matcher.commands import make_pairs as command
    command.run(command.MakePairsOptions(images, out, count, seed, overwrite, json))


@evaluate.command()
def sweep(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the results; a stopped run goes on.")],
    sweep_: Annotated[Optional[List[Change]], typer.Option(
        "--sweep", help="May be repeated. [dim]default: all[/dim]")] = None,
    method: MethodsOption = None,
    bundle: BundlesOption = None,
    xfeat: XFeatOption = None,
    limit: Annotated[Optional[int], typer.Option("--limit", min=1, help="Use only so many of the images.")] = None,
    processes: Annotated[int, typer.Option("--processes", min=0, help="0: one per core of the affinity.")] = 0,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Plots need matplotlib.")] = True,
    overwrite: OverwriteOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = None,
) -> None:
    """Rotation, scale, viewpoint, blur, noise, gamma and JPEG, one at a time, beside SIFT and ORB.

    Repeatability, location error, precision, recall, AUC; writes sweep.json and a plot per change. Ctrl-C keeps what
    was measured, and the same command goes on.
    """
    from efficient_matcher.commands import sweep as command
    methods = tuple(entry.value for entry in method or (Method.bundle, Method.sift, Method.orb))
    settings = settings_of(config, set_, (bundle or [None])[0])
    finished = command.run(command.SweepOptions(
        images, out, methods, tuple(bundle or ()), tuple(entry.value for entry in sweep_ or Change), settings, limit,
        processes, plots, overwrite, json, xfeat))
    if finished is None:
        print("interrupted; the same command goes on", file=sys.stderr)
        raise typer.Exit(130)
