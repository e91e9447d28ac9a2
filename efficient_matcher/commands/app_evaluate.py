"""Subcommands that measure accuracy and prepare it: arguments to a call, nothing more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional  # typer evaluates these on every Python we support

import typer

from efficient_matcher.commands.options import JsonOption, OverwriteOption


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
