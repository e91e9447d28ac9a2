"""Opening a model file on a CPU runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.errors import BundleError, ConfigError, MatcherError

Arrays = dict[str, NDArray[Any]]


class Backend(Protocol):
    """A loaded network: named arrays in, named arrays out."""

    name: str  # of the runtime

    def run(self, inputs: Arrays) -> Arrays:
        """All outputs for `inputs`, by name. Raises MatcherError when the runtime fails or a value is not finite."""


class OnnxRuntime:
    """A model in onnxruntime's CPU provider; may be run from several threads."""

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MatcherError(f"onnxruntime cannot be imported: {_line(error)}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Idle threads of onnxruntime spin by default: on a robot that is a core taken from everything else.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors only; warnings about unused initialisers help nobody at run time
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - its exception classes share no base but Exception
            raise BundleError(f"{path}: cannot be loaded: {_line(error)}") from None
        self._path = path
        self.inputs = tuple(entry.name for entry in self._session.get_inputs())
        self.outputs = tuple(entry.name for entry in self._session.get_outputs())

    def run(self, inputs: Arrays) -> Arrays:
        """All outputs for `inputs`, by name. Raises MatcherError when the runtime fails or a value is not finite."""
        try:
            values = self._session.run(None, inputs)
        except Exception as error:  # noqa: BLE001 - as above
            raise MatcherError(f"{self._path}: failed: {_line(error)}") from None
        outputs = dict(zip(self.outputs, values))
        for name, value in outputs.items():
            if not all_finite(value):
                raise MatcherError(f"{self._path}: output '{name}' is not finite; the model is damaged or overflows")
        return outputs


_KINDS: dict[str, Callable[[Path, int], OnnxRuntime]] = {"onnxruntime": OnnxRuntime}


def open_model(path: Path, threads: int = 0, kind: str = "onnxruntime", *, inputs: Sequence[str] = (),
               outputs: Sequence[str] = ()) -> Backend:
    """Load a model file on the runtime `kind`; `threads` 0 takes the process's CPU affinity.

    `inputs` and `outputs`: names the model must have. Raises BundleError when the file cannot be loaded or lacks a
    name, ConfigError for an unknown runtime.
    """
    if kind not in _KINDS:
        raise ConfigError(f"unknown backend '{kind}', known: {', '.join(_KINDS)}")
    model = _KINDS[kind](Path(path), threads or available_threads())
    _require(path, "input", inputs, model.inputs)
    _require(path, "output", outputs, model.outputs)
    return model


def available_threads() -> int:
    """CPUs this process may run on; in a container or under taskset fewer than the machine has."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def all_finite(values: NDArray[Any]) -> bool:
    """Whether an array of any shape and type holds neither NaN nor infinity."""
    if values.dtype.kind != "f":
        return True
    # A sum is one fast pass; only when it overflows is each value looked at.
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum()
    return bool(np.isfinite(total) or np.isfinite(values).all())


def _require(path: Path, what: str, wanted: Sequence[str], found: Collection[str]) -> None:
    for name in wanted:
        if name not in found:
            raise BundleError(f"{path}: has no {what} '{name}' (has {', '.join(found)})")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
