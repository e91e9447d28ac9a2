"""Folded networks compute the same, and their weights are those of the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from onnx import numpy_helper  # noqa: E402

from efficient_matcher.learn.extractor_graph import extractor_model  # noqa: E402
from efficient_matcher.learn.fold import folded  # noqa: E402
from efficient_matcher.learn.matcher_graph import matcher_model  # noqa: E402
from efficient_matcher.learn.prune import MagnitudePruning, weight_layers  # noqa: E402
from efficient_matcher.learn.pruning import MagnitudeRecipe, prune_networks  # noqa: E402
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig  # noqa: E402
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig  # noqa: E402

Trained = Callable[[Any], Any]
POINT = SuperPointConfig((4, 4, 8, 8, 8, 8, 16, 16), 8, 8, 16, batch_norm=True, location_width=4)
GLUES = [SuperGlueConfig(16, (8, 16), 2, 4), SuperGlueConfig(16, (8,), 1, 2, head_dim=4, layer_heads=(3, 2),
                                                            layer_hidden=(12, 20)),
         SuperGlueConfig(16, (8,), 1, 2, keys=3)]


def inputs(dim: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, count, *rest, generator=generator) for count in (5, 7) for rest in ((2,), (), (dim,))]


def constants(model: object) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_superpoint_computes_the_same_without_norms(trained: Trained) -> None:
    network = trained(SuperPoint(POINT))
    result = folded(network)
    assert not result.config.batch_norm and network.config.batch_norm
    image = torch.rand(1, 1, 32, 40)
    with torch.no_grad():
        for found, expected in zip(result(image), network(image)):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", GLUES)
def test_superglue_computes_the_same_without_norms_and_merge(trained: Trained, config: SuperGlueConfig) -> None:
    network = trained(SuperGlue(config))
    result = folded(network)
    assert result.config.folded and not any("merge" in name or "running" in name for name in result.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(result(*inputs(16)), network(*inputs(16)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", GLUES)
def test_the_graph_holds_the_folded_weights_themselves(trained: Trained, config: SuperGlueConfig) -> None:
    network = folded(trained(SuperGlue(config)))
    found = constants(matcher_model(network))
    hidden = network.gnn.layers[1].mlp[0].weight[:, :, 0].detach()
    np.testing.assert_array_equal(found["gnn.1.hidden.weight"], hidden.t())
    with torch.no_grad():  # three values, and a factor: three values in the graph
        query = network.gnn.layers[0].attn.proj[0].weight
        query.copy_(torch.tensor([-0.1, 0.0, 0.7])[torch.randint(3, query.shape)])
    assert len(np.unique(constants(matcher_model(network))["gnn.0.query.weight"])) == 3


def test_the_graph_of_a_folded_superpoint_is_that_of_the_original(trained: Trained) -> None:
    network = trained(SuperPoint(POINT))
    found, expected = constants(extractor_model(folded(network))), constants(extractor_model(network))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("config", GLUES)
def test_the_graph_holds_as_many_zeros_as_the_pruned_networks(trained: Trained, config: SuperGlueConfig) -> None:
    recipe = MagnitudeRecipe(superpoint=MagnitudePruning(0.5), superglue=MagnitudePruning(0.8))
    extractor = trained(SuperPoint(replace(POINT, location_width=0)))
    point, glue = prune_networks(extractor, trained(SuperGlue(config)), recipe)
    for model, network in ((extractor_model(point), point), (matcher_model(glue), glue)):
        weights = [value for name, value in constants(model).items() if name.endswith(".weight")]
        zeros = sum(int((layer.weight == 0).sum()) for layer in weight_layers(network).values())
        assert sum(int((value == 0).sum()) for value in weights) == zeros > 0.4 * sum(value.size for value in weights)


def test_folding_twice_changes_nothing(trained: Trained) -> None:
    for network in (trained(SuperPoint(POINT)), trained(SuperGlue(GLUES[0]))):
        once = folded(network)
        twice = folded(once)
        assert twice is not once and twice.config == once.config
        for name, value in once.state_dict().items():
            torch.testing.assert_close(twice.state_dict()[name], value, rtol=0, atol=0)


def test_zeros_of_a_graph_have_no_sign(trained: Trained) -> None:
    network = folded(trained(SuperGlue(GLUES[0])))
    with torch.no_grad():
        network.final_proj.weight.mul_(0)
    final = constants(matcher_model(network))["final.weight"]
    assert not final.any() and not np.signbit(final).any()
