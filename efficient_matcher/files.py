"""Results on disk: whole or not at all, and nothing overwritten unasked."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from efficient_matcher.errors import MatcherError


def write_bytes_atomic(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` through a neighbouring file, so that a reader never sees half of it.

    Folders are made as needed; a link is followed, and a device or pipe written to as it is. Raises MatcherError
    naming the file when it cannot be written.
    """
    target = Path(os.path.realpath(path))
    partial = target.parent / f".{target.name}.{os.getpid()}.partial"
    try:
        if target.exists() and not target.is_file() and not target.is_dir():
            target.write_bytes(data)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        os.replace(partial, target)
    except OSError as error:
        with suppress(OSError):  # the folder itself may be what is wrong
            partial.unlink(missing_ok=True)
        raise MatcherError(f"{path}: cannot be written: {error.strerror}") from None


def check_writable(path: Path | str) -> None:
    """Raise MatcherError naming `path` where `write_bytes_atomic` is bound to fail; changes nothing on disk.

    For the start of long work, which should not end with its report lost.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise MatcherError(f"{path}: cannot be written: is a folder")
    if target.exists() and not target.is_file():  # a device or a pipe, which is written into
        if not os.access(target, os.W_OK):
            raise MatcherError(f"{path}: cannot be written: no permission")
        return
    there = next(folder for folder in target.parents if folder.exists())
    if not there.is_dir():
        raise MatcherError(f"{path}: cannot be written: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise MatcherError(f"{path}: cannot be written: no permission in {there}")


def check_apart(results: Iterable[Path | None], sources: Iterable[Path | None]) -> None:
    """Raise MatcherError when a result would take the place of a file the work begins with, or of another result."""
    begun = [path.resolve() for path in sources if path is not None]
    seen: set[Path] = set()
    for path in results:
        if path is None:
            continue
        if any(path.resolve().is_relative_to(source) for source in begun):
            raise MatcherError(f"{path}: is what the work begins with; choose another place for its results")
        if path.resolve() in seen:
            raise MatcherError(f"{path}: is asked for as two results; choose another place for one")
        seen.add(path.resolve())


def write_text_atomic(path: Path | str, text: str) -> None:
    """As `write_bytes_atomic`, for UTF-8 text."""
    write_bytes_atomic(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON; numpy arrays become lists, NaN and infinity become null."""
    write_text_atomic(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """`value` in what JSON knows: dicts, lists, str, int, float, bool, None."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def result_folder(path: Path | str, contents: Iterable[str], overwrite: bool = False,
                  source: Path | str | None = None) -> Path:
    """An existing folder `path` free for results named `contents`.

    Files of those names from an earlier run are removed when `overwrite`; other files are never touched.
    Raises MatcherError when there are such files and not `overwrite`, when one of them is or holds `source`, which
    the results are made from, or when the folder cannot be made.
    """
    path = Path(path)
    taken = [path / name for name in contents if (path / name).exists()]
    for entry in taken:
        if source is not None and Path(source).resolve().is_relative_to(entry.resolve()):
            raise MatcherError(f"{entry}: is what the results are made from; choose another --out")
    if taken and not overwrite:
        raise MatcherError(f"{taken[0]}: exists already; choose another --out, or --overwrite")
    try:
        path.mkdir(parents=True, exist_ok=True)
        for entry in taken:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    except OSError as error:
        raise MatcherError(f"{path}: cannot be used for results: {error.strerror}") from None
    return path
