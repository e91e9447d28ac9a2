"""Fine-grained pruning by hand-made weights, schedules, and masks that an optimizer cannot move."""

from __future__ import annotations

import pytest
import torch
from efficient_matcher.errors import RecipeError
from efficient_matcher.learn.prune import (
    MagnitudePruning, Masks, Ramp, nonzero_parameters, prune_magnitude, sparsity)
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig
from torch import nn


def by_hand() -> nn.Sequential:
    network = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 1, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, -2, 3, -4]).view(4, 1, 1, 1))
        network[1].weight.copy_(torch.tensor([0.1, 5, -6, 0.2]).view(1, 4, 1, 1))
    return network


def test_a_ratio_of_each_layer_and_one_of_all_together() -> None:
    network = by_hand()
    assert prune_magnitude(network, MagnitudePruning(0.5)) == {"0": 0.5, "1": 0.5}
    assert [layer.weight.flatten().tolist() for layer in network] == [[0, 0, 3, -4], [0, 5, -6, 0]]
    network = by_hand()
    prune_magnitude(network, MagnitudePruning(0.375, "global"))
    assert network[0].weight.flatten().tolist() == [0, -2, 3, -4] and nonzero_parameters(network) == 5


def test_a_named_layer_keeps_to_its_own_ratio() -> None:
    network = by_hand()
    assert prune_magnitude(network, MagnitudePruning(0.5, "global", {"0": 0.0})) == {"0": 0.0, "1": 0.5}
    glue = SuperGlue(SuperGlueConfig(8, (4,), layers=1, heads=2))
    shares = prune_magnitude(glue, MagnitudePruning(0.0, "layer", {"gnn.*": 0.5, "*.attn.merge": 0.25}))
    assert shares["gnn.layers.1.mlp.0"] == 0.5 and shares["gnn.layers.0.attn.merge"] == 0.25
    assert shares["final_proj"] == 0.0


def test_the_layout_of_a_weight_does_not_matter() -> None:
    layer = nn.Sequential(nn.Conv2d(4, 6, 3)).to(memory_format=torch.channels_last)
    assert prune_magnitude(layer, MagnitudePruning(0.5)) == {"0": 0.5}


def test_the_published_extractor_has_no_location_branch() -> None:
    recipe = MagnitudePruning(0.5, "layer", {"location.*": 0.0})
    small = SuperPoint(SuperPointConfig((4,) * 8, 4, 4, 8, location_width=0))
    assert set(prune_magnitude(small, recipe).values()) == {0.5}
    with pytest.raises(RecipeError, match="unknown layer 'location"):
        prune_magnitude(by_hand(), recipe)


@pytest.mark.parametrize("recipe, message", [
    (MagnitudePruning(0.5, "layer", {"conv9": 0.5}), "unknown layer 'conv9' .known: 0, 1"),
    (MagnitudePruning(0.95), "0: all its 4 weights would go"),
    (MagnitudePruning(0.9, "global", {"1": 0.9}), "all its 4 weights would go")])
def test_a_recipe_that_cannot_be_changes_nothing(recipe: MagnitudePruning, message: str) -> None:
    network = by_hand()
    with pytest.raises(RecipeError, match=message):
        prune_magnitude(network, recipe)
    assert nonzero_parameters(network) == 8


def test_schedules() -> None:
    cubic = Ramp(0.9, start=0.0, end=0.5, every=10)
    assert [cubic.share(step, 100) for step in (0, 9, 50, 99)] == [0.0, 0.0, 1.0, 1.0]
    assert Ramp(0.9, end=0.5, every=40).share(60, 100) == 1.0  # however far apart the prunings are
    assert cubic.share(25, 100) == pytest.approx(1 - 0.6 ** 3)
    rounds = Ramp(0.9, schedule="rounds", start=0.2, end=0.6, rounds=2)
    assert [rounds.share(step, 100) for step in (19, 20, 39, 41, 99)] == [0.0, 0.5, 0.5, 1.0, 1.0]
    with pytest.raises(ValueError, match="end 0.1 must be after start 0.2"):
        Ramp(0.5, start=0.2, end=0.1)


def test_zeros_stay_zero_through_an_optimizer_with_momentum() -> None:
    network = by_hand()
    masks = Masks(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        network(torch.ones(1, 1, 1, 1)).square().sum().backward()
        optimizer.step()
    step()
    prune_magnitude(network, MagnitudePruning(0.5))
    masks.renew()
    zeros = [layer.weight == 0 for layer in network]
    for _ in range(3):
        masks.hold()
        step()
    masks.hold()
    assert sparsity(network) == {"0": 0.5, "1": 0.5}
    assert all(torch.equal(layer.weight == 0, zero) for layer, zero in zip(network, zeros))
