"""The log of a training: lines of JSON, and the same scalars for TensorBoard where it is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from efficient_matcher.errors import MatcherError

NAME = "log.jsonl"


class TrainingLog:
    """`log.jsonl` of a run and, beside it, TensorBoard's event files; both go on where a run is resumed."""

    def __init__(self, folder: Path) -> None:
        self._path = Path(folder) / NAME
        self._writer: Any = None

    def begin(self, step: int) -> None:
        """Forget what was logged after `step`, which a resumed run is about to do again. Raises MatcherError."""
        try:
            self._cut(step)
            self._writer = _event_writer(self._path.parent, step)
        except OSError as error:
            raise MatcherError(f"{self._path}: cannot be written: {error.strerror}") from None

    def write(self, step: int, seconds: float, parts: dict[str, float]) -> None:
        """One entry: what a step gave, after so many seconds of training. Raises MatcherError."""
        entry = {"step": step, "seconds": round(seconds, 1), **{k: round(v, 5) for k, v in parts.items()}}
        try:
            with self._path.open("a") as log:
                log.write(json.dumps(entry) + "\n")
            for name, value in parts.items() if self._writer is not None else ():
                self._writer.add_scalar(name, value, step)
        except OSError as error:
            raise MatcherError(f"{self._path}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Write out what TensorBoard's writer still holds."""
        if self._writer is not None:
            self._writer.close()

    def _cut(self, step: int) -> None:
        if not self._path.exists():
            return
        lines = self._path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        if len(kept) < len(lines):
            partial = self._path.with_suffix(".partial")
            partial.write_text("".join(kept))
            partial.replace(self._path)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # cut off by a crash
        return float("inf")


def _event_writer(folder: Path, step: int) -> Any:
    """A writer that hides events after `step`; None, told once, where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("no TensorBoard here (pip install tensorboard): the log is in log.jsonl alone", file=sys.stderr)
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
