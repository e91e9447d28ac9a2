"""The locator network and its deployed graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx  # noqa: E402

from efficient_matcher.learn.channels import narrow  # noqa: E402
from efficient_matcher.learn.export import ExportError, locator_parity  # noqa: E402
from efficient_matcher.learn.fold import folded  # noqa: E402
from efficient_matcher.learn.locator import LOG_SPREADS, MOST_MOVE_PX, Locator, normalised  # noqa: E402
from efficient_matcher.learn.locator_graph import locator_model  # noqa: E402
from efficient_matcher.learn.macs import superpoint_macs  # noqa: E402
from efficient_matcher.learn.prune import weight_layers  # noqa: E402
from efficient_matcher.learn.qdq import byte_weights  # noqa: E402
from efficient_matcher.learn.quantization_aware import rounded, unrounded  # noqa: E402
from efficient_matcher.learn.quantize import opened  # noqa: E402
from efficient_matcher.learn.stem import with_fewer_layers, with_half_stem  # noqa: E402
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig  # noqa: E402
from efficient_matcher.learn.weights import WeightsError, load_superpoint, save_weights  # noqa: E402
from efficient_matcher.learn.widen import widened  # noqa: E402

SMALL = SuperPointConfig((4,) * 8, 8, 8, 16, locator_widths=(12, 8), locator_reach_px=3)


def locator(seed: int = 0) -> Locator:
    """One whose every layer has something to say."""
    torch.manual_seed(seed)
    network = Locator((12, 8), 3)
    torch.nn.init.normal_(network.layers[-1].weight, std=0.5)
    return network.eval()


def seen(count: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (torch.randint(0, 256, (count, 49), generator=generator, dtype=torch.uint8),
            torch.rand((count, 3), generator=generator))


def test_a_new_one_changes_next_to_nothing_and_has_no_zeros() -> None:
    network = Locator((12, 8), 3)
    moves, spreads = network(*seen())
    np.testing.assert_allclose(moves.detach(), 0, atol=0.02)
    np.testing.assert_allclose(spreads.detach(), 1, atol=0.02)
    assert all((layer.weight != 0).all() for layer in network.layers)


def test_light_and_contrast_say_nothing_of_the_place() -> None:
    patches, hints = seen()
    darker = patches.float() * 0.5 + 20
    np.testing.assert_allclose(normalised(patches), normalised(darker), atol=0.15)
    assert not normalised(torch.full((1, 49), 80)).any()  # a flat patch is no division by zero


def test_answers_have_bounds() -> None:
    network = locator()
    torch.nn.init.constant_(network.layers[-1].bias, 99.0)
    moves, spreads = network(*seen())
    assert (moves == MOST_MOVE_PX).all()
    np.testing.assert_allclose(spreads.detach(), np.exp(LOG_SPREADS[1]), rtol=1e-6)


def test_the_graph_equals_the_network() -> None:
    network = locator()
    differences = locator_parity(locator_model(network), network, (9, 1))
    assert set(differences) == {"moves", "spreads"}
    assert max(differences.values()) < 1e-4
    with pytest.raises(ExportError, match="locator.onnx: moves differs from the network"):
        locator_parity(locator_model(locator(1)), network, (9,))


def test_weights_in_bytes_give_nearly_the_same() -> None:
    model = locator_model(locator())
    small = byte_weights(model)
    kinds = {tensor.name: tensor.data_type for tensor in small.graph.initializer}
    assert kinds["layers.0.weight.bytes"] == onnx.TensorProto.INT8 and "layers.0.weight" not in kinds
    inputs = dict(zip(("patches", "hints"), (value.numpy() for value in seen())))
    whole, rounded = (opened(graph).run(inputs) for graph in (model, small))
    assert 0 < np.abs(whole["moves"] - rounded["moves"]).max() < 0.05


def test_a_superpoint_keeps_it_in_its_file(tmp_path: Path) -> None:
    network = SuperPoint(SMALL)
    torch.nn.init.normal_(network.locator.layers[-1].weight)
    save_weights(tmp_path / "sp.safetensors", network)
    again = load_superpoint(tmp_path / "sp.safetensors")
    assert again.config == SMALL
    assert torch.equal(again.locator.layers[-1].weight, network.locator.layers[-1].weight)
    assert {"locator.layers.0", "locator.layers.2"} <= set(weight_layers(network))  # it is pruned and clustered as well


def test_a_file_without_its_tensors_is_refused(tmp_path: Path) -> None:
    network = SuperPoint(SMALL)
    network.locator = None
    save_weights(tmp_path / "sp.safetensors", network)  # its config speaks of one
    with pytest.raises(WeightsError, match="sp.safetensors: 'locator.layers.0.weight' is missing"):
        load_superpoint(tmp_path / "sp.safetensors")


def test_its_products_are_counted() -> None:
    without = SuperPointConfig((4,) * 8, 8, 8, 16)
    assert superpoint_macs(SMALL) - superpoint_macs(without) == 512 * (52 * 12 + 12 * 8 + 8 * 3)


@pytest.mark.filterwarnings("error")
def test_what_changes_the_extractor_leaves_it_alone() -> None:
    network = SuperPoint(replace(SMALL, batch_norm=True, location_width=4)).eval()
    half = with_half_stem(network, seed=0)
    for other in (narrow(network, {"4a": 2}), widened(network, {"4a": 6}, 0), half, with_fewer_layers(half, ("2a",), True, 0),
                  folded(network), unrounded(rounded(network, {}))):
        assert other.config.locator_widths == (12, 8)
        assert all(torch.equal(own.weight, layer.weight) for own, layer in zip(other.locator.layers, network.locator.layers))
