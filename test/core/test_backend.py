"""Opening and running models; each failure names the file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from efficient_matcher.core import backend
from efficient_matcher.core.backend import all_finite, available_threads, open_model
from efficient_matcher.errors import BundleError, ConfigError, MatcherError


def save_model(path: Path, kind: str) -> Path:
    """One node: y = kind(x), x [N] float32."""
    from onnx import TensorProto, helper, save
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"])], "one", values[:1], values[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_outputs_by_name(tmp_path: Path) -> None:
    model = open_model(save_model(tmp_path / "m.onnx", "Neg"), inputs=["x"], outputs=["y"])
    assert model.name == "onnxruntime"
    for count in (1, 5):
        outputs = model.run({"x": np.arange(count, dtype=np.float32)})
        assert list(outputs) == ["y"]
        np.testing.assert_array_equal(outputs["y"], -np.arange(count))


def test_the_tiny_extractor_by_hand(tiny_bundle: Path) -> None:
    model = open_model(tiny_bundle / "extractor.onnx", threads=1)
    image = np.zeros((48, 64), np.uint8)
    image[20, 30] = 255
    outputs = model.run({"image": image[None, None]})
    assert outputs["scores"].shape == (1, 48, 64)
    assert outputs["descriptors"].shape == (1, 6, 8, 49)
    assert np.unravel_index(outputs["scores"][0].argmax(), (48, 64)) == (20, 30)
    flat = model.run({"image": np.full((1, 1, 48, 64), 90, np.uint8)})
    assert flat["scores"].max() < 1e-6


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08\x12"])
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="broken.onnx: ") as caught:
        open_model(path)
    assert "\n" not in str(caught.value)


def test_a_file_cut_short(tiny_bundle: Path, tmp_path: Path) -> None:
    content = (tiny_bundle / "extractor.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[:len(content) // 2])
    with pytest.raises(BundleError, match="cut.onnx: cannot be loaded"):
        open_model(tmp_path / "cut.onnx")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="none.onnx: cannot be loaded"):
        open_model(tmp_path / "none.onnx")


def test_a_model_of_other_names(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", "Neg")
    with pytest.raises(BundleError, match=r"m.onnx: has no output 'scores' \(has y\)"):
        open_model(path, outputs=["scores"])
    with pytest.raises(BundleError, match="has no input 'image'"):
        open_model(path, inputs=["image"])


def test_an_unknown_runtime(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown backend 'abacus', known: onnxruntime, openvino, auto"):
        open_model(save_model(tmp_path / "m.onnx", "Neg"), kind="abacus")


@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_numbers_that_are_not_finite_are_an_error(tmp_path: Path, value: float) -> None:
    model = open_model(save_model(tmp_path / "log.onnx", "Log"))
    with pytest.raises(MatcherError, match="log.onnx: output 'y' is not finite"):
        model.run({"x": np.array([1, value], np.float32)})


def test_a_run_that_fails_is_one_line(tmp_path: Path) -> None:
    model = open_model(save_model(tmp_path / "m.onnx", "Neg"))
    for inputs in ({"x": np.zeros((2, 2), np.float32)}, {"x": np.zeros(2, np.float64)}, {}):
        with pytest.raises(MatcherError, match="m.onnx: failed: ") as caught:
            model.run(inputs)
        assert "\n" not in str(caught.value)


def test_finite_even_if_the_sum_is_not() -> None:
    assert all_finite(np.full((3, 3), 3e38, np.float32))
    assert all_finite(np.zeros(0, np.float32))
    assert all_finite(np.array([1, 2]))
    assert not all_finite(np.array([1, np.nan], np.float32))
    assert not all_finite(np.array([np.inf, -np.inf], np.float32))


def test_threads_follow_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 7}, raising=False)
    monkeypatch.setattr(backend, "CPU_QUOTA", Path("/nowhere"))
    assert available_threads() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_threads() == (os.cpu_count() or 1)


@pytest.mark.parametrize("text, threads", [("max 100000", 3), ("150000 100000", 2), ("50000 100000", 1), ("nonsense", 3)])
def test_threads_are_no_more_than_a_container_s_share(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 7}, raising=False)
    monkeypatch.setattr(backend, "CPU_QUOTA", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert available_threads() == threads
