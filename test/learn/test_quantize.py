"""Quantizing an extractor by measurement: what stays wider, what is remembered, what is refused."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from efficient_matcher.errors import MatcherError, RecipeError  # noqa: E402
from efficient_matcher.learn import quantize as module  # noqa: E402
from efficient_matcher.learn.extractor_graph import extractor_model  # noqa: E402
from efficient_matcher.learn.extractor_phases import phased_extractor_model  # noqa: E402
from efficient_matcher.learn.qdq import layers_of  # noqa: E402
from efficient_matcher.learn.quantize import Damage, Judge, Limits, LinearRecipe, opened, quantize  # noqa: E402
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig  # noqa: E402

GENEROUS = Limits(shift_px=9, lost=1, descriptor=9)
RECIPE = LinearRecipe(calibration="min-max", limits=GENEROUS)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    torch.manual_seed(0)
    return extractor_model(SuperPoint(SuperPointConfig((4,) * 8, 8, 8, 16)).eval())


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 64), np.uint8) for _ in range(3)]


def test_within_limits_every_layer_is_quantized(model: onnx.ModelProto, images: list[np.ndarray]) -> None:
    result = quantize(model, images, replace(RECIPE, calibration="best"))
    assert result.wider == () and result.alone == {}
    assert set(result.methods) == {"min-max", "percentile", "entropy", "mse"}
    assert result.damage == result.methods[result.calibration]
    assert result.ranges["image/float"] == (0.0, 255.0)


def test_the_float_graph_is_undamaged_and_its_copy_too(model: onnx.ModelProto, images: list[np.ndarray]) -> None:
    assert asdict(Judge(model, images).damage(model)) == pytest.approx(asdict(Damage(0, 0, 0)), abs=1e-6)


def test_the_worst_layers_stay_wider_until_the_limits_hold(
    model: onnx.ModelProto, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    worth = {name: 0.01 for name in layers_of(model)} | {"conv3a": 0.5, "convDb": 0.4}

    def damage(judge: Judge, candidate: onnx.ModelProto) -> Damage:
        floats = {entry.name for entry in candidate.graph.initializer if entry.data_type == onnx.TensorProto.FLOAT}
        return Damage(sum(cost for name, cost in worth.items() if f"{name}.weight" not in floats), 0, 0)

    monkeypatch.setattr(Judge, "damage", damage)
    result = quantize(model, images, replace(RECIPE, limits=replace(GENEROUS, shift_px=0.2)))
    assert result.wider == ("conv3a", "convDb")
    assert result.alone["conv3a"].shift_px == pytest.approx(0.5)
    assert result.damage.shift_px == pytest.approx(0.01 * (len(worth) - 2))


def test_a_stopped_run_measures_nothing_twice(
    model: onnx.ModelProto, images: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = Judge.damage

    def counted(judge: Judge, candidate: onnx.ModelProto) -> Damage:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(judge, candidate)

    monkeypatch.setattr(Judge, "damage", counted)
    recipe, notes = replace(RECIPE, calibration="best"), tmp_path / "notes.json"
    with pytest.raises(KeyboardInterrupt):
        quantize(model, images, recipe, notes)
    result = quantize(model, images, recipe, notes)
    assert len(calls) == 5  # two kept, the third interrupted and made again, and the fourth
    assert len(result.methods) == 4
    quantize(model, images[::-1], recipe, notes)
    assert len(calls) == 9  # other images: measured anew


def test_notes_that_are_damaged_are_made_again(
    model: onnx.ModelProto, images: list[np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "notes.json").write_text("{")
    assert quantize(model, images, RECIPE, tmp_path / "notes.json").wider == ()


def test_unknown_layers_are_named(model: onnx.ModelProto, images: list[np.ndarray]) -> None:
    with pytest.raises(RecipeError, match=r"wider: unknown layer 'conv9z' \(known: conv1a, conv1b"):
        quantize(model, images, replace(RECIPE, wider=("conv9z",)))


def test_named_layers_stay_wider(model: onnx.ModelProto, images: list[np.ndarray]) -> None:
    assert quantize(model, images, replace(RECIPE, wider=("convPb",))).wider == ("convPb",)


def test_images_without_content_are_refused(model: onnx.ModelProto, images: list[np.ndarray]) -> None:
    black = [np.zeros((48, 64), np.uint8)] * 4
    with pytest.raises(MatcherError, match="every image is of one brightness"):
        quantize(model, black, RECIPE)
    with pytest.raises(MatcherError, match="at least two images with content"):
        quantize(model, [*black, images[0]], RECIPE)


def test_lost_keypoints_are_counted() -> None:
    coarse = np.ones((4, 4, 2), np.float32)
    wanted = {"points": np.float32([[4, 4], [20, 20]]), "coarse": coarse}
    found = {"points": np.float32([[4, 4.5]]), "coarse": coarse}
    assert module._difference(wanted, found) == pytest.approx((0.5, 0.5, 0.0), abs=1e-6)
    assert module._difference(wanted, {**found, "points": np.zeros((0, 2), np.float32)}) == (3.0, 1.0, 1.0)


def test_another_layout_rounds_alike(images: list[np.ndarray]) -> None:
    torch.manual_seed(0)
    network = SuperPoint(SuperPointConfig((4,) * 8, 8, 8, 16, location_width=4)).eval()
    first = quantize(phased_extractor_model(network), images, replace(RECIPE, calibration="mse", wider=("conv3a",)))
    second = quantize(extractor_model(network), images, replace(RECIPE, calibration="best"), like=first)
    assert second.calibration == "mse" and second.wider == ("conv3a",)
    assert second.ranges["conv2b/relu"] == first.ranges["conv2b/relu"]
    # One graph has the dustbin in this tensor, the other not.
    assert second.ranges["convPb"] != first.ranges["convPb"]
    answers = [opened(result.model).run({"image": images[0][None, None]})["descriptors"] for result in (first, second)]
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-4 * np.abs(answers[0]).max())
