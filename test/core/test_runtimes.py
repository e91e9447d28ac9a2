"""Every runtime gives the same answers and the same errors; `auto` keeps one that agrees. OpenVINO where installed."""

from __future__ import annotations

import builtins
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from efficient_matcher import Matcher
from efficient_matcher.config import Config
from efficient_matcher.core import backend, runtimes
from efficient_matcher.core.backend import Usage, agrees, open_model
from efficient_matcher.core.runtimes import Arrays, InputSpec, OnnxRuntime, OpenVino
from efficient_matcher.errors import BundleError, MatcherError

SIDE = 32


@pytest.fixture(params=["onnxruntime", "openvino"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return request.param


@pytest.fixture()
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = builtins.__import__

    def imported(name: str, *args: object, **kwargs: object) -> object:
        if name.split(".")[0] == "openvino":
            raise ModuleNotFoundError("No module named 'openvino'", name="openvino")
        return real(name, *args, **kwargs)

    runtimes._openvino_core.cache_clear()
    monkeypatch.setattr(builtins, "__import__", imported)
    yield
    runtimes._openvino_core.cache_clear()


def save_conv(path: Path) -> Path:
    """y = relu(conv(x / 255)), x [1,1,H,W] uint8, y [1,4,H,W], a fixed random 3x3 kernel."""
    from onnx import TensorProto, helper, numpy_helper, save
    kernel = np.random.default_rng(0).standard_normal((4, 1, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("Div", ["f", "c"], ["g"]),
             helper.make_node("Conv", ["g", "k"], ["h"], pads=[1, 1, 1, 1]),
             helper.make_node("Relu", ["h"], ["y"])]
    constants = [numpy_helper.from_array(kernel, "k"), numpy_helper.from_array(np.float32(255), "c")]
    graph = helper.make_graph(
        nodes, "conv", [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 1, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, "H", "W"])], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def picture(side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (1, 1, side, side), np.uint8)


def save_int8(folder: Path) -> Path:
    """The convolution of `save_conv` with int8 weights and activations between QuantizeLinear and DequantizeLinear."""
    quantization = pytest.importorskip("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._left = [{"x": picture()}]

        def get_next(self) -> dict | None:
            return self._left.pop() if self._left else None

    source, target = save_conv(folder / "conv.onnx"), folder / "int8.onnx"
    quantization.quantize_static(str(source), str(target), Reader(), quant_format=quantization.QuantFormat.QDQ,
                                 per_channel=True)
    return target


def test_every_runtime_computes_the_same(tmp_path: Path, kind: str) -> None:
    path = save_conv(tmp_path / "m.onnx")
    wanted = open_model(path, 1).run({"x": picture()})["y"]
    model = open_model(path, 1, kind, inputs=["x"], outputs=["y"])
    assert model.name == kind
    np.testing.assert_allclose(model.run({"x": picture()})["y"], wanted, rtol=1e-5, atol=1e-5)


def test_int8_runs_and_stays_near_float(tmp_path: Path, kind: str) -> None:
    path = save_int8(tmp_path)
    wanted = open_model(tmp_path / "conv.onnx", 1).run({"x": picture()})
    assert agrees(open_model(path, 1, kind).run({"x": picture()}), wanted)


@pytest.mark.parametrize("usual", ["all", "most", "few"])
def test_a_model_made_for_one_size_takes_others_too(tmp_path: Path, kind: str, usual: str) -> None:
    path = save_conv(tmp_path / "m.onnx")
    model = open_model(path, 1, kind, usage=Usage((SIDE, SIDE), usual))
    for side in (SIDE, 16, SIDE, 48):
        wanted = open_model(path, 1).run({"x": picture(side)})["y"]
        np.testing.assert_allclose(model.run({"x": picture(side)})["y"], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("usual, at_once, later", [("all", 1, 1), ("most", 2, 0), ("few", 1, 0)])
def test_openvino_is_compiled_for_the_sizes_to_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usual: str,
                                                    at_once: int, later: int) -> None:
    pytest.importorskip("openvino")
    compiled = []
    compile_model = OpenVino._compiled
    monkeypatch.setattr(OpenVino, "_compiled", lambda *args: compiled.append(args) or compile_model(*args))
    model = open_model(save_conv(tmp_path / "m.onnx"), 1, "openvino", usage=Usage((SIDE, SIDE), usual))
    assert len(compiled) == at_once
    for side in (SIDE, 16, SIDE, 48):
        model.run({"x": picture(side)})
    assert len(compiled) == at_once + later


def test_openvino_computes_floats_as_floats_unless_told(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = save_conv(tmp_path / "m.onnx")
    of = {coarse: OpenVino(path, 1, Usage(coarse=coarse))._any._compiled.get_property("INFERENCE_PRECISION_HINT")
          for coarse in (False, True)}
    fastest = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT")
    assert of[False] == openvino.Type.f32 and of[True] == fastest  # bfloat16 where the CPU has it


def test_results_outlive_the_next_run(tmp_path: Path, kind: str) -> None:
    model = open_model(save_conv(tmp_path / "m.onnx"), 1, kind)
    first = model.run({"x": picture()})["y"]
    kept = first.copy()
    model.run({"x": 255 - picture()})
    np.testing.assert_array_equal(first, kept)


def test_one_model_serves_several_threads(tmp_path: Path, kind: str) -> None:
    from concurrent.futures import ThreadPoolExecutor
    model = open_model(save_conv(tmp_path / "m.onnx"), 1, kind)
    images = [picture() // (1 + index) for index in range(16)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: model.run({"x": image})["y"], images))
    for image, output in zip(images, found):
        np.testing.assert_array_equal(output, model.run({"x": image})["y"])


@pytest.mark.parametrize("inputs", [{}, {"x": np.zeros((1, 1, 8, 8), np.float32)}, {"x": np.zeros((8, 8), np.uint8)}])
def test_wrong_inputs_are_one_line(tmp_path: Path, kind: str, inputs: Arrays) -> None:
    model = open_model(save_conv(tmp_path / "m.onnx"), 1, kind)
    with pytest.raises(MatcherError, match="m.onnx: failed: ") as caught:
        model.run(inputs)
    assert "\n" not in str(caught.value) and "Exception from" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path, kind: str) -> None:
    with pytest.raises(BundleError, match="none.onnx: cannot be loaded"):
        open_model(tmp_path / "none.onnx", 1, kind)


def test_a_file_cut_short(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(save_conv(tmp_path / "m.onnx").read_bytes()[:100])
    with pytest.raises(BundleError, match="cut.onnx: cannot be loaded") as caught:
        open_model(path, 1, kind)
    assert "\n" not in str(caught.value)


def test_not_finite_is_an_error(tmp_path: Path, kind: str) -> None:
    from onnx import TensorProto, helper, save
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Log", ["x"], ["y"])], "log", values[:1], values[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(tmp_path / "l.onnx"))
    with pytest.raises(MatcherError, match="output 'y' is not finite"):
        open_model(tmp_path / "l.onnx", 1, kind).run({"x": np.array([-1], np.float32)})


def test_openvino_asked_for_and_absent(tmp_path: Path, without_openvino: None) -> None:
    path = save_conv(tmp_path / "m.onnx")
    with pytest.raises(MatcherError, match=r"^openvino is not installed: pip install 'efficient_matcher\[openvino\]'"):
        open_model(path, 1, "openvino")
    assert open_model(path, 1, "auto", usage=Usage((SIDE, SIDE))).name == "onnxruntime"


@pytest.fixture()
def rival(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`rival(change, seconds)`: a second runtime that answers change(reference) and seems to take that long."""
    def install(change: Callable[[np.ndarray], np.ndarray], seconds: float) -> None:
        class Rival(OnnxRuntime):
            name = "rival"

            def run(self, inputs: Arrays) -> Arrays:
                return {name: change(value) for name, value in super().run(inputs).items()}

        monkeypatch.setattr(backend, "KINDS", {"onnxruntime": OnnxRuntime, "rival": Rival})
        monkeypatch.setattr(backend, "_best_times", lambda models, inputs: [1.0, seconds][:len(models)])

    return install


@pytest.mark.parametrize("factor, seconds, taken", [
    (1.001, 0.5, "rival"), (1.001, 1.5, "onnxruntime"), (1.1, 0.5, "onnxruntime")])
def test_auto_takes_the_fastest_that_agrees(tmp_path: Path, rival: Callable, factor: float, seconds: float,
                                            taken: str) -> None:
    rival(lambda value: value * np.float32(factor), seconds)
    path = save_conv(tmp_path / "m.onnx")
    assert open_model(path, 1, "auto", usage=Usage((SIDE, SIDE))).name == taken
    assert open_model(path, 1, "auto").name == "onnxruntime"  # nothing to measure with


def test_auto_measures_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.cumsum([0, 3, 0, 1, 0, 2, 0, 4] + [0, 5] * 6).astype(float))
    monkeypatch.setattr(backend, "perf_counter", lambda: next(clock))

    class Nothing:
        name = "nothing"

        def run(self, inputs: Arrays) -> Arrays:
            return {}

    assert backend._best_times([Nothing(), Nothing()], {}) == [2.0, 1.0]


def test_agreement_is_of_shape_and_value() -> None:
    value = {"y": np.ones((2, 2), np.float32)}
    assert agrees(value, value) and agrees({"y": value["y"] + 0.02}, value)
    assert not agrees({"y": value["y"] + 0.08}, value)
    assert not agrees({"y": np.ones((1, 2), np.float32)}, value) and not agrees({"z": value["y"]}, value)


def test_bytes_agree_as_numbers_around_their_zero() -> None:
    value = {"y": np.array([[118, 138, 128]], np.uint8)}
    assert agrees(value, value)
    assert not agrees({"y": np.array([[120, 138, 128]], np.uint8)}, value)  # a tenth off; of bytes from 0 a hundredth


def test_free_sides_are_filled_in_order() -> None:
    image = InputSpec("image", (1, 1, None, None), np.dtype(np.uint8))
    assert image.filled((48, 64)) == (1, 1, 48, 64) and image.filled(()) is None
    assert InputSpec("tokens", (None, 8), np.dtype(np.float32)).filled((5,)) == (5, 8)
    assert InputSpec("scale", (), np.dtype(np.float32)).filled(()) == ()


@pytest.mark.parametrize("name", ["openvino", "auto"])
def test_a_pair_matches_on_other_runtimes(tiny_bundle: Path, warped_pair: object, name: str) -> None:
    pytest.importorskip("openvino")
    settings = {"input.width": 320, "input.height": 240, "model.threads": 1}
    results = [Matcher.from_bundle(tiny_bundle, Config().with_values({**settings, "model.backend": kind})).match(
        warped_pair.image0, warped_pair.image1) for kind in ("onnxruntime", name)]
    wanted, found = ({tuple(pair) for pair in result.matches.indices.tolist()} for result in results)
    assert len(wanted & found) > 0.98 * len(wanted)


@pytest.mark.parametrize("name, factor", [("onnxruntime", 1.0), ("openvino", 0.5), ("auto", 1.0)])
def test_only_openvino_takes_its_variant(variant_bundle: Path, textured_image: np.ndarray, name: str,
                                         factor: float) -> None:
    pytest.importorskip("openvino")
    scores = [Matcher.from_bundle(variant_bundle, Config().with_values({
        "input.width": 320, "input.height": 240, "model.threads": 1, "extract.score_threshold": 0.0,
        "model.backend": kind})).extract(textured_image).scores[:20] for kind in ("onnxruntime", name)]
    np.testing.assert_allclose(scores[1], factor * scores[0], rtol=1e-3)  # `auto`: half a score does not agree


def test_auto_measures_a_variant_that_agrees(tmp_path: Path, rival: Callable) -> None:
    rival(lambda value: value, 0.5)
    path, other = save_conv(tmp_path / "m.onnx"), save_conv(tmp_path / "v.onnx")
    model = open_model(path, 1, "auto", usage=Usage((SIDE, SIDE)), variants={"rival": other})
    assert (model.name, model.path) == ("rival", other)
    other.write_bytes(b"no model")
    assert open_model(path, 1, "auto", usage=Usage((SIDE, SIDE)), variants={"rival": other}).path == path


def test_a_variant_of_other_names_is_told_by_its_file(tmp_path: Path, kind: str) -> None:
    path, other = save_conv(tmp_path / "m.onnx"), save_conv(tmp_path / "v.onnx")
    with pytest.raises(BundleError, match=r"v.onnx: has no output 'scores' \(has y\)"):
        open_model(path, 1, kind, outputs=("scores",), variants={kind: other})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the kernel's own figures")
def test_memory_does_not_grow_with_the_sizes_seen(tiny_bundle: Path, kind: str) -> None:
    model = open_model(tiny_bundle / "matcher.onnx", 1, kind)
    rng = np.random.default_rng(0)

    def run_many(count: int) -> None:
        for size0, size1 in rng.integers(1, 200, (count, 2)):
            sizes = {"0": size0, "1": size1}
            model.run({spec.name: np.zeros(spec.filled((sizes[spec.name[-1]],)), np.float32) for spec in model.specs})

    run_many(100)
    gc.collect()
    before = _held_mib()
    run_many(80)
    assert _held_mib() - before < 12  # what is kept of each size otherwise comes to 30


def _held_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
