"""Subcommands that make trained networks smaller: arguments to a call, nothing more."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, List, Optional  # typer evaluates these on every Python we support

import typer

from efficient_matcher.commands.app_models import (
    DataOption, Device, DeviceOption, ImagesOption, LimitOption, PairsOption, Precision, PrecisionOption,
    ProcessesOption, RecipeOption, RunOption, SeedOption, StepsOption, TopicOption)
from efficient_matcher.commands.options import JsonOption, OverwriteOption, ThreadsOption

finetune = typer.Typer(no_args_is_help=True, help="Train pruned or narrowed networks on, alone or taught by the dense "
                       "ones; a run that was stopped goes on where its folder's checkpoint left it.")


class Method(str, Enum):
    """How weights leave."""

    magnitude = "magnitude"
    channel = "channel"


class Scope(str, Enum):
    """What a ratio counts."""

    layer = "layer"
    all = "global"


class Criterion(str, Enum):
    """Which channels leave first."""

    frobenius = "frobenius"
    taylor = "taylor"
    random = "random"
    principal = "principal"


SuperPointOption = Annotated[Optional[Path], typer.Option(
    "--superpoint", metavar="FILE", help="Weights to begin with. [dim]default: the teacher's[/dim]")]
SuperGlueOption = Annotated[Optional[Path], typer.Option(
    "--superglue", metavar="FILE", help="Weights to begin with. [dim]default: the teacher's[/dim]")]
SuperPointTeacher = Annotated[Optional[Path], typer.Option(
    "--teacher-superpoint", metavar="FILE", help="Dense SuperPoint to learn from.")]
SuperGlueTeacher = Annotated[Optional[Path], typer.Option(
    "--teacher-superglue", metavar="FILE", help="Dense SuperGlue to learn from.")]
LabelsOption = Annotated[Optional[Path], typer.Option(
    "--labels", metavar="FILE", help="Labels of an earlier run. [dim]default: labels.npz in --out, made once[/dim]")]
SizeOption = Annotated[Optional[List[str]], typer.Option(
    "--size", metavar="LAYER=N", help="Bring a layer to N channels, heads or pairs first; may be repeated.")]
WidthsOption = Annotated[Optional[str], typer.Option(
    "--widths", metavar="N,N,..", help="The same for the encoder's eight layers.")]


@finetune.command("superpoint")
def finetune_superpoint(
    images: ImagesOption,
    out: RunOption,
    superpoint: SuperPointOption = None,
    teacher: Annotated[Optional[Path], typer.Option(
        "--teacher", "--teacher-superpoint", metavar="FILE", help="Dense SuperPoint to learn from.")] = None,
    recipe: RecipeOption = None,
    widths: WidthsOption = None,
    size: SizeOption = None,
    labels: LabelsOption = None,
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
    """Finetune the extractor, made smaller first if asked; writes superpoint.safetensors."""
    from efficient_matcher.commands import finetune as command
    command.run(command.FinetuneOptions(
        images, out, superpoint, teacher_superpoint=teacher, recipe=recipe,
        sizes=command.parse_sizes(widths, size), labels=labels, steps=steps, pairs=pairs,
        seed=seed, processes=processes, limit=limit, topic=topic, data=data, device=device.value,
        precision=precision.value, json=json), "superpoint")


@finetune.command("superglue")
def finetune_superglue(
    images: ImagesOption,
    extractors: Annotated[list[Path], typer.Option("--superpoint", metavar="FILE", help="Weights of its SuperPoint; "
                                                   "several times: it learns to match the features of each.")],
    out: RunOption,
    superglue: SuperGlueOption = None,
    teacher: Annotated[Optional[Path], typer.Option(
        "--teacher", "--teacher-superglue", metavar="FILE", help="Dense SuperGlue to learn from.")] = None,
    recipe: RecipeOption = None,
    size: SizeOption = None,
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
    """Finetune the matcher, made smaller first if asked; writes superglue.safetensors."""
    from efficient_matcher.commands import finetune as command
    command.run(command.FinetuneOptions(
        images, out, extractors[0], superglue, teacher_superglue=teacher, recipe=recipe,
        more_superpoints=tuple(extractors[1:]),
        sizes=command.parse_sizes(None, size), steps=steps, pairs=pairs,
        seed=seed, processes=processes, limit=limit, topic=topic, data=data, device=device.value,
        precision=precision.value, json=json), "superglue")


@finetune.command("both")
def finetune_both(
    images: ImagesOption,
    out: RunOption,
    superpoint: SuperPointOption = None,
    superglue: SuperGlueOption = None,
    teacher_superpoint: SuperPointTeacher = None,
    teacher_superglue: SuperGlueTeacher = None,
    recipe: RecipeOption = None,
    labels: LabelsOption = None,
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
    """Finetune both together through the matcher's loss; writes both weight files."""
    from efficient_matcher.commands import finetune as command
    command.run(command.FinetuneOptions(
        images, out, superpoint, superglue, teacher_superpoint, teacher_superglue, recipe, labels=labels,
        steps=steps, pairs=pairs, seed=seed, processes=processes, limit=limit, topic=topic, data=data,
        device=device.value, precision=precision.value, json=json), "both")


def prune(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the pruned weight files.")],
    superpoint: Annotated[Optional[Path], typer.Option("--superpoint", metavar="FILE", help="What to prune.")] = None,
    superglue: Annotated[Optional[Path], typer.Option("--superglue", metavar="FILE", help="What to prune.")] = None,
    method: Annotated[Optional[Method], typer.Option(
        "--method", help="magnitude: single weights become zero; channel: tensors become smaller. "
        "[dim]default: the recipe's, or magnitude[/dim]")] = None,
    recipe: RecipeOption = None,
    ratio: Annotated[Optional[float], typer.Option(
        "--ratio", metavar="R", help="Share that goes, from 0 to below 1, of each network given.")] = None,
    scope: Annotated[Optional[Scope], typer.Option(
        "--scope", help="magnitude: the ratio of each layer, or of all together.")] = None,
    criterion: Annotated[Optional[Criterion], typer.Option("--criterion", help="channel: what goes first; principal: of "
                                                            "--descriptors, all but the principal components.")] = None,
    size: SizeOption = None,
    descriptors: Annotated[Optional[int], typer.Option(
        "--descriptors", metavar="N", help="channel: width of the descriptors of both networks.")] = None,
    target_macs: Annotated[Optional[float], typer.Option(
        "--target-macs", metavar="N", help="channel: search widths for this many multiply-accumulates.")] = None,
    target_latency_ms: Annotated[Optional[float], typer.Option(
        "--target-latency-ms", metavar="MS", help="channel: search widths for this latency, measured here.")] = None,
    images: Annotated[Optional[Path], typer.Option(
        "--images", metavar="DIR", help="Training images, for criteria taylor and principal.")] = None,
    limit: LimitOption = None,
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = None,
) -> None:
    """Make trained networks sparse or smaller; `finetune` then wins back what was lost."""
    from efficient_matcher.commands import prune as command
    command.run(command.PruneOptions(
        out, superpoint, superglue, method.value if method else None, recipe, ratio, scope.value if scope else None,
        criterion.value if criterion else None, command.parse_sizes(size), descriptors, target_macs, target_latency_ms,
        images, limit, threads or 0, overwrite, json))
