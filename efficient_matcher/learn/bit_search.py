"""Which calibration, and which layers stay wider: measured, by what comes out at the end.

All layers together decide the calibration. If that is too much, each layer is measured by itself, and those that cost
most stay wider, one after the other, until the rest is within the limits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from efficient_matcher.files import write_json


D = TypeVar("D")  # a dataclass of numbers: what fewer bits do to the answers


@dataclass(frozen=True)
class Choice(Generic[D]):
    """layers: those in fewer bits. cost: theirs. methods: cost of all layers, by calibration. alone: of each layer by
    itself; empty if that had not to be measured."""

    method: str
    layers: tuple[str, ...]
    cost: D
    methods: dict[str, D]
    alone: dict[str, D]


def choose(layers: Sequence[str], methods: Sequence[str], cost: Callable[[str, Sequence[str]], D],
           excess: Callable[[D], float]) -> Choice[D]:
    """The calibration and the layers. cost: measures those layers under that calibration. excess: a cost's largest
    number, as a multiple of what is allowed."""
    by_method = {method: cost(method, layers) for method in methods}
    method = min(by_method, key=lambda name: excess(by_method[name]))
    alone: dict[str, D] = {}
    chosen, total = list(layers), by_method[method]
    if excess(total) > 1:
        alone = {layer: cost(method, [layer]) for layer in layers}
    while chosen and excess(total) > 1:
        chosen.remove(max(chosen, key=lambda layer: excess(alone[layer])))
        total = cost(method, chosen)
    return Choice(method, tuple(chosen), total, by_method, alone)


class Measured:
    """Numbers by what was measured, kept in a file that belongs to one `subject`; a damaged file is begun anew."""

    def __init__(self, path: Path | None, subject: Any) -> None:
        self._path, self._subject = path, digest(json.dumps(subject).encode())
        self._known: dict[str, Any] = {}
        if path is not None and path.is_file():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                self._known = content["measured"] if content["subject"] == self._subject else {}
            except (ValueError, KeyError, TypeError, OSError):
                pass

    def __call__(self, what: str, measure: Callable[[], Any]) -> dict[str, Any]:
        """Fields of the dataclass that `measure` gives, or those found under `what` in the file."""
        if what not in self._known:
            self._known[what] = asdict(measure())
            if self._path is not None:
                write_json(self._path, {"subject": self._subject, "measured": self._known})
        return self._known[what]


def largest_share(cost: Any, limits: Any) -> float:
    """The largest number of a dataclass, as a multiple of the field of the same place in `limits`."""
    pairs = zip(asdict(cost).values(), asdict(limits).values())
    return max((value / limit if limit else float("inf") if value else 0.0) for value, limit in pairs)


def digest(content: bytes) -> str:
    """SHA-256."""
    return hashlib.sha256(content).hexdigest()
