"""Structured pruning: what is left computes what it did, and the tensors are really smaller."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from efficient_matcher.learn.channels import PruneError, importances, narrow, narrow_pair, sizes
from efficient_matcher.learn.data import ImageSet
from efficient_matcher.learn.export import extractor_parity, matcher_parity
from efficient_matcher.learn.extractor_graph import extractor_model
from efficient_matcher.learn.matcher_graph import matcher_model
from efficient_matcher.learn.principal import narrow_principal
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig
from efficient_matcher.learn.weights import load_superglue, load_superpoint, save_weights


def extractor() -> SuperPoint:
    torch.manual_seed(0)
    return SuperPoint(SuperPointConfig((8,) * 8, 12, 10, 16, batch_norm=True, location_width=6)).eval()


def matcher() -> SuperGlue:
    torch.manual_seed(0)
    return SuperGlue(SuperGlueConfig(16, (8, 12), layers=2, heads=4)).eval()


def features(dim: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    parts = [torch.rand(1, n, w, generator=generator) for n in (7, 9) for w in (2, 1, dim)]
    return [part[..., 0] if part.shape[-1] == 1 else part for part in parts]


def test_channels_that_do_nothing_leave_without_a_trace() -> None:
    network = extractor()
    image = torch.rand(1, 1, 32, 40)
    with torch.no_grad():
        for name in ("1b", "3a", "Da"):  # of these, nothing after them reads the first four channels
            for layer in {"1b": ("conv2a", "location.full"), "3a": ("conv3b",), "Da": ("convDb",)}[name]:
                network.get_submodule(layer).weight[:, :4] = 0
            network.get_submodule(f"conv{name}").weight[:4] *= 1e-3
        expected = network(image)
        small = narrow(network, {"1b": 4, "3a": 4, "Da": 6})
        assert small.config.widths == (8, 4, 8, 8, 4, 8, 8, 8) and small.config.descriptor_width == 6
        assert small.conv2a.weight.shape == (8, 4, 3, 3) and small.location.full.weight.shape == (1, 4, 3, 3)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(small(image), expected))
    assert network.config.widths == (8,) * 8  # the network itself is left alone


def test_heads_and_hidden_units_that_do_nothing_leave_without_a_trace() -> None:
    network = matcher()
    with torch.no_grad():
        layer = network.gnn.layers[1]
        for module in (*layer.attn.proj,):
            module.weight[2::4] *= 1e-3  # head 2: channels 2, 6, 10, 14
        layer.attn.merge.weight[:, 2::4] = 0
        layer.mlp[0].weight[5:20] *= 1e-3
        layer.mlp[3].weight[:, 5:20] = 0
        expected = network(*features())
        small = narrow(network, {"gnn.1.heads": 3, "gnn.1.hidden": 17})
        assert torch.allclose(small(*features()), expected, atol=1e-5)
    assert small.config.layer_heads == (4, 3, 4, 4) and small.config.layer_hidden == (32, 17, 32, 32)
    assert small.gnn.layers[1].attn.merge.weight.shape == (16, 12, 1)


def test_fewer_keys_leave_every_weight() -> None:
    network = matcher()
    fewer = narrow(network, {"keys": 3})
    assert fewer.config == replace(network.config, keys=3) and network.config.keys == 0
    assert all(torch.equal(own, other) for own, other in zip(fewer.parameters(), network.parameters(), strict=True))
    assert not torch.allclose(fewer(*features()), network(*features()), atol=1e-4)
    assert narrow(fewer, {"keys": 2, "pairs": 1}).config.keys == 2
    with pytest.raises(PruneError, match="keys: 4 is more than the 3 there are"):
        narrow(fewer, {"keys": 4})


def test_a_pair_of_layers_that_adds_nothing_leaves_without_a_trace() -> None:
    network = matcher()
    with torch.no_grad():
        for layer in network.gnn.layers[:2]:
            layer.mlp[-1].weight.zero_()
            layer.mlp[-1].bias.zero_()
        expected = network(*features())
        small = narrow(network, {"pairs": 1, "gnn.1.heads": 4})
    assert len(small.gnn.layers) == 2 and torch.allclose(small(*features()), expected, atol=1e-5)


@pytest.mark.parametrize("criterion", ["frobenius", "taylor", "random"])
def test_what_is_left_is_saved_read_and_exported(tmp_path: Path, criterion: str) -> None:
    networks = extractor(), matcher()
    logits, coarse = networks[0](torch.rand(2, 1, 32, 32))
    (logits.square().sum() + coarse.square().sum() + networks[1](*features()).square().sum()).backward()
    small = narrow(networks[0], {"2a": 3, "location": 2, "Pa": 5}, criterion)
    glue = narrow(networks[1], {"gnn.0.heads": 1, "gnn.3.hidden": 9, "kenc.1": 4}, criterion)
    small, glue = narrow_pair(small, glue, 12, criterion if criterion == "random" else "frobenius")
    save_weights(tmp_path / "a.safetensors", small)
    save_weights(tmp_path / "b.safetensors", glue)
    small, glue = load_superpoint(tmp_path / "a.safetensors"), load_superglue(tmp_path / "b.safetensors")
    assert small.config.location_width == 2 and small.config.descriptor_dim == glue.config.descriptor_dim == 12
    assert glue.config.keypoint_encoder == (8, 4)
    extractor_parity(extractor_model(small), small, ((32, 48),))
    matcher_parity(matcher_model(glue), glue, ((9, 5),))


def test_taylor_keeps_what_the_loss_depends_on() -> None:
    network = extractor()
    with torch.no_grad():
        network.convDa.weight[:5] *= 100  # large, and unused
        network.convDb.weight[:, :5] = 0
    network(torch.rand(1, 1, 32, 32))[1].square().sum().backward()
    used = network.convDb.weight.detach()[:, 5:].clone()
    assert torch.equal(narrow(network, {"Da": 5}, "taylor").convDb.weight.detach(), used)
    assert not torch.equal(narrow(network, {"Da": 5}, "frobenius").convDb.weight.detach(), used)


def test_random_depends_on_its_seed_alone() -> None:
    first, second, other = (narrow(extractor(), {"4b": 4}, "random", seed) for seed in (1, 1, 2))
    assert torch.equal(first.conv4b.weight, second.conv4b.weight)
    assert not torch.equal(first.conv4b.weight, other.conv4b.weight)


@pytest.mark.parametrize("targets, message", [
    ({"5a": 4}, "unknown layer '5a' .known: 1a, 1b"), ({"4a": 0}, "4a: 0 would leave it empty"),
    ({"4a": 9}, "4a: 9 is more than the 8 there are")])
def test_sizes_that_cannot_be_are_named(targets: dict[str, int], message: str) -> None:
    with pytest.raises(PruneError, match=message):
        narrow(extractor(), targets)


def test_other_mistakes_are_one_line() -> None:
    with pytest.raises(PruneError, match="taylor needs gradients"):
        narrow(extractor(), {"4a": 4}, "taylor")
    with pytest.raises(PruneError, match="pairs: 0 would leave it empty"):
        narrow(matcher(), {"pairs": 0})
    with pytest.raises(PruneError, match="descriptor width 0 is not from 1 to 16"):
        narrow_pair(extractor(), matcher(), 0)
    assert sizes(matcher())["gnn.3.heads"] == 4


def test_a_folded_matcher_is_refused() -> None:
    from efficient_matcher.learn.fold import folded
    small = folded(matcher())
    for narrowed in (lambda: narrow(small, {"pairs": 1}), lambda: narrow_pair(extractor(), small, 8),
                     lambda: narrow_principal(extractor(), small, 8, ImageSet([], [], {})), lambda: importances(small)):
        with pytest.raises(PruneError, match="^a folded SuperGlue cannot be narrowed.*prune channels before single"):
            narrowed()
    assert narrow(small, {}).config == small.config  # nothing to be done
