"""Recipes: read back as written, and every mistake one line with file and field."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from efficient_matcher.errors import RecipeError
from efficient_matcher.learn.recipe import SHIPPED, find_recipe, from_mapping, read_recipe, setting, to_mapping


@dataclass(frozen=True)
class Part:
    rate: float = setting(1e-3, minimum=0.0)
    steps: int = 7


@dataclass(frozen=True)
class Toy:
    ratio: float = setting(minimum=0.0, below=1.0)
    layers: dict[str, float] = setting(dict, minimum=0.0, below=1.0)
    widths: tuple[int, ...] | None = setting(None, minimum=1)
    kind: Literal["a", "b"] = "a"
    part: Part = Part(steps=9)
    other: Part | None = None
    again: bool = False

    def __post_init__(self) -> None:
        if self.again and not self.layers:
            raise ValueError("again needs layers")


def read(folder: Path, text: str) -> Toy:
    path = folder / "toy.yaml"
    path.write_text(text)
    return read_recipe(path, Toy)


def test_a_recipe_reads_back_as_written(tmp_path: Path) -> None:
    toy = read(tmp_path, "ratio: 0\nlayers: {conv1a: 0.5}\nwidths: [8, 16]\npart: {rate: 1e-4}\nother: {}\nagain: true\n")
    assert toy == Toy(0.0, {"conv1a": 0.5}, (8, 16), "a", Part(1e-4, 9), Part(), True)
    assert from_mapping(to_mapping(toy), Toy) == toy


@pytest.mark.parametrize("text, message", [
    ("ratio: 1", r"ratio must be below 1, got 1.0"),
    ("ratio: -0.1", r"ratio must be at least 0, got -0.1"),
    ("ratio: .nan", r"ratio must be a finite number, got nan"),
    ("ratio: true", r"ratio must be of type float, got True"),
    ("ratio: much", r"ratio must be of type float, got 'much'"),
    ("{}", r"key 'ratio' is missing"),
    ("ratio: 0.5\nratoi: 1", r"unknown key 'ratoi'; did you mean ratio\? \(known: ratio, layers"),
    ("ratio: 0.5\nratio: 0.6", r"line 2: duplicate key 'ratio'"),
    ("ratio: 0.5\nlayers: {a: 0.5, a: 0.6}", r"line 2: duplicate key 'a'"),
    ("ratio: 0.5\nlayers: {a: 1.5}", r"layers.a must be below 1, got 1.5"),
    ("ratio: 0.5\nlayers: {1: 0.5}", r"line 2: key 1 must be text"),
    ("ratio: 0.5\nwidths: 8", r"widths must be a list, got 8"),
    ("ratio: 0.5\nwidths: [8, 0]", r"widths\[1\] must be at least 1, got 0"),
    ("ratio: 0.5\nkind: c", r"kind must be one of a, b, got 'c'"),
    ("ratio: 0.5\npart: {rate: -1}", r"part.rate must be at least 0"),
    ("ratio: 0.5\npart: 3", r"part must be a mapping of keys, got 3"),
    ("ratio: 0.5\nagain: true", r"again needs layers"),
    ("- 1", r"a recipe must be a mapping of keys"),
    ("ratio: [", r"is not YAML"),
])
def test_every_mistake_is_one_line_with_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=f"toy.yaml: {message}") as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_what_a_recipe_leaves_out_stays_as_in_the_base(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text("part: {steps: 3}\n")
    base = Toy(0.3, part=Part(rate=5.0, steps=8))
    assert read_recipe(path, Toy, base) == Toy(0.3, part=Part(rate=5.0, steps=3))


@pytest.mark.parametrize("text", ["loop: {steps: 0}", "loop: {log_every: 0}", "loop: {clip_norm: 0.0}", "pairs: {pairs: 0}",
                                  "pairs: {width: 250}", "pairs: {photometric: {blur_px: 2}}",
                                  "pairs: {photometric: {defocus_px: -5.0}}", "loop: {learning_rate: .inf}",
                                  "pairs: {photometric: {gamma: [1.6, 0.6]}}", "pairs: {warp: {scale: [2.0, 1.0]}}",
                                  "pairs: {warp: {scale: [0.0, 1.0]}}", "pairs: {warp: {minimum_overlap: 1.5}}",
                                  "pairs: {warp: {perspective: .nan}}", "distill: {cells: .inf}", "task: -1"])
def test_settings_that_cannot_work_are_named(tmp_path: Path, text: str) -> None:
    from efficient_matcher.learn.finetune_recipes import SuperPointFinetuning
    path = tmp_path / "finetune.yaml"
    path.write_text(text)
    name = text.split("{")[-1].split(":")[0]
    with pytest.raises(RecipeError, match=f"finetune.yaml: .*{name}.* must be"):
        read_recipe(path, SuperPointFinetuning)


def test_no_number_of_any_recipe_takes_nan_or_what_is_negative(tmp_path: Path) -> None:
    from efficient_matcher.learn import finetune_recipes as recipes
    from efficient_matcher.learn.train_superglue import SuperGlueTraining
    from efficient_matcher.learn.train_superpoint import SuperPointTraining
    path, tried = tmp_path / "recipe.yaml", 0
    for kind in (SuperPointTraining, SuperGlueTraining, recipes.SuperPointFinetuning, recipes.SuperGlueFinetuning,
                 recipes.JointFinetuning):
        for lines in _numbers(kind(), []):
            for value in ("-1", ".nan", ".inf"):
                keys = "".join("  " * depth + f"{key}:\n" for depth, key in enumerate(lines))
                path.write_text(f"{keys[:-1]} {value}\n")
                with pytest.raises(RecipeError):
                    read_recipe(path, kind)
                tried += 1
    assert tried > 300


def _numbers(recipe: object, above: list[str]) -> Iterator[list[str]]:
    """The keys that lead to each number of a recipe."""
    for entry in dataclasses.fields(recipe):
        value = getattr(recipe, entry.name)
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, [*above, entry.name])
        elif type(value) in (int, float):
            yield [*above, entry.name]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="none.yaml: cannot be read: No such file"):
        read_recipe(find_recipe(tmp_path / "none.yaml"), Toy)


def test_recipes_that_ship_are_found_by_name() -> None:
    for path in SHIPPED.glob("*.yaml"):
        assert find_recipe(path.stem) == path
    with pytest.raises(RecipeError, match="nonesuch: neither a recipe file nor one that ships"):
        find_recipe("nonesuch")
