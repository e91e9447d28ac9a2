"""Subcommands about views of scenes in space: arguments to a call, nothing more."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional  # typer evaluates these on every Python we support

import typer

from efficient_matcher.commands.app_evaluate import BundlesOption, Method, MethodsOption
from efficient_matcher.commands.app_models import evaluate
from efficient_matcher.commands.options import (ConfigOption, JsonOption, OverwriteOption, SetOption, ThreadsOption,
                                                XFeatOption, settings_of)


class Level(str, Enum):
    """How far apart the two views of a scene are."""

    easy = "easy"
    medium = "medium"
    hard = "hard"


class Levels(str, Enum):
    """One level, or each."""

    easy = "easy"
    medium = "medium"
    hard = "hard"
    all = "all"


SEED_HELP = "The same seed gives the same scenes."


@evaluate.command()
def pose(
    source: Annotated[Optional[Path], typer.Argument(
        metavar="[LIST|BAG]", help="Pairs with intrinsics and pose, or a bag with camera_info and poses.")] = None,
    images: Annotated[Optional[Path], typer.Option(
        "--images", metavar="DIR", help="Images of the list. [dim]default: images beside it[/dim]")] = None,
    scenes: Annotated[Optional[Path], typer.Option(
        "--scenes", metavar="IMAGES", help="Instead of LIST: scenes rendered from a folder of images.")] = None,
    level: Annotated[Levels, typer.Option("--level", help="Of the scenes.")] = Levels.all,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Of the scenes, per level.")] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0, help=SEED_HELP)] = 7,
    topic: Annotated[Optional[str], typer.Option("--topic", help="Image topic of the bag.")] = None,
    pose_topic: Annotated[Optional[str], typer.Option("--pose-topic", help="Poses or odometry of the bag.")] = None,
    gap: Annotated[int, typer.Option("--gap", min=1, help="Frames of the bag between the two of a pair.")] = 10,
    limit: Annotated[Optional[int], typer.Option("--limit", min=1, help="Use only so many of the pairs.")] = None,
    method: MethodsOption = None,
    bundle: BundlesOption = None,
    xfeat: XFeatOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = None,
) -> None:
    """Relative pose against the truth: AUC at 5, 10 and 20 degrees, epipolar precision, matching score.

    LIST has SuperGlue's format: name0 name1 rot0 rot1 K0 (9 numbers) K1 (9) T_0to1 (16); make-scenes writes one.
    """
    from efficient_matcher.commands import evaluate_pose as command
    methods = tuple(entry.value for entry in method or [Method.bundle])
    command.run(command.EvaluatePoseOptions(
        source, images, scenes, level.value, pairs, seed, topic, pose_topic, gap, limit, methods, tuple(bundle or ()),
        settings_of(config, set_, (bundle or [None])[0], threads), json, xfeat))


def make_scenes(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images, the textures.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of pictures, depth and the list.")],
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="How many.")] = 100,
    level: Annotated[Level, typer.Option("--level", help="How far apart the two views are.")] = Level.medium,
    seed: Annotated[int, typer.Option("--seed", min=0, help=SEED_HELP)] = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = None,
) -> None:
    """Render pairs of views of rooms, streets and panels papered with your images, for `evaluate pose`."""
    from efficient_matcher.commands import make_scenes as command
    command.run(command.MakeScenesOptions(images, out, pairs, level.value, seed, overwrite, json))
