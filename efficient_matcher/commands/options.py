"""Options that several commands share, and what they make of the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, List, Optional  # typer evaluates these on every Python we support

import typer

from efficient_matcher.config import Config


def _checked_file(path: Path | None) -> Path | None:
    if path is not None:
        from efficient_matcher.files import check_writable
        check_writable(path)
    return path


def _existing_file(path: Path | None) -> Path | None:
    if path is not None and not path.is_file():
        from efficient_matcher.errors import ConfigError
        raise ConfigError(f"{path}: no such file")
    return path


BundleOption = Annotated[Optional[str], typer.Option(
    "--bundle", metavar="NAME|PATH", help="Model bundle: one that ships, or a folder. [dim]default: default[/dim]")]
ConfigOption = Annotated[Optional[Path], typer.Option(
    "--config", metavar="YAML", help="Settings file; only what differs from the defaults (see dump-config).")]
SetOption = Annotated[Optional[List[str]], typer.Option(
    "--set", metavar="SECTION.KEY=VALUE", help="One setting; may be repeated, and wins over --config.")]
ThreadsOption = Annotated[Optional[int], typer.Option(
    "--threads", min=0, help="Threads of the networks; 0 takes all the process may use.")]
JsonOption = Annotated[Optional[Path], typer.Option(
    "--json", metavar="FILE", callback=_checked_file, help="Write the table's numbers, and more, as JSON.")]
XFeatOption = Annotated[Optional[Path], typer.Option(
    "--xfeat", metavar="FILE", callback=_existing_file, help="Compare XFeat too: its authors' weights, xfeat.pt. Needs the extra train.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the results of an earlier run.")]


def settings_of(file: Path | None, assignments: list[str] | None, bundle: str | None = None,
                threads: int | None = None, **overrides: Any) -> Config:
    """The settings that the shared options ask for. Raises ConfigError naming the key."""
    from efficient_matcher.commands.common import build_config
    return build_config(file, assignments or (), model__bundle=bundle, model__threads=threads, **overrides)
