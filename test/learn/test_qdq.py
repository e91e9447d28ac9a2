"""Quantized graphs: near their float ones, on integer kernels alone, and stored weights within half a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from efficient_matcher.learn.calibrate import chosen_range, histograms, observed_tensors, with_outputs  # noqa: E402
from efficient_matcher.learn.extractor_graph import extractor_model  # noqa: E402
from efficient_matcher.learn.extractor_phases import phased_extractor_model  # noqa: E402
from efficient_matcher.learn.graph_counts import count  # noqa: E402
from efficient_matcher.learn.onnx_graph import FLOAT, Graph  # noqa: E402
from efficient_matcher.learn.qdq import (  # noqa: E402
    answering_in_bytes,
    best_scale, eight_bit_nodes, four_bit_weights, half_weights, layers_of, quantized, rounded_with_sums)
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig  # noqa: E402

POINT = SuperPointConfig((8,) * 8, 16, 16, 16, location_width=8)


def run(model: onnx.ModelProto, inputs: dict[str, Any], saved: Path | None = None) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if saved is not None:
        options.optimized_model_filepath = str(saved)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip((entry.name for entry in session.get_outputs()), session.run(None, inputs)))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, 1, 48, 64), np.uint8)


@pytest.fixture(scope="module")
def network() -> SuperPoint:
    torch.manual_seed(0)
    return SuperPoint(POINT).eval()


def ranges_of(model: onnx.ModelProto, image: np.ndarray) -> dict[str, tuple[float, float]]:
    names = observed_tensors(model)
    whole = with_outputs(model, names)
    seen = histograms(lambda given: run(whole, given), [{"image": image}], names)
    return {**{name: chosen_range(entry, "min-max") for name, entry in seen.items()}, "image/float": (0.0, 255.0)}


@pytest.mark.parametrize("layout", [extractor_model, phased_extractor_model])
def test_an_8_bit_extractor_is_near_the_float_one_and_all_integer(layout: Any, network: SuperPoint, image: np.ndarray,
                                                                  tmp_path: Path) -> None:
    model = layout(network)
    coarser = quantized(model, ranges_of(model, image), layers_of(model))
    wanted, found = run(model, {"image": image}), run(coarser, {"image": image}, tmp_path / "optimised.onnx")
    for name in wanted:
        error = np.sqrt(np.mean((wanted[name] - found[name]) ** 2))
        assert 0 < error < 0.05 * wanted[name].std(), name
    kinds = [node.op_type for node in onnx.load(str(tmp_path / "optimised.onnx")).graph.node]
    assert kinds.count("QLinearConv") == len(layers_of(model))
    assert not {"Conv", "QuantizeLinear", "Cast"} & set(kinds)  # not even the image becomes float


@pytest.mark.parametrize("layout", [extractor_model, phased_extractor_model])
def test_descriptors_as_bytes_differ_by_a_scale_alone(layout: Any, network: SuperPoint, image: np.ndarray,
                                                      tmp_path: Path) -> None:
    model = layout(network)
    coarser = quantized(model, ranges_of(model, image), layers_of(model))
    wanted = run(coarser, {"image": image})["descriptors"]
    found = run(answering_in_bytes(coarser), {"image": image}, tmp_path / "optimised.onnx")["descriptors"]
    assert found.dtype == np.uint8
    numbers = found.astype(np.float32) - 128
    scale = (numbers * wanted).sum() / (numbers ** 2).sum()
    assert np.abs(scale * numbers - wanted).max() <= 1.6 * scale  # both are rounded
    kinds = [node.op_type for node in onnx.load(str(tmp_path / "optimised.onnx")).graph.node]
    assert kinds.count("QLinearConv") == len(layers_of(model)) and "QuantizeLinear" not in kinds


def test_descriptors_of_a_wider_layer_stay_as_they_are(network: SuperPoint, image: np.ndarray) -> None:
    model = phased_extractor_model(network)
    coarser = quantized(model, ranges_of(model, image), [name for name in layers_of(model) if name != "convDb"])
    assert answering_in_bytes(coarser) is coarser


def test_layers_left_out_stay_float(network: SuperPoint, image: np.ndarray) -> None:
    model = phased_extractor_model(network)
    ranges = ranges_of(model, image)
    assert quantized(model, ranges, []) is model
    without = [name for name in layers_of(model) if name not in ("conv1a", "convPb")]
    coarser = quantized(model, ranges, without)
    kept = {entry.name for entry in coarser.graph.initializer if entry.data_type == onnx.TensorProto.FLOAT}
    assert {"conv1a.weight", "convPb.weight"} <= kept and "conv2a.weight" not in kept
    assert run(coarser, {"image": image})["scores"].shape == (1, 48, 64)


def test_what_lies_between_8_bit_layers_is_8_bit_and_no_more() -> None:
    graph = Graph("g")
    one = torch.ones(1, 1, 1, 1), torch.zeros(1)
    a = graph.conv("a", "x", *one, relu=True)
    moved = graph.add("Transpose", "between", a, perm=[0, 1, 2, 3])
    b = graph.conv("b", moved, *one)
    graph.add("Add", "after", b, graph.add("Transpose", "aside", a, perm=[0, 1, 2, 3]), output="y")
    model = graph.model({"x": (FLOAT, [1, 1, 2, 2])}, {"y": (FLOAT, [1, 1, 2, 2])})
    assert eight_bit_nodes(model, ["a", "b"]) == {"a", "a/relu", "b", "between"}
    assert eight_bit_nodes(model, ["b"]) == {"b"}


def matrix(weight: torch.Tensor) -> onnx.ModelProto:
    graph = Graph("g")
    graph.linear("y", "x", weight, None)
    return graph.model({"x": (FLOAT, ["N", weight.shape[1]])}, {"y": (FLOAT, ["N", len(weight)])})


@pytest.mark.parametrize(("coder", "share", "bound"), [(half_weights, 0.6, 1e-3), (four_bit_weights, 0.25, 0.08)])
def test_stored_weights_are_smaller_and_come_back(coder: Any, share: float, bound: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(65, 33)
    model = matrix(weight)
    smaller = coder(model)
    assert smaller.ByteSize() < share * model.ByteSize() + 1200
    found = run(smaller, {"x": np.eye(33, dtype=np.float32)})["y"]
    assert np.sqrt(np.mean((found - weight.numpy().T) ** 2)) < bound * 1.5


def test_4_bit_weights_are_counted_one_by_one(tmp_path: Path) -> None:
    weight = torch.randn(33, 33, generator=torch.Generator().manual_seed(0))
    weight[:11] = 0
    onnx.save(four_bit_weights(matrix(weight)), tmp_path / "m.onnx")
    found = count(tmp_path / "m.onnx")
    levels = np.rint(weight.numpy().T / best_scale(weight.numpy().T, 1, 7))
    assert (found.weights, found.nonzero) == (33 * 33, np.count_nonzero(levels))


def test_a_4_bit_scale_belongs_to_its_channel_and_cuts_outliers() -> None:
    values = np.stack([np.linspace(-7, 7, 400), np.append(np.linspace(-0.7, 0.7, 399), 1.0)]).astype(np.float32)
    scale = best_scale(values, 0, 7)
    assert scale[0, 0] == pytest.approx(1, rel=0.1) and 0.09 < scale[1, 0] < 0.13


def test_rounding_keeps_the_sum_of_each_channel_and_its_zeros() -> None:
    values = np.random.default_rng(0).normal(size=(16, 2, 3, 3)).astype(np.float32)
    values[:, 0, 0] = 0
    found = rounded_with_sums(values)
    step = (np.abs(values).max(axis=(1, 2, 3)) / 64).astype(np.float16).astype(np.float32)  # half the bytes on disk
    levels = found / step[:, None, None, None]
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
    assert np.abs(levels).max() < 64.01 and not found[:, 0, 0].any()
    assert (np.abs((found - values).sum(axis=(1, 2, 3))) <= 0.501 * step).all()
    assert (np.abs(found - values).max(axis=(1, 2, 3)) <= 1.001 * step).all()


def test_scales_too_small_for_half_floats_stay_as_they_are() -> None:
    values = np.float32([[1e-7, -4e-8, 2e-8, 0.0]])
    np.testing.assert_allclose(rounded_with_sums(values), values, atol=1e-7 / 64)
