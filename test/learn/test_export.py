"""Graphs against the networks they came from, folding step by step, and the bundle as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from efficient_matcher import Matcher  # noqa: E402
from efficient_matcher.core.bundle import load_bundle  # noqa: E402
from efficient_matcher.errors import MatcherError  # noqa: E402
from efficient_matcher.learn import export  # noqa: E402
from efficient_matcher.learn.export import (  # noqa: E402
    CardFields, ExportError, extractor_parity, locator_parity, matcher_parity, stages_parity, write_bundle)
from efficient_matcher.learn.extractor_graph import block_convolution, cells_of_blocks, extractor_model  # noqa: E402
from efficient_matcher.learn.matcher_graph import matcher_model, sorted_heads  # noqa: E402
from efficient_matcher.learn.pack import pack_bundle  # noqa: E402
from efficient_matcher.learn.onnx_graph import fold_batch_norm  # noqa: E402
from efficient_matcher.learn.superglue import MultiHeadedAttention, SuperGlue, SuperGlueConfig  # noqa: E402
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig  # noqa: E402

Trained = Callable[[Any], Any]
SIZES = ((48, 64), (40, 88))
COUNTS = ((20, 30), (1, 7))
POINT = SuperPointConfig((4, 4, 8, 8, 8, 8, 16, 16), 8, 8, 16, batch_norm=True, location_width=4)
GLUE = SuperGlueConfig(descriptor_dim=16, keypoint_encoder=(8, 16), layers=2, heads=4)
CARD = CardFields(name="small", licence="Apache-2.0", training={"seed": 0})


@pytest.fixture(autouse=True)
def small_parity(monkeypatch: pytest.MonkeyPatch) -> None:
    for function, sizes in ((extractor_parity, SIZES), (locator_parity, (9, 1)), (matcher_parity, COUNTS),
                            (stages_parity, COUNTS)):
        monkeypatch.setattr(function, "__defaults__", (sizes, 0))


@pytest.mark.parametrize("config", [
    POINT, SuperPointConfig((4,) * 8, 8, 8, 16), SuperPointConfig((4,) * 8, 8, 8, 16, location_width=4),
    SuperPointConfig((4,) * 8, 8, 8, 16, batch_norm=True)])
def test_extractor_graph_equals_its_network(trained: Trained, config: SuperPointConfig) -> None:
    network = trained(SuperPoint(config))
    differences = extractor_parity(extractor_model(network), network)
    assert set(differences) == {"scores", "descriptors"}
    assert max(differences.values()) < 1e-5


def test_a_bundle_has_the_locator_of_its_extractor(trained: Trained, tmp_path: Path) -> None:
    network = SuperPoint(replace(POINT, locator_widths=(8,), locator_reach_px=2))
    card = write_bundle(tmp_path / "located", trained(network), trained(SuperGlue(GLUE)), CARD)
    pack_bundle(tmp_path / "located", tmp_path / "packed")
    bundle = load_bundle(tmp_path / "packed")
    assert bundle.locator == tmp_path / "packed" / "locator.onnx" and "locator.onnx" in card.files
    assert {"moves", "spreads"} <= set(card.measured["max_difference_to_torch"])
    matcher = Matcher.from_bundle(bundle.path)
    assert len(matcher.runtimes) == 1 + 1 + len(bundle.matcher)
    plain = write_bundle(tmp_path / "plain", trained(SuperPoint(POINT)), trained(SuperGlue(GLUE)), CARD)
    assert "locator.onnx" not in plain.files and load_bundle(tmp_path / "plain").locator is None


def test_matcher_graph_equals_its_network(trained: Trained) -> None:
    network = trained(SuperGlue(GLUE))
    differences = matcher_parity(matcher_model(network), network)
    assert set(differences) == {"similarity", "dustbin"}
    assert max(differences.values()) < 1e-4


def interface(model: onnx.ModelProto) -> dict[str, tuple[int, list[int | str]]]:
    return {entry.name: (entry.type.tensor_type.elem_type,
                         [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim])
            for entry in (*model.graph.input, *model.graph.output)}


def test_interfaces_are_what_the_runtime_expects() -> None:
    floats, octets = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
    extractor, matcher = extractor_model(SuperPoint(POINT).eval()), matcher_model(SuperGlue(GLUE).eval())
    assert interface(extractor) == {"image": (octets, [1, 1, "H", "W"]), "scores": (floats, [1, "H", "W"]),
                                    "descriptors": (floats, [1, "cells_y", "cells_x", 16])}
    sides = {f"{name}{side}": (floats, [count, *rest]) for side, count in (("0", "N"), ("1", "M"))
             for name, rest in (("keypoints", [2]), ("scores", []), ("descriptors", [16]))}
    assert interface(matcher) == {**sides, "similarity": (floats, ["N", "M"]), "dustbin": (floats, [])}


def test_graphs_are_readable_by_old_runtimes_and_hold_no_shape_arithmetic() -> None:
    for model in (extractor_model(SuperPoint(POINT).eval()), matcher_model(SuperGlue(GLUE).eval())):
        assert model.ir_version <= 9
        assert [(entry.domain, entry.version <= 19) for entry in model.opset_import] == [("", True)]
        kinds = {node.op_type for node in model.graph.node}
        assert not kinds & {"Shape", "Gather", "Constant", "BatchNormalization", "DepthToSpace"}
        assert len({node.name for node in model.graph.node}) == len(model.graph.node)


def test_parity_check_notices_a_changed_weight(trained: Trained) -> None:
    network = trained(SuperPoint(POINT))
    model = extractor_model(network)
    with torch.no_grad():
        network.convPb.bias[3] += 0.5
    with pytest.raises(ExportError, match="extractor.onnx: scores differs from the network by .*, allowed"):
        extractor_parity(model, network)


@pytest.mark.parametrize(("layer", "norm", "x"), [
    (nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), torch.randn(2, 3, 6, 7)),
    (nn.Linear(3, 5), nn.BatchNorm1d(5), torch.randn(9, 3))])
def test_folded_batch_norm_equals_the_two_layers(trained: Trained, layer: nn.Module, norm: nn.Module,
                                                 x: torch.Tensor) -> None:
    layer, norm = trained(layer).double(), trained(norm).double()
    weight, bias = fold_batch_norm(layer.weight, layer.bias, norm)
    apply = F.conv2d if weight.dim() == 4 else F.linear
    torch.testing.assert_close(apply(x.double(), weight, bias), norm(layer(x.double())))


def test_sorted_heads_equal_the_interleaved_attention() -> None:
    torch.manual_seed(0)
    attention = MultiHeadedAttention(12, 3).double()
    x, source = torch.randn(5, 12).double(), torch.randn(7, 12).double()
    (query, query_bias), key, value, merge, merge_bias = sorted_heads(attention)
    heads = []
    for head in range(3):
        rows = slice(4 * head, 4 * head + 4)  # contiguous
        scores = (x @ query[rows].t() + query_bias[rows]) @ (source @ key[rows].t()).t()
        heads.append(scores.softmax(dim=1) @ (source @ value[rows].t()))
    message = torch.cat(heads, dim=1) @ merge.t() + merge_bias
    torch.testing.assert_close(message, attention(x[None], source[None])[0])


@pytest.mark.parametrize("shuffle", [1, 2])
def test_block_convolution_equals_convolution_and_shuffle(shuffle: int) -> None:
    conv = nn.Conv2d(3, shuffle * shuffle, 3, padding=1)
    x = torch.randn(1, 3, 16 // shuffle, 24 // shuffle)
    pixels = F.pixel_shuffle(conv(x), shuffle)
    weight, bias = block_convolution(conv.weight, conv.bias, shuffle)
    blocks = F.conv2d(x, weight, bias, stride=4 // shuffle, padding=1)
    torch.testing.assert_close(F.pixel_shuffle(blocks, 4), pixels)
    cells = F.conv2d(blocks, cells_of_blocks(), stride=2)
    torch.testing.assert_close(cells[:, :64], F.pixel_unshuffle(pixels, 8))
    assert not cells[:, 64].any()


def test_bundle_is_complete_and_its_card_checked(trained: Trained, tmp_path: Path) -> None:
    card = write_bundle(tmp_path / "small", trained(SuperPoint(POINT)), trained(SuperGlue(GLUE)), CARD)
    bundle = load_bundle(tmp_path / "small")
    assert bundle.card == card
    assert sorted(path.name for path in bundle.path.iterdir()) == [
        "extractor.onnx", "matcher_assign.onnx", "matcher_encode.onnx", "matcher_pair1.onnx", "matcher_pair2.onnx",
        "model.yaml"]
    assert card.extractor["parameters"] == sum(parameter.numel() for parameter in SuperPoint(POINT).parameters())
    assert card.matcher["layers"] == 2
    assert set(card.measured["max_difference_to_torch"]) == {"scores", "descriptors", "similarity", "dustbin"}
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_bundle_runs_in_the_pipeline(trained: Trained, tmp_path: Path, textured_image: np.ndarray) -> None:
    from efficient_matcher import Matcher
    network = SuperGlue(SuperGlueConfig(16, (8, 16), 1, 4, residual_init=True))
    write_bundle(tmp_path / "small", trained(SuperPoint(POINT)), network, CARD)
    features = Matcher.from_bundle(tmp_path / "small").extract(textured_image)
    assert features.descriptors.shape == (len(features), 16)


def test_bundle_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", SuperPoint(POINT), SuperGlue(GLUE), CARD)
    deeper = replace(GLUE, layers=GLUE.layers + 1)
    write_bundle(tmp_path / "b", SuperPoint(POINT), SuperGlue(deeper), CARD)
    last = tmp_path / "b" / f"matcher_pair{deeper.layers}.onnx"
    assert last.exists()
    write_bundle(tmp_path / "b", SuperPoint(POINT), SuperGlue(GLUE), CardFields("again", "Apache-2.0", {}))
    assert load_bundle(tmp_path / "b").card.name == "again"
    assert not last.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_files_that_are_not_the_bundle_s_stay(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", SuperPoint(POINT), SuperGlue(GLUE), CARD)
    (tmp_path / "b" / "notes.txt").write_text("mine")
    (tmp_path / "b" / "more").mkdir()
    write_bundle(tmp_path / "b", SuperPoint(POINT), SuperGlue(GLUE), CARD)
    pack_bundle(tmp_path / "b", tmp_path / "b")
    assert (tmp_path / "b" / "notes.txt").read_text() == "mine" and (tmp_path / "b" / "more").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_failed_export_leaves_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "b", SuperPoint(POINT), SuperGlue(GLUE), CARD)
    monkeypatch.setattr(export, "PARITY_BOUND", -1.0)
    with pytest.raises(ExportError, match="differs from the network"):
        write_bundle(tmp_path / "b", SuperPoint(POINT), SuperGlue(GLUE), CARD)
    assert load_bundle(tmp_path / "b").card.name == "small"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="exists and is not a bundle"):
        write_bundle(tmp_path, SuperPoint(POINT), SuperGlue(GLUE), CARD)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_descriptor_sizes_must_agree(tmp_path: Path) -> None:
    other = SuperGlue(SuperGlueConfig(descriptor_dim=8, keypoint_encoder=(4,), layers=1, heads=2))
    with pytest.raises(ExportError, match="describes in 16 dimensions, SuperGlue reads 8"):
        write_bundle(tmp_path / "b", SuperPoint(POINT), other, CARD)


def test_the_folder_one_is_in_is_not_replaced() -> None:
    with pytest.raises(ExportError, match="is the folder you are in"):
        export.check_free(Path("."))
    with pytest.raises(MatcherError, match="is the folder you are in"):
        pack_bundle(Path(__file__).parents[2] / "efficient_matcher" / "models" / "default", Path("."))
