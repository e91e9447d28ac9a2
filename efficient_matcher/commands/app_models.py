"""Subcommands that make and measure models: arguments to a call, nothing more."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, List, Optional  # typer evaluates these on every Python we support

import typer

from efficient_matcher.commands.options import (BundleOption, ConfigOption, JsonOption, SetOption, ThreadsOption,
                                                settings_of)

train = typer.Typer(no_args_is_help=True, help="Train the networks on a folder of images; a run that was "
                    "stopped goes on where its folder's checkpoint left it.")
evaluate = typer.Typer(no_args_is_help=True, help="Measure accuracy against known truth.")


ImagesOption = Annotated[Path, typer.Option("--images", metavar="DIR", help="Training images; subfolders count.")]
RunOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the run; an existing one is resumed.")]
StepsOption = Annotated[Optional[int], typer.Option("--steps", min=1, help="Steps; the recipe's if not given.")]
PairsOption = Annotated[Optional[int], typer.Option("--pairs", min=1, help="Image pairs per step and process.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same weights.")]
ProcessesOption = Annotated[int, typer.Option("--processes", min=0, help="Processes; 0 takes one per core.")]
LimitOption = Annotated[Optional[int], typer.Option("--limit", min=1, help="Use only so many of the images or pairs.")]
StartOption = Annotated[Optional[Path], typer.Option("--start", metavar="FILE", help="Begin with these weights.")]
DataOption = Annotated[str, typer.Option("--data", metavar="TEXT", help="What the images are, for the model card.")]


@train.command()
def superpoint(
    images: ImagesOption,
    out: RunOption,
    steps: StepsOption = None,
    pairs: PairsOption = None,
    seed: SeedOption = 0,
    processes: ProcessesOption = 0,
    limit: LimitOption = None,
    data: DataOption = "",
    start: StartOption = None,
    json: JsonOption = None,
) -> None:
    """Train keypoints and descriptors; writes superpoint.safetensors."""
    from efficient_matcher.commands import train as command
    command.run_superpoint(command.TrainOptions(images, out, None, steps, pairs, seed, processes, limit, data, json, start))


@train.command()
def superglue(
    images: ImagesOption,
    weights: Annotated[Path, typer.Option("--superpoint", metavar="FILE", help="Weights of the trained SuperPoint.")],
    out: RunOption,
    steps: StepsOption = None,
    pairs: PairsOption = None,
    seed: SeedOption = 0,
    processes: ProcessesOption = 0,
    limit: LimitOption = None,
    start: StartOption = None,
    data: DataOption = "",
    scenes_share: Annotated[float, typer.Option(
        "--scenes-share", min=0.0, max=1.0, help="Share of the pairs that are views of synthetic scenes.")] = 0.0,
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="How many scenes are rendered for that.")] = 600,
    json: JsonOption = None,
) -> None:
    """Train the matcher on the features of a trained SuperPoint; writes superglue.safetensors."""
    from efficient_matcher.commands import train as command
    command.run_superglue(
        command.TrainOptions(images, out, weights, steps, pairs, seed, processes, limit, data, json, start, scenes_share,
                             scenes))


def export(
    superpoint: Annotated[Path, typer.Option("--superpoint", metavar="WEIGHTS", help="safetensors or official .pth.")],
    superglue: Annotated[Path, typer.Option("--superglue", metavar="WEIGHTS", help="safetensors or official .pth.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The bundle's folder; a bundle there is replaced.")],
    name: Annotated[Optional[str], typer.Option("--name", help="Of the bundle; the folder's if not given.")] = None,
    licence: Annotated[Optional[str], typer.Option(
        "--licence", metavar="TEXT", help="Of the weights, where their files do not say it.")] = None,
    measured: Annotated[Optional[Path], typer.Option(
        "--measured", metavar="FILE", help="JSON of accuracy and latency, kept in the card.")] = None,
    json: JsonOption = None,
) -> None:
    """Make a bundle of two weight files, each graph held against its network."""
    from efficient_matcher.commands import export as command
    command.run(command.ExportOptions(superpoint, superglue, out, name, licence, measured, json))
