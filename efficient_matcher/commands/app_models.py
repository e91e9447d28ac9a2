"""Subcommands that make and measure models: arguments to a call, nothing more."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional  # typer evaluates these on every Python we support

import typer

from efficient_matcher.commands.options import JsonOption

train = typer.Typer(no_args_is_help=True, help="Train the networks on images of your own; a run that was "
                    "stopped goes on where its folder's checkpoint left it.")
evaluate = typer.Typer(no_args_is_help=True, help="Measure accuracy against known truth.")


class Device(str, Enum):
    """Where a training computes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(str, Enum):
    """What networks compute in while they are trained; weights and losses are float32 always."""

    fp32 = "fp32"
    bf16 = "bf16"


class LabelSource(str, Enum):
    """Who says where keypoints are."""

    sift = "sift"
    adapted = "adapted"


ImagesOption = Annotated[Path, typer.Option(
    "--images", metavar="DIR|TAR|BAG", help="Training images: a folder with its subfolders, a tar file, or a bag.")]
TopicOption = Annotated[Optional[str], typer.Option("--topic", help="Of a bag with several image topics.")]
RunOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the run; an existing one is resumed.")]
StepsOption = Annotated[Optional[int], typer.Option("--steps", min=1, help="Steps; the recipe's if not given.")]
PairsOption = Annotated[Optional[int], typer.Option("--pairs", min=1, help="Image pairs per step and process.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same weights.")]
ProcessesOption = Annotated[int, typer.Option("--processes", min=0, help="Processes; 0 takes one per core, or GPU.")]
LimitOption = Annotated[Optional[int], typer.Option("--limit", min=1, help="Use only so many of the images or pairs.")]
StartOption = Annotated[Optional[Path], typer.Option("--start", metavar="FILE", help="Begin with these weights.")]
DataOption = Annotated[str, typer.Option("--data", metavar="TEXT", help="What the images are, for the model card.")]
RecipeOption = Annotated[Optional[str], typer.Option(
    "--recipe", metavar="NAME|YAML", help="Recipe: one that ships, or a file. [dim]default: built in[/dim]")]
DeviceOption = Annotated[Device, typer.Option("--device", help="auto takes a GPU if there is one.")]
PrecisionOption = Annotated[Precision, typer.Option(
    "--precision", help="bf16 is faster on GPUs, and on CPUs that have it.")]


@train.command()
def detector(
    out: RunOption,
    recipe: RecipeOption = None,
    steps: StepsOption = None,
    pairs: PairsOption = None,
    seed: SeedOption = 0,
    processes: ProcessesOption = 0,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.fp32,
    json: JsonOption = None,
) -> None:
    """Train a detector of corners on synthetic shapes, to label images; writes detector.safetensors."""
    from efficient_matcher.commands import train as command
    command.run_detector(command.TrainOptions(
        None, out, recipe=recipe, steps=steps, pairs=pairs, seed=seed, processes=processes, device=device.value,
        precision=precision.value, json=json))


@train.command()
def superpoint(
    images: ImagesOption,
    out: RunOption,
    labels: Annotated[LabelSource, typer.Option(
        "--labels", help="Keypoints to learn: SIFT's that hold under warps, or those of a --detector.")]
    = LabelSource.sift,
    detector: Annotated[Optional[Path], typer.Option(
        "--detector", metavar="FILE", help="Weights whose points become labels, with --labels adapted.")] = None,
    recipe: RecipeOption = None,
    start: StartOption = None,
    steps: StepsOption = None,
    pairs: PairsOption = None,
    seed: SeedOption = 0,
    processes: ProcessesOption = 0,
    limit: LimitOption = None,
    topic: TopicOption = None,
    data: DataOption = "",
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.fp32,
    json: JsonOption = None,
) -> None:
    """Train keypoints and descriptors; writes superpoint.safetensors."""
    from efficient_matcher.commands import train as command
    command.run_superpoint(command.TrainOptions(
        images, out, labels=labels.value, detector=detector, recipe=recipe, start=start, steps=steps, pairs=pairs,
        seed=seed, processes=processes, limit=limit, topic=topic, data=data, device=device.value,
        precision=precision.value, json=json))


@train.command()
def superglue(
    images: ImagesOption,
    weights: Annotated[Path, typer.Option("--superpoint", metavar="FILE", help="Weights of the trained SuperPoint.")],
    out: RunOption,
    recipe: RecipeOption = None,
    start: StartOption = None,
    scenes_share: Annotated[float, typer.Option(
        "--scenes-share", min=0.0, max=1.0, help="Share of the pairs that are views of synthetic scenes.")] = 0.0,
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="How many scenes are rendered for that.")] = 600,
    steps: StepsOption = None,
    pairs: PairsOption = None,
    seed: SeedOption = 0,
    processes: ProcessesOption = 0,
    limit: LimitOption = None,
    topic: TopicOption = None,
    data: DataOption = "",
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.fp32,
    json: JsonOption = None,
) -> None:
    """Train the matcher on the features of a trained SuperPoint; writes superglue.safetensors."""
    from efficient_matcher.commands import train as command
    command.run_superglue(command.TrainOptions(
        images, out, weights, recipe=recipe, start=start, scenes_share=scenes_share, scenes=scenes, steps=steps,
        pairs=pairs, seed=seed, processes=processes, limit=limit, topic=topic, data=data, device=device.value,
        precision=precision.value, json=json))


@train.command()
def locator(
    images: ImagesOption,
    weights: Annotated[Path, typer.Option(
        "--superpoint", metavar="FILE", help="Weights of a trained SuperPoint; a locator they have is trained on.")],
    out: RunOption,
    recipe: RecipeOption = None,
    steps: StepsOption = None,
    pairs: Annotated[Optional[int], typer.Option("--pairs", min=1, help="Pairs of patches per step and process.")] = None,
    seed: SeedOption = 0,
    processes: ProcessesOption = 0,
    limit: LimitOption = None,
    topic: TopicOption = None,
    data: DataOption = "",
    device: DeviceOption = Device.auto,
    json: JsonOption = None,
) -> None:
    """Train what places keypoints between pixels; writes superpoint.safetensors, which has it."""
    from efficient_matcher.commands import train as command
    command.run_locator(command.TrainOptions(
        images, out, weights, recipe=recipe, steps=steps, pairs=pairs, seed=seed, processes=processes, limit=limit,
        topic=topic, data=data, device=device.value, json=json))


@train.command("all")
def train_all(
    images: ImagesOption,
    out: RunOption,
    recipe: RecipeOption = None,
    steps: Annotated[Optional[int], typer.Option("--steps", min=1, help="Of every stage, for a rehearsal.")] = None,
    pairs: PairsOption = None,
    seed: SeedOption = 0,
    processes: ProcessesOption = 0,
    limit: LimitOption = None,
    topic: TopicOption = None,
    data: DataOption = "",
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.fp32,
    json: JsonOption = None,
) -> None:
    """Train everything: shapes, base detector, labels by it, both networks, and both together.

    Each stage has a folder below --out. Started again after an interruption it goes on where it was.
    """
    from efficient_matcher.commands import train_all as command
    command.run(command.ChainOptions(
        images, out, recipe=recipe, steps=steps, pairs=pairs, seed=seed, processes=processes, limit=limit,
        topic=topic, data=data, device=device.value, precision=precision.value, json=json))


@train.command()
def curves(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, of `train` or of `finetune`.")],
    out: Annotated[Optional[Path], typer.Option(
        "--out", metavar="PNG", help="The picture. [dim]default: curves.png in the run[/dim]")] = None,
) -> None:
    """Draw the log of a run: each loss and figure over its steps."""
    from efficient_matcher.commands import curves as command
    command.run(folder, out)


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
