"""What the commands share: overrides from the command line, percentiles, tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from efficient_matcher.config import Config, load_config, settings
from efficient_matcher.errors import ConfigError


def build_config(file: Path | None = None, assignments: Sequence[str] = (), **overrides: Any) -> Config:
    """Defaults, then the YAML file, then `section.key=value` assignments, then keyword overrides that are not None.

    Keywords name settings with a double underscore: `model__bundle="default"`.
    Raises ConfigError naming the key.
    """
    named = {name.replace("__", "."): value for name, value in overrides.items() if value is not None}
    return load_config(file, {**parse_assignments(assignments), **named})


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`section.key=value` texts as a mapping, values in the type of their setting. Raises ConfigError."""
    kinds = {setting.name: type(setting.default) for setting in settings()}
    values = {}
    for text in assignments:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ConfigError(f"'{text}' is not of the form section.key=value")
        values[name] = _typed(value, kinds.get(name, str))
    return values


def distribution(values: Sequence[float], percentiles: Sequence[int] = (10, 50, 90, 99)) -> dict[str, float] | None:
    """Minimum, percentiles (50 as `median`) and maximum by name, in that order; None without values."""
    if not len(values):
        return None
    named = {("median" if p == 50 else f"p{p}"): float(np.percentile(values, p)) for p in percentiles}
    return {"min": float(np.min(values)), **named, "max": float(np.max(values))}


def print_table(title: str, rows: Iterable[Sequence[str]] | Mapping[str, str], columns: Sequence[str] = ()) -> None:
    """A table on standard output: names left, numbers right under `columns`, or one text a row without columns.

    Texts are folded where the terminal ends; numbers are not, as figures cut in two would be worse than long lines.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    table = Table("", *(columns or [""]), title=title, title_justify="left", show_header=bool(columns))
    table.columns[0].style, table.columns[0].no_wrap = "bold", True
    for column in table.columns[1:]:
        column.justify, column.overflow = ("right" if columns else "left"), "fold"  # nothing is cut off
        column.no_wrap = bool(columns)
    for row in rows.items() if isinstance(rows, Mapping) else rows:
        table.add_row(*(escape(cell) for cell in row))  # brackets in file names are no markup
    console = Console()
    needed = console.measure(table, options=console.options.update(max_width=1000)).maximum if columns else 0
    Console(width=max(console.width, needed)).print(table)


def _typed(text: str, kind: type) -> Any:
    # YAML reads 1e-3 as a text; a float setting must take it all the same.
    if kind is float:
        try:
            return float(text)
        except ValueError:
            return text
    if kind is str:
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
