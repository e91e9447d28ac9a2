"""Opening a model file on a CPU runtime, or on the one of them that is fastest here."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core.runtimes import Arrays, Backend, InputSpec, OnnxRuntime, OpenVino, Usage, all_finite
from efficient_matcher.errors import BundleError, ConfigError, MatcherError

__all__ = ["Arrays", "Backend", "Usage", "agrees", "all_finite", "available_threads", "example_inputs", "open_model"]

AUTO = "auto"
KINDS: dict[str, type[OnnxRuntime] | type[OpenVino]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}
REFERENCE = "onnxruntime"
WARM_UP_RUNS = 5
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# Of the reference's root mean square. Float32 kernels of the two differ by 1e-6, int8 kernels by 0.035; faults by more.
DEVIATION = 0.06
BYTE_ZERO = 128  # what stands for zero in an output of bytes


def open_model(path: Path, threads: int = 0, kind: str = REFERENCE, *, inputs: Sequence[str] = (),
               outputs: Sequence[str] = (), usage: Usage = Usage(),
               variants: Mapping[str, Path] | None = None) -> Backend:
    """Load a model file on the runtime `kind`; `threads` 0 takes the process's CPU affinity.

    inputs, outputs: names the model must have. usage: `auto` measures with its sizes, and without any takes
    onnxruntime. variants: files that single runtimes open in place of `path`.
    Raises BundleError when the file cannot be loaded or lacks a name, ConfigError for an unknown runtime,
    MatcherError for one that is not installed.
    """
    threads = threads or available_threads()
    paths = {name: Path((variants or {}).get(name, path)) for name in KINDS}
    if kind == AUTO:
        model = _fastest(paths, threads, usage)
    elif kind in KINDS:
        model = KINDS[kind](paths[kind], threads, usage)
    else:
        raise ConfigError(f"unknown backend '{kind}', known: {', '.join([*KINDS, AUTO])}")
    _require(model.path, "input", inputs, [spec.name for spec in model.specs])
    _require(model.path, "output", outputs, model.outputs)
    return model


def available_threads() -> int:
    """CPUs this process may run on; in a container or under taskset fewer than the machine has."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        allowed = os.cpu_count() or 1
    return max(1, min(allowed, math.ceil(_quota())))


def _quota() -> float:
    """CPUs' worth of time a container gets (docker run --cpus), by the second version of control groups; else as many
    as there may be."""
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return int(quota) / int(period)  # "max" is no number
    except (OSError, ValueError, ZeroDivisionError):
        return float(sys.maxsize)


def agrees(outputs: Arrays, reference: Arrays) -> bool:
    """Whether every output has the reference's shape and lies within DEVIATION of it, root mean square for both."""
    return outputs.keys() == reference.keys() and all(
        outputs[name].shape == wanted.shape
        and _rms(_numbers(outputs[name]) - _numbers(wanted)) <= DEVIATION * _rms(_numbers(wanted))
        for name, wanted in reference.items())


def _fastest(paths: Mapping[str, Path], threads: int, usage: Usage) -> OnnxRuntime | OpenVino:
    """The fastest runtime that is there, takes its file of `paths`, and answers as the reference does."""
    reference = KINDS[REFERENCE](paths[REFERENCE], threads, usage)
    inputs = example_inputs(reference.specs, usage.sizes)
    if inputs is None:
        return reference
    wanted = reference.run(inputs)
    candidates = [reference]
    for kind in KINDS:
        if kind != REFERENCE:
            try:
                model = KINDS[kind](paths[kind], threads, usage)
                if agrees(model.run(inputs), wanted):
                    candidates.append(model)
            except MatcherError:  # not installed, or an operator it lacks
                continue
    return candidates[int(np.argmin(_best_times(candidates, inputs)))] if len(candidates) > 1 else reference


def _best_times(models: Sequence[Backend], inputs: Arrays) -> list[float]:
    """Seconds of each one's best run; in turns, so that a busy moment hits all alike."""
    best = [np.inf] * len(models)
    for _ in range(WARM_UP_RUNS):
        for index, model in enumerate(models):
            start = perf_counter()
            model.run(inputs)
            best[index] = min(best[index], perf_counter() - start)
    return best


def example_inputs(specs: Sequence[InputSpec], free: Sequence[int]) -> Arrays | None:
    """Inputs of the kind the networks get: images of grey blocks, else rows of length 1; None without sizes.

    free: sizes of the free sides, in order, over and over.
    """
    rng = np.random.default_rng(0)
    arrays: Arrays = {}
    for spec in specs:
        shape = spec.filled(free)
        if shape is None:
            return None
        if spec.dtype == np.uint8:
            arrays[spec.name] = _blocks(rng, shape)
        else:
            values = np.atleast_1d(rng.standard_normal(shape))
            values /= np.linalg.norm(values, axis=-1, keepdims=True)
            arrays[spec.name] = values.reshape(shape).astype(spec.dtype)
    return arrays


def _blocks(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    height, width = shape[-2:]
    blocks = rng.integers(0, 256, (-(-height // 16), -(-width // 16)), np.uint8)
    return np.broadcast_to(np.kron(blocks, np.ones((16, 16), np.uint8))[:height, :width], shape).copy()


def _numbers(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float32) - BYTE_ZERO if values.dtype == np.uint8 else values


def _rms(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _require(path: Path, what: str, wanted: Sequence[str], found: Collection[str]) -> None:
    for name in wanted:
        if name not in found:
            raise BundleError(f"{path}: has no {what} '{name}' (has {', '.join(found)})")
