"""Recipes: YAML read strictly into a frozen dataclass, so that a misspelt key is an error and never a default.

A recipe's dataclass says with `setting` what a field may be. Types understood: bool, int, float, str, Path,
`Literal`, `tuple[T, ...]`, `tuple[T, U]`, `dict[str, T]`, `T | None` and frozen dataclasses of the same.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from efficient_matcher.errors import RecipeError, likely
from efficient_matcher.files import plain

T = TypeVar("T")
SHIPPED = Path(__file__).parents[1] / "recipes"


def setting(default: Any = MISSING, *, minimum: float | None = None, maximum: float | None = None,
            below: float | None = None, choices: tuple[Any, ...] = ()) -> Any:
    """A field with limits; those of tuples and dicts hold for each entry. `maximum` is allowed itself, `below` is not.
    A number without a minimum must not be negative, and none may be infinite or NaN.

    A dict, being mutable, is given as the default by a function that makes it: `setting(dict)`.
    """
    limits = dict(minimum=minimum, maximum=maximum, below=below, choices=choices)
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=limits)
    return dataclasses.field(default=default, metadata=limits)


def find_recipe(name: Path | str) -> Path:
    """The recipe file: a path as it is, or the name of one that ships. Raises RecipeError listing those that ship."""
    if Path(name).suffix in (".yaml", ".yml") or Path(name).is_file():
        return Path(name)
    shipped = SHIPPED / f"{name}.yaml"
    if not shipped.is_file():
        known = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.yaml")))
        raise RecipeError(f"{name}: neither a recipe file nor one that ships ({known})")
    return shipped


def read_recipe(path: Path, kind: type[T], base: T | None = None) -> T:
    """The YAML file as a `kind`; what it leaves out stays as in `base`, if that is given.

    Raises RecipeError naming file and field: unreadable, not YAML, an unknown, missing or duplicate key, a wrong type, a
    value out of range, or what `kind` itself refuses with ValueError.
    """
    try:
        return from_mapping(_tree(path), kind, base=base)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None


def recipe_kind(path: Path, kinds: Mapping[str, type[T]]) -> type[T]:
    """Of `kinds`, the one that the file's key `method` names. Raises RecipeError."""
    try:
        tree = _tree(path)
        method = tree.get("method") if isinstance(tree, Mapping) else None
        return kinds[_limited(method, {"choices": tuple(kinds)}, "method")]
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None


def from_mapping(values: Any, kind: type[T], prefix: str = "", base: T | None = None) -> T:
    """Plain values as a `kind`, checked as `read_recipe` checks; what is not given stays as in `base`, if that is.

    Raises RecipeError naming the field.
    """
    if not isinstance(values, Mapping):
        raise RecipeError(f"{prefix.rstrip('.') or 'a recipe'} must be a mapping of keys, got {values!r}")
    known = {entry.name: entry for entry in fields(kind)}
    for key in values:
        if key not in known:
            raise RecipeError(f"unknown key '{prefix}{key}'{likely(str(key), known)} (known: {', '.join(known)})")
    for name, entry in known.items():
        if base is None and name not in values and entry.default is MISSING and entry.default_factory is MISSING:
            raise RecipeError(f"key '{prefix}{name}' is missing")
    hints = get_type_hints(kind)
    checked = {key: _checked(value, hints[key], known[key], f"{prefix}{key}", getattr(base, key, None))
               for key, value in values.items()}
    try:
        return kind(**checked) if base is None else dataclasses.replace(base, **checked)
    except ValueError as error:
        raise RecipeError(f"{prefix}{error}") from None


def to_mapping(recipe: Any) -> dict[str, Any]:
    """A recipe in what YAML and JSON know; `from_mapping` reads it back unchanged."""
    return plain(dataclasses.asdict(recipe))


class _StrictLoader(yaml.SafeLoader):
    """Refuses the same key twice, which YAML forbids and the library lets pass; knows 1e-3 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the library, but a duplicate key raises RecipeError."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise RecipeError(f"line {key_node.start_mark.line + 1}: key {key!r} must be text; quote it")
            if key in seen:
                raise RecipeError(f"line {key_node.start_mark.line + 1}: duplicate key '{key}'")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _tree(path: Path) -> Any:
    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"is not YAML: {' '.join(str(error).split())}") from None
    return {} if tree is None else tree


def _checked(value: Any, kind: Any, entry: dataclasses.Field[Any], name: str, before: Any) -> Any:
    if is_dataclass(kind):  # a part of which only something is given keeps the rest of this recipe's own default
        default = before if before is not None else entry.default
        return from_mapping(value, kind, f"{name}.", default if is_dataclass(default) else None)
    return _checked_value(value, kind, entry.metadata, name)


def _checked_value(value: Any, kind: Any, limits: Mapping[str, Any], name: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _checked_value(value, next(a for a in arguments if a is not type(None)), limits, name)
    if is_dataclass(kind):
        return from_mapping(value, kind, f"{name}.")
    if origin is tuple:
        return _checked_tuple(value, arguments, limits, name)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{name} must be a mapping, got {value!r}")
        return {key: _checked_value(entry, arguments[1], limits, f"{name}.{key}") for key, entry in value.items()}
    if origin is Literal:
        return _limited(value, {"choices": arguments}, name)
    return _limited(_typed(value, kind, name), limits, name)


def _checked_tuple(value: Any, arguments: tuple[Any, ...], limits: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise RecipeError(f"{name} must be a list, got {value!r}")
    kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else list(arguments)
    if len(kinds) != len(value):
        raise RecipeError(f"{name} must have {len(kinds)} entries, got {len(value)}")
    return tuple(_checked_value(entry, kind, limits, f"{name}[{i}]")
                 for i, (entry, kind) in enumerate(zip(value, kinds)))


def _typed(value: Any, kind: type, name: str) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) is int:
        return float(value)
    if kind is float and isinstance(value, str):  # YAML 1.1 takes 1e-3 for text
        try:
            value = float(value)
        except ValueError:
            pass
    if type(value) is not kind and not (kind is Path and isinstance(value, Path)):
        raise RecipeError(f"{name} must be of type {kind.__name__}, got {value!r}")
    return value


def _limited(value: Any, limits: Mapping[str, Any], name: str) -> Any:
    choices, minimum, maximum, below = (limits.get(key) for key in ("choices", "minimum", "maximum", "below"))
    if choices and value not in choices:
        raise RecipeError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
    if type(value) is float and not math.isfinite(value):
        raise RecipeError(f"{name} must be a finite number, got {value!r}")
    if minimum is None and type(value) in (int, float):
        minimum = 0
    if minimum is not None and not value >= minimum:
        raise RecipeError(f"{name} must be at least {minimum:g}, got {value!r}")
    if maximum is not None and not value <= maximum:
        raise RecipeError(f"{name} must be at most {maximum:g}, got {value!r}")
    if below is not None and not value < below:
        raise RecipeError(f"{name} must be below {below:g}, got {value!r}")
    return value
