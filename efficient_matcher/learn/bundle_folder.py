"""Putting a new bundle where an old one is: whole or not at all, and nothing of anyone else's lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from efficient_matcher.core.bundle import CARD_NAME, read_card
from efficient_matcher.errors import BundleError, ExportError


def check_free(folder: Path) -> None:
    """Raise ExportError when `folder` cannot be replaced, or holds something that is no bundle."""
    if not folder.name:
        raise ExportError(f"{folder}: is the folder you are in, which cannot be replaced; choose another")
    if folder.exists() and not (folder / CARD_NAME).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder}: exists and is not a bundle; choose another folder")


@contextmanager
def filled_beside(folder: Path) -> Iterator[Path]:
    """A folder to fill that never is the bundle's until it is whole; gone after the block. Raises ExportError."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.filling")
    try:
        yield partial
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_bundle(folder: Path, new: Path) -> None:
    """Put the bundle `new` at `folder`. What belongs to the bundle there before goes once that has worked; files that
    its card does not list stay. Raises OSError."""
    old = new.with_suffix(".old")
    others = _others(folder)
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    for name in others:
        if not (folder / name).exists():
            (old / name).rename(folder / name)
    shutil.rmtree(old, ignore_errors=True)


def _others(folder: Path) -> list[str]:
    """What lies in a bundle's folder without being of the bundle."""
    if not folder.is_dir():
        return []
    own = {CARD_NAME}
    with suppress(BundleError):  # a card that cannot be read lists nothing
        own.update(read_card(folder).files)
    return [entry.name for entry in folder.iterdir() if entry.name not in own]
