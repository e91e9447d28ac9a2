"""A matcher in 8 bits: which nodes become what, that it still computes the same, and how layers are left float."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

import onnxruntime  # noqa: E402

from efficient_matcher.core.features import Extractor  # noqa: E402
from efficient_matcher.errors import MatcherError, RecipeError  # noqa: E402
from efficient_matcher.learn import quantize_matcher as module  # noqa: E402
from efficient_matcher.learn.matcher_graph import matcher_model  # noqa: E402
from efficient_matcher.learn.matcher_qdq import linear_inputs, linear_layers, quantized_matcher  # noqa: E402
from efficient_matcher.learn.matcher_stages import matcher_stages  # noqa: E402
from efficient_matcher.learn.quantize import LinearRecipe, MatcherBits, MatcherLimits, opened  # noqa: E402
from efficient_matcher.learn.quantize_matcher import (  # noqa: E402
    MatcherDamage, MatcherJudge, quantize_matcher, view_pairs)
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig  # noqa: E402
from efficient_matcher.records import Features  # noqa: E402

CONFIG = SuperGlueConfig(descriptor_dim=32, keypoint_encoder=(16,), layers=2, heads=4, residual_init=True)
GENEROUS = MatcherBits(limits=MatcherLimits(matches=1.0))
RECIPE = LinearRecipe(calibration="min-max", matcher=GENEROUS)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    torch.manual_seed(0)
    return matcher_model(SuperGlue(CONFIG).eval())


def _features(count: int, seed: int, like: Features | None = None) -> Features:
    rng = np.random.default_rng(seed)
    descriptors = (rng.normal(size=(count, 32)) if like is None
                   else like.descriptors + 0.1 * rng.normal(size=(count, 32)))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    keypoints = rng.uniform(0, 300, (count, 2)) if like is None else like.keypoints + 5
    return Features(keypoints.astype(np.float32), rng.uniform(0.1, 1, count).astype(np.float32),
                    descriptors.astype(np.float32), (320, 240))


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Features, Features]]:
    first = [_features(40, seed) for seed in range(4)]
    return [(own, _features(40, 10 + seed, own)) for seed, own in enumerate(first)]


def _ranges(model: onnx.ModelProto, pairs: list[tuple[Features, Features]]) -> dict[str, tuple[float, float]]:
    return {name: (seen.low, seen.high) for name, seen in module._histograms(model, pairs).items()}


def test_layers_are_named_by_the_weights_both_images_share(model: onnx.ModelProto) -> None:
    layers = linear_layers(model)
    assert list(layers)[:6] == ["kenc.3", "gnn.0.query", "gnn.0.key", "gnn.0.value", "gnn.0.hidden", "gnn.0.output"]
    assert "kenc.0" not in layers  # three inputs: not worth it
    assert layers["gnn.1.key"] == ["gnn.1/0/key", "gnn.1/1/key"] and list(layers)[-1] == "final"


def test_ranges_of_the_two_images_are_one(model: onnx.ModelProto, pairs: list) -> None:
    ranges = _ranges(model, pairs)
    assert set(ranges) == set(linear_inputs(model))
    for name, (low, high) in ranges.items():
        assert ranges[name.replace("/0/", "/1/")] == (low, high)


def test_the_answer_is_that_of_the_float_graph(model: onnx.ModelProto, pairs: list) -> None:
    small = quantized_matcher(model, _ranges(model, pairs), list(linear_layers(model)))
    inputs = module._inputs(*pairs[0])
    wanted, found = (opened(graph).run(inputs)["similarity"] for graph in (model, small))
    assert np.abs(wanted - found).max() < 0.05 * np.abs(wanted).max()
    assert np.corrcoef(wanted.ravel(), found.ravel())[0, 1] > 0.999
    assert not np.array_equal(wanted, found)


def test_onnxruntime_runs_integer_kernels_in_every_stage(model: onnx.ModelProto, pairs: list, tmp_path: Path) -> None:
    small = quantized_matcher(model, _ranges(model, pairs), list(linear_layers(model)))
    for name, stage in matcher_stages(small).items():
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / name)
        onnxruntime.InferenceSession(stage.SerializeToString(), options)
        kinds = Counter(node.op_type for node in onnx.load(str(tmp_path / name)).graph.node)
        assert kinds["QGemm"] >= 2 and kinds["DequantizeLinear"] == 0
        assert kinds["Gemm"] + kinds["MatMul"] == (name == "matcher_encode.onnx")  # the layer of three inputs


def test_tokens_are_added_up_in_float(model: onnx.ModelProto, pairs: list) -> None:
    small = quantized_matcher(model, _ranges(model, pairs), list(linear_layers(model)))
    sums = [node for node in small.graph.node if node.op_type == "Add" and node.output[0].endswith("tokens")]
    assert sums and not any("DequantizeLinear" in name for node in sums for name in node.input)


def test_layers_not_named_stay_float(model: onnx.ModelProto, pairs: list) -> None:
    small = quantized_matcher(model, _ranges(model, pairs), ["gnn.0.hidden"])
    kinds = {entry.name: entry.data_type for entry in small.graph.initializer if len(entry.dims) > 1}
    assert [name for name, kind in kinds.items() if kind == onnx.TensorProto.INT8] == ["gnn.0.hidden.weight_quantized"]
    assert quantized_matcher(model, {}, []) is model


def test_what_costs_most_stays_float(model: onnx.ModelProto, pairs: list, monkeypatch: pytest.MonkeyPatch,
                                     tmp_path: Path) -> None:
    worth = dict.fromkeys(linear_layers(model), 0.001) | {"final": 0.3, "gnn.1.key": 0.2}

    def damage(judge: MatcherJudge, candidate: onnx.ModelProto) -> MatcherDamage:
        floats = {entry.name for entry in candidate.graph.initializer if entry.data_type == onnx.TensorProto.FLOAT}
        return MatcherDamage(sum(cost for name, cost in worth.items() if f"{name}.weight" not in floats))

    monkeypatch.setattr(MatcherJudge, "damage", damage)
    recipe = replace(RECIPE, matcher=MatcherBits(limits=MatcherLimits(matches=0.05)))
    result = quantize_matcher(model, pairs, recipe, tmp_path / "notes.json")
    assert result.wider == ("gnn.1.key", "final") and result.damage.matches < 0.05
    monkeypatch.setattr(MatcherJudge, "damage", lambda *_: pytest.fail("measured twice"))
    assert quantize_matcher(model, pairs, recipe, tmp_path / "notes.json").wider == result.wider


def test_matches_of_the_float_graph_do_not_change(model: onnx.ModelProto, pairs: list) -> None:
    assert MatcherJudge(model, pairs).damage(model) == MatcherDamage(0.0)
    assert module._changed({(0, 1), (2, 3)}, {(0, 1), (2, 4)}) == pytest.approx(2 / 3)
    assert module._changed(set(), set()) == 0.0


def test_unknown_layers_and_images_without_keypoints_are_told(model: onnx.ModelProto, pairs: list,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match=r"matcher.wider: unknown layer 'gnn.9' \(known: kenc.3, "):
        quantize_matcher(model, pairs, replace(RECIPE, matcher=MatcherBits(wider=("gnn.9",))))
    monkeypatch.setattr(Extractor, "__call__", lambda self, frame: _features(0, 0))
    with pytest.raises(MatcherError, match="fewer than two images have keypoints"):
        view_pairs(None, [np.zeros((48, 64), np.uint8)] * 3)
