"""CPU runtimes behind one interface: a model file in, named arrays through it."""

from __future__ import annotations

import functools
import itertools
import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core.compressed import model_content
from efficient_matcher.errors import BundleError, MatcherError

Arrays = dict[str, NDArray[Any]]
_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int32)": np.int32,
          "tensor(int64)": np.int64, "tensor(float16)": np.float16, "tensor(bool)": np.bool_}
_AS_REQUESTED = 1  # extend by what is asked for; the other strategy doubles, and half of the arena is never used
_KERNELS_KEPT = 64  # of OpenVINO; more than the shapes of one pass through a network


class Backend(Protocol):
    """A loaded network: named arrays in, named arrays out."""

    name: str  # of the runtime
    path: Path  # of the model
    specs: tuple[InputSpec, ...]  # its inputs

    def run(self, inputs: Arrays) -> Arrays:
        """All outputs for `inputs`, by name. Raises MatcherError when the runtime fails or a value is not finite."""


@dataclass(frozen=True)
class InputSpec:
    """An input of a model: its name, its shape with None for each side that is free, and its type."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def filled(self, free: Sequence[int]) -> tuple[int, ...] | None:
        """The shape with its free sides taken from `free` in order, over and over; None when `free` is empty."""
        if not free and None in self.shape:
            return None
        sizes = itertools.cycle(free)
        return tuple(next(sizes) if side is None else side for side in self.shape)


@dataclass(frozen=True)
class Usage:
    """How a model will be run.

    sizes: of the free sides of its inputs, in their order, over and over. usual: how many runs have these. coarse:
    what the model computes in float lies between roundings to 8 bits, so that 8 digits of it are enough.
    """

    sizes: tuple[int, ...] = ()
    usual: Literal["all", "most", "few"] = "few"
    coarse: bool = False


class OnnxRuntime:
    """A model in onnxruntime's CPU provider; may be run from several threads. `specs` are its inputs."""

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int, usage: Usage = Usage()) -> None:
        ort, content = _import_onnxruntime(), model_content(path)
        try:
            self._session = ort.InferenceSession(content, _session_options(threads),
                                                 providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - its exception classes share no base but Exception
            raise BundleError(f"{path}: cannot be loaded: {one_line(error)}") from None
        self.path = path
        self.specs = tuple(input_spec(entry) for entry in self._session.get_inputs())
        self.outputs = tuple(entry.name for entry in self._session.get_outputs())

    def run(self, inputs: Arrays) -> Arrays:
        """All outputs for `inputs`, by name. Raises MatcherError when the runtime fails or a value is not finite."""
        try:
            values = self._session.run(None, inputs)
        except Exception as error:  # noqa: BLE001 - as above
            raise MatcherError(f"{self.path}: failed: {one_line(error)}") from None
        return _checked(self.path, dict(zip(self.outputs, values)))


class OpenVino:
    """A model in OpenVINO's CPU plugin; may be run from several threads. `specs` are its inputs.

    Compiled for the usual sizes, which makes small networks a third faster, and for any: at once, or where all runs are
    to have the usual ones, only when another comes (which takes seconds, once).
    """

    name = "openvino"

    def __init__(self, path: Path, threads: int, usage: Usage = Usage()) -> None:
        _openvino_core()  # what is missing is told before the file is looked at
        self.path = path
        self._options = _openvino_options(threads, usage.coarse)
        self._lock = threading.Lock()
        model = self._read()
        self.specs = tuple(_openvino_spec(entry) for entry in model.inputs)
        self.outputs = tuple(_openvino_output(entry) for entry in model.outputs)
        self._shapes = {spec.name: spec.filled(usage.sizes) for spec in self.specs}
        exact = bool(usage.sizes) and usage.usual != "few"
        self._any = self._compiled(model, {}) if not exact or usage.usual == "most" else None
        self._exact = self._compiled(model, self._shapes) if exact else None

    def run(self, inputs: Arrays) -> Arrays:
        """All outputs for `inputs`, by name. Raises MatcherError when the runtime fails or a value is not finite."""
        self._check(inputs)
        try:
            values = self._suited(inputs).infer(inputs)
        except BundleError:
            raise
        except Exception as error:  # noqa: BLE001 - the plugin throws bare RuntimeErrors
            raise MatcherError(f"{self.path}: failed: {_without_places(error)}") from None
        return _checked(self.path, dict(zip(self.outputs, values)))

    def _check(self, inputs: Arrays) -> None:
        # OpenVINO would run on without an input, on what memory it finds, and cast a wrong type silently.
        for spec in self.specs:
            if spec.name not in inputs:
                raise MatcherError(f"{self.path}: failed: input '{spec.name}' is missing")
            found = inputs[spec.name].dtype
            if found != spec.dtype:
                raise MatcherError(f"{self.path}: failed: input '{spec.name}' is {found}, must be {spec.dtype}")

    def _suited(self, inputs: Arrays) -> _Requests:
        if self._exact and all(inputs[name].shape == shape for name, shape in self._shapes.items()):
            return self._exact
        with self._lock:
            if self._any is None:
                self._any = self._compiled(self._read(), {})
        return self._any

    def _read(self) -> Any:
        if not self.path.is_file():
            raise BundleError(f"{self.path}: cannot be loaded: no such file")
        content = model_content(self.path)
        try:
            return _openvino_core().read_model(content)
        except Exception as error:  # noqa: BLE001 - as above
            raise BundleError(f"{self.path}: cannot be loaded: {_without_places(error)}") from None

    def _compiled(self, model: Any, shapes: Mapping[str, tuple[int, ...]]) -> _Requests:
        try:
            if shapes:
                model.reshape(dict(shapes))
            return _Requests(_openvino_core().compile_model(model, "CPU", self._options))
        except Exception as error:  # noqa: BLE001 - as above
            raise BundleError(f"{self.path}: cannot be loaded: {_without_places(error)}") from None


class _Requests:
    """A compiled model and its idle inference requests: as many as ever ran at the same time."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: list[Any] = [compiled.create_infer_request()]
        self._outputs = range(len(compiled.outputs))

    def infer(self, inputs: Arrays) -> list[NDArray[Any]]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            # Inputs are read where they are. Outputs are copied: the next run writes into the request's own memory.
            values = request.infer(inputs, share_inputs=True, share_outputs=False)
            return [values[index] for index in self._outputs]
        finally:
            self._idle.append(request)


def _openvino_output(entry: Any) -> str:
    """An output's name in the file: where that only repeats a constant, OpenVINO may know the constant's name as well."""
    name = entry.node.friendly_name.split("/sink_port")[0]
    return name if name in entry.names else entry.any_name


def _checked(path: Path, outputs: Arrays) -> Arrays:
    """`outputs` of the model `path` as they are. Raises MatcherError when a value is not finite."""
    for name, value in outputs.items():
        if not all_finite(value):
            raise MatcherError(f"{path}: output '{name}' is not finite; the model is damaged or overflows")
    return outputs


def all_finite(values: NDArray[Any]) -> bool:
    """Whether an array of any shape and type holds neither NaN nor infinity."""
    if values.dtype.kind != "f":
        return True
    # A product with itself is the fastest pass there is; only when it overflows is each value looked at.
    with np.errstate(over="ignore", invalid="ignore"):
        flat = values.ravel()
        total = np.dot(flat, flat)
    return bool(np.isfinite(total) or np.isfinite(values).all())


def one_line(error: Exception) -> str:
    """What an error says, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MatcherError(f"onnxruntime cannot be imported: {one_line(error)}") from None
    _share_memory()
    return onnxruntime


@functools.cache
def _share_memory() -> None:
    """One arena for all networks of the process: they run one after the other, so the largest sets the size."""
    import onnxruntime
    try:
        memory = onnxruntime.OrtMemoryInfo("Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0,
                                           onnxruntime.OrtMemType.DEFAULT)
        arena = onnxruntime.OrtArenaCfg({"arena_extend_strategy": _AS_REQUESTED})
        onnxruntime.create_and_register_allocator(memory, arena)
    except Exception:  # noqa: BLE001 - one is registered by the program we are part of, and serves as well
        pass


def _session_options(threads: int) -> Any:
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads of onnxruntime spin by default: on a robot that is a core taken from everything else.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.use_env_allocators", "1")
    # A memory plan is kept for every shape seen, and takes more at once than the arena does.
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # errors only; warnings about unused initialisers help nobody at run time
    return options


def input_spec(entry: Any) -> InputSpec:
    """Of what an onnxruntime session says of one of its inputs."""
    kind = _TYPES.get(entry.type, np.float32)
    shape = tuple(side if isinstance(side, int) else None for side in entry.shape)
    return InputSpec(entry.name, shape, np.dtype(kind))


@functools.cache
def _openvino_core() -> Any:
    try:
        import openvino
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "openvino"
        reason = ("is not installed: pip install 'efficient_matcher[openvino]', or choose model.backend onnxruntime"
                  if missing else f"cannot be imported: {one_line(error)}")
        raise MatcherError(f"openvino {reason}") from None
    # oneDNN below it keeps the last 1024 kernels, made anew for each number of keypoints: half a gigabyte after some
    # hundred frames. It reads this once, at the first model.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS_KEPT))
    return openvino.Core()


def _openvino_options(threads: int, coarse: bool) -> dict[str, Any]:
    # Left to itself it takes bfloat16 wherever the CPU has it, and a float bundle would find other matches there.
    precision = {} if coarse else {"INFERENCE_PRECISION_HINT": "f32"}
    return {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, **precision,
        "ENABLE_CPU_PINNING": False,  # a pinned thread waits behind whatever else runs on its core
        "CPU_RUNTIME_CACHE_CAPACITY": _KERNELS_KEPT}


def _openvino_spec(entry: Any) -> InputSpec:
    sides = tuple(int(side.get_length()) if side.is_static else None for side in entry.get_partial_shape())
    return InputSpec(entry.any_name, sides, np.dtype(entry.get_element_type().to_dtype()))


def _without_places(error: Exception) -> str:
    """What OpenVINO says in one line, without the places in its source it went through."""
    return one_line(Exception(re.sub(r"Exception from \S+:\s*", "", str(error))))
