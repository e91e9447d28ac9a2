"""What this machine could do, and what a network makes of it: measured peaks, and times by kind of operator."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from efficient_matcher.core.backend import example_inputs
from efficient_matcher.core.compressed import model_content
from efficient_matcher.core.runtimes import input_spec
from efficient_matcher.evaluate.roofline import Machine

SIDE = 1024  # of the matrices; three of them fit into the last cache
BUFFER_BYTES = 64 << 20  # does not fit
RUNS = 12


def measure_machine(threads: int) -> Machine:
    """Peaks with so many threads: the best of several runs. Matrix products are onnxruntime's, as in the networks."""
    operations = 2 * SIDE ** 3
    return Machine(operations / _product_s(False, threads) / 1e9, operations / _product_s(True, threads) / 1e9,
                   _copy_bytes_per_s(threads) / 1e9)


def profile(path: Path, free: Sequence[int], threads: int, runs: int = RUNS) -> dict[str, Any]:
    """Times of a model in onnxruntime, in ms: `best_ms`, `median_ms`, and `by_kind`, the median per kind of operator.

    Kinds are those of the optimised graph, where operators are fused. free: as for `roofline.network_costs`.
    """
    import onnxruntime
    with tempfile.TemporaryDirectory(prefix="efficient-matcher-roofline-") as folder:
        plain, profiled = (_session(onnxruntime, path, threads, prefix) for prefix in (None, f"{folder}/profile"))
        inputs = example_inputs([input_spec(entry) for entry in plain.get_inputs()], free)
        times = _times(lambda: plain.run(None, inputs), runs)
        for _ in range(runs + 1):
            profiled.run(None, inputs)
        events = json.loads(Path(profiled.end_profiling()).read_text())
    return {"best_ms": 1e3 * min(times), "median_ms": 1e3 * float(np.median(times)),
            "by_kind": _by_kind(events, runs + 1)}


def _by_kind(events: Sequence[Mapping[str, Any]], runs: int) -> dict[str, float]:
    """Milliseconds a run by kind of operator, the most first: of each node the median over the runs."""
    nodes: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"] / 1e3)
    kinds: dict[str, float] = {}
    for (kind, _), spent in nodes.items():
        kinds[kind] = kinds.get(kind, 0.0) + float(np.median(spent)) * len(spent) / runs
    return dict(sorted(kinds.items(), key=lambda entry: -entry[1]))


def _session(ort: Any, path: Path, threads: int, profile_prefix: str | None) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    return ort.InferenceSession(model_content(path), options, providers=["CPUExecutionProvider"])


def _times(run: Callable[[], Any], count: int) -> list[float]:
    run()
    times = []
    for _ in range(count):
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return times


def _product_s(int8: bool, threads: int) -> float:
    """Seconds of one product of two square matrices of SIDE."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
    left, kind, dtypes, result = ((TensorProto.UINT8, "MatMulInteger", (np.uint8, np.int8), TensorProto.INT32) if int8
                                  else (TensorProto.FLOAT, "MatMul", (np.float32, np.float32), TensorProto.FLOAT))
    a, b = (np.ones((SIDE, SIDE), dtype) for dtype in dtypes)
    graph = helper.make_graph([helper.make_node(kind, ["a", "b"], ["c"])], "product",
                              [helper.make_tensor_value_info("a", left, [SIDE, SIDE])],
                              [helper.make_tensor_value_info("c", result, [SIDE, SIDE])],
                              [numpy_helper.from_array(b, "b")])  # a constant, as weights are
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return min(_times(lambda: session.run(None, {"a": a}), RUNS))


def _copy_bytes_per_s(threads: int) -> float:
    """Bytes read and written a second by copies between buffers that no cache holds."""
    pairs = [(np.zeros(BUFFER_BYTES, np.uint8), np.ones(BUFFER_BYTES, np.uint8)) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        best = min(_times(lambda: list(pool.map(lambda pair: np.copyto(*pair), pairs)), RUNS))
    return 2 * threads * BUFFER_BYTES / best
