"""`report compression`: one command from rows in a YAML file to the page."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import efficient_matcher
from efficient_matcher.commands.bench import machine_facts
from efficient_matcher.commands.common import print_table
from efficient_matcher.config import Config
from efficient_matcher.core.bundle import shipped_bundles
from efficient_matcher.errors import ConfigError, MatcherError, RecipeError
from efficient_matcher.files import check_writable, write_json, write_text_atomic
from efficient_matcher.sources.pairs import read_pairs

NAME = "compression"


@dataclass(frozen=True)
class ReportOptions:
    """rows: the YAML file, or the name of one that ships. pairs, images, limit: as for `evaluate homography`. out:
    folder of the page. make: run the command lines of rows whose bundle is missing. rounds: turns of each row in the
    timing. values: `NAME=TEXT`, over those of the YAML file. folder: where weights and bundles lie, the file's folder
    if not given."""

    rows: Path | str
    pairs: Path
    out: Path
    images: Path | None = None
    limit: int | None = None
    make: bool = False
    rounds: int = 10
    config: Config = Config()
    values: tuple[str, ...] = ()
    folder: Path | None = None


def run(options: ReportOptions) -> dict[str, Any]:
    """Measure all rows, write compression.md, .html and .json, print the tables; returns what the JSON holds.

    Raises MatcherError.
    """
    from efficient_matcher.evaluate.compression import measure_rows, present, ways
    from efficient_matcher.evaluate.compression_page import markdown, missing, page, tables
    from efficient_matcher.evaluate.latency import BenchPlan
    from efficient_matcher.learn.recipe import find_recipe
    check_writable(options.out / f"{NAME}.md")
    given = read_rows(options.rows, options.values, options.folder)
    pairs = read_pairs(options.pairs, options.images)[:options.limit]
    if options.make:
        make_rows(given.rows, options.folder or find_recipe(options.rows).parent)
    if not present(given.rows):
        raise ConfigError(f"{options.rows}: no bundle of any row is there; --make makes them")
    machine, plan = machine_facts(), BenchPlan(rounds=options.rounds)
    turns = len(present(given.rows)) * len(ways(options.config)) * options.rounds
    with _progress(len(pairs), turns) as progress:
        rows = measure_rows(given.rows, pairs, options.config, plan, progress)
    report = {"command": "report compression", "version": efficient_matcher.__version__, "title": given.title,
              "text": _text(given.note, options, len(pairs), machine), "rows": rows, "machine": machine,
              "settings": {"pairs": options.pairs, "limit": options.limit, "rounds": options.rounds,
                           **options.config.values()}}
    write_json(options.out / f"{NAME}.json", report)
    write_text_atomic(options.out / f"{NAME}.md", markdown(report))
    write_text_atomic(options.out / f"{NAME}.html", page(report))
    for title, columns, lines in tables(rows):
        print_table(title, lines, columns[1:])
    for line in missing(rows):
        print(f"missing: {line}", file=sys.stderr)
    return report


def read_rows(name: Path | str, values: Sequence[str] = (), folder: Path | None = None) -> Any:
    """The rows, their bundles as paths from here, with `NAME=TEXT` values over the file's in the command lines.

    name: a file, or one that ships. folder: where bundles lie, the file's if not given.

    Raises RecipeError naming file and field, ConfigError for a text that is no such pair.
    """
    from efficient_matcher.evaluate.compression import Rows, filled
    from efficient_matcher.learn.recipe import find_recipe, read_recipe
    path = find_recipe(name)
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"--folder {folder}: no such folder")
    folder = folder or path.parent
    for text in values:
        if "=" not in text:
            raise ConfigError(f"--value {text}: must be NAME=TEXT")
    given = read_recipe(path, Rows)
    try:
        given = filled(given, dict(text.split("=", 1) for text in values))
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None

    def placed(bundle: str) -> str:
        return bundle if bundle in shipped_bundles() else str(folder / Path(bundle).expanduser())

    return replace(given, rows=tuple(replace(row, bundle=placed(row.bundle)) for row in given.rows))


def make_rows(rows: Any, folder: Path) -> None:
    """Run the commands of rows that are missing in `folder`, each line once.

    Raises MatcherError naming the row and the line that failed.
    """
    from efficient_matcher.evaluate.compression import present
    there, done = present(rows), set()
    for row in rows:
        for line in () if row.title in there else row.make:
            if line in done:
                continue
            done.add(line)
            print(f"{row.title}: efficient-matcher {line}", file=sys.stderr)
            code = subprocess.run([sys.executable, "-m", "efficient_matcher.cli", *shlex.split(line)], cwd=folder,
                                  check=False).returncode
            if code:
                raise MatcherError(f"{row.title}: 'efficient-matcher {line}' ended with {code}")


def _text(note: str, options: ReportOptions, pairs: int, machine: dict[str, Any]) -> list[str]:
    config = options.config
    lines = [note] if note else []
    lines.append(
        f"{pairs} pairs of {options.pairs.name}, {config.extract.max_keypoints} keypoints. AUC of the corner error "
        "in percent by OpenCV's RANSAC, whose chance moves a row by some points, and by our own fit; pairs with under "
        "12 matches count as failures; precision and recall in percent. "
        + ("Refined: of matches moved to photometric agreement, as they are by default. " if config.refine.enabled else "") +
        "hard: the same pairs under other light, with blur, noise and JPEG.")
    lines.append(
        "Weights are the numbers in the deployed graphs, biases included; bytes are those of the whole bundle as "
        "stored, its card included. MACs are of each graph once, for 640x480 and 512 keypoints in both images. Times "
        "are medians over a tracked frame"
        + (", refinement included; not refined: the same without" if config.refine.enabled else "")
        + "; rows took turns, each in a process of its own, on "
        f"{config.model.backend}, {machine['cpu']}, load average {machine['load_average']} at the start.")
    return lines


@contextmanager
def _progress(pairs: int, turns: int) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import Progress as Bar

    from efficient_matcher.evaluate.compression import Progress
    console = Console(stderr=True)
    with Bar(console=console, disable=not console.is_terminal) as bar:
        accuracy, speed = bar.add_task("accuracy", total=pairs), bar.add_task("speed", total=turns)
        yield Progress(lambda: bar.advance(accuracy), lambda name: bar.advance(speed))
