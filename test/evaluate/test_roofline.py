"""Operations and bytes against graphs small enough to count by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from efficient_matcher.errors import BundleError
from efficient_matcher.evaluate import machine
from efficient_matcher.evaluate.roofline import Cost, Machine, by_kind, network_costs, total

onnx = pytest.importorskip("onnx")


def save(path: Path, nodes: Sequence, inputs: dict, outputs: Sequence[str], constants: dict[str, np.ndarray]) -> Path:
    from onnx import TensorProto, helper, numpy_helper
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def ones(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def test_convolution_and_what_is_fused_into_it(tmp_path: Path) -> None:
    from onnx import helper
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2]),
             helper.make_node("Relu", ["y"], ["z"]),
             helper.make_node("MaxPool", ["z"], ["p"], kernel_shape=[2, 2], strides=[2, 2])]
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 3, "H", "W"]}, ["p"], {"w": ones(5, 3, 3, 3), "b": ones(5)})
    conv, relu, pool = network_costs(path, (8, 16))
    assert conv.operations == 2 * (5 * 4 * 8) * (3 * 3 * 3)
    assert conv.bytes == 4 * (3 * 8 * 16 + 5 * 27 + 5 + 5 * 4 * 8)
    assert (relu.operations, relu.bytes) == (5 * 4 * 8, 0)
    assert pool.operations == (5 * 2 * 4) * 4 and pool.bytes == 4 * (5 * 4 * 8 + 5 * 2 * 4)
    assert not conv.int8


def test_groups_share_their_channels(tmp_path: Path) -> None:
    from onnx import helper
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], group=4)]
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 4, "H", "W"]}, ["y"], {"w": ones(4, 1, 3, 3)})
    assert network_costs(path, (4, 4))[0].operations == 2 * (4 * 2 * 2) * 9


def test_matrix_products(tmp_path: Path) -> None:
    from onnx import helper
    nodes = [helper.make_node("Gemm", ["a", "b"], ["c"], transB=1), helper.make_node("MatMul", ["c", "d"], ["e"]),
             helper.make_node("Gemm", ["c", "e"], ["f"], transA=1), helper.make_node("Softmax", ["f"], ["g"])]
    path = save(tmp_path / "m.onnx", nodes, {"a": ["N", 6]}, ["g"], {"b": ones(7, 6), "d": ones(7, 2)})
    first, second, third, softmax = network_costs(path, (10,))
    assert (first.operations, second.operations, third.operations) == (2 * 10 * 6 * 7, 2 * 10 * 7 * 2, 2 * 7 * 10 * 2)
    assert second.bytes == 4 * (70 + 14 + 20)
    assert (softmax.kind, softmax.operations) == ("Softmax", 5 * 14)


def test_int8_weights_and_activations_count_a_byte(tmp_path: Path) -> None:
    from onnx import helper
    scale, zero = np.float32(0.1), np.int8(0)
    nodes = [helper.make_node("QuantizeLinear", ["a", "s", "z"], ["q"]),
             helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
             helper.make_node("DequantizeLinear", ["b", "s", "z"], ["w"]),
             helper.make_node("MatMul", ["d", "w"], ["c"])]
    path = save(tmp_path / "m.onnx", nodes, {"a": ["N", 6]}, ["c"],
                {"b": ones(6, 7, dtype=np.int8), "s": np.array(scale), "z": np.array(zero)})
    product = network_costs(path, (10,))[-1]
    assert product.int8 and product.operations == 2 * 10 * 6 * 7
    assert product.bytes == 60 + 42 + 4 * 70


def test_sums_and_the_time_they_need_at_least() -> None:
    costs = [Cost("a", "Conv", 4_000_000, 1_000), Cost("b", "Conv", 0, 2_000_000),
             Cost("c", "Gemm", 8_000_000, 0, True)]
    peak = Machine(float_gops=2.0, int8_gops=8.0, memory_gbs=1.0)
    assert [cost.least_ms(peak) for cost in costs] == pytest.approx([2.0, 2.0, 1.0])
    assert total("all", costs) == Cost("all", "", 12_000_000, 2_001_000, True)
    assert list(by_kind(costs)) == ["Gemm", "Conv"] and by_kind(costs)["Conv"].bytes == 2_001_000


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(BundleError, match="broken.onnx: cannot be analysed: "):
        network_costs(tmp_path / "broken.onnx", (8,))


def test_sizes_that_are_missing(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="extractor.onnx: cannot be analysed: the sizes of its inputs are missing"):
        network_costs(tiny_bundle / "extractor.onnx", ())


def test_a_profile_has_the_kinds_of_the_graph(tiny_bundle: Path) -> None:
    found = machine.profile(tiny_bundle / "matcher.onnx", (16,), 1, runs=2)
    assert 0 < found["best_ms"] <= found["median_ms"]
    assert any("MatMul" in kind for kind in found["by_kind"])


def test_kinds_are_medians_over_runs_summed_over_nodes() -> None:
    def event(name: str, kind: str, dur: int) -> dict:
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": dur, "args": {"op_name": kind}}

    events = [event("a", "Conv", 1000), event("a", "Conv", 3000), event("a", "Conv", 90000), event("b", "Conv", 2000),
              event("b", "Conv", 2000), event("b", "Conv", 2000), *[event("c", "Gemm", 9000)] * 3,
              {"cat": "Session", "name": "model_run", "dur": 5}]
    assert machine._by_kind(events, 3) == {"Gemm": 9.0, "Conv": 5.0}


def test_peaks_are_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SIDE", 64)
    monkeypatch.setattr(machine, "BUFFER_BYTES", 1 << 16)
    monkeypatch.setattr(machine, "RUNS", 2)
    found = machine.measure_machine(1)
    assert min(found.float_gops, found.int8_gops, found.memory_gbs) > 0
