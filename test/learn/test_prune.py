"""Fine-grained pruning by hand-made weights, schedules, and masks that an optimizer cannot move."""

from __future__ import annotations

import pytest
import torch
from efficient_matcher.errors import RecipeError
from efficient_matcher.learn.prune import (
    MagnitudePruning, Masks, Ramp, Regrowth, nonzero_parameters, prune_magnitude, sparsity)
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
        masks.mask_gradients()
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


def test_zeros_go_where_gradients_are_largest_and_come_from_the_least_weights() -> None:
    network = nn.Sequential(nn.Conv2d(1, 6, 1, bias=False))
    weight = network[0].weight
    with torch.no_grad():
        weight.copy_(torch.tensor([4.0, -0.5, 3, 0, 0, 0]).view(6, 1, 1, 1))
    masks = Masks(network, collect=True)
    for gradient in ([9.0, 9, 9, 1, -1, 2], [9.0, 9, 9, 1, -1, -2]):  # the last one's cancel out
        weight.grad = torch.tensor(gradient).view(6, 1, 1, 1)
        masks.mask_gradients()
        assert weight.grad.flatten().tolist()[3:] == [0, 0, 0]
    with torch.no_grad():
        masks.wanted[0][4] *= 1.5
    masks.regrow(0.34)  # one of three
    assert weight.flatten().tolist() == [4, 0, 3, 0, pytest.approx(1e-6), 0]  # against its gradient
    weight.grad = torch.ones_like(weight)
    masks.mask_gradients()
    assert weight.grad.flatten().tolist() == [1, 0, 1, 0, 1, 0]
    assert masks.wanted[0].flatten().tolist() == [1] * 6  # counted anew


def test_how_many_zeros_change_places() -> None:
    regrowth = Regrowth(0.4, every=10, until=0.5)
    assert [regrowth.share_at(step, 100) for step in (0, 5, 60, 90)] == [0, 0, 0, 0]
    assert regrowth.share_at(20, 80) == pytest.approx(0.2) and regrowth.share_at(40, 80) == pytest.approx(0)
    assert [Regrowth(every=10, more=0.3).more_at(step) for step in (0, 10, 20)] == [0, 0.3, 0]


def test_more_weights_can_return_than_leave() -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([4.0, 3, 2, 1, 0, 0, 0, 0]).view(8, 1, 1, 1))
    masks = Masks(network, collect=True)
    masks.wanted[0].copy_(torch.tensor([0.0, 0, 0, 0, 1, 4, 3, 2]).view(8, 1, 1, 1))
    masks.regrow(0.25, 0.5)  # one of four leaves, three return
    assert (network[0].weight.flatten() != 0).tolist() == [True, True, True, False, False, True, True, True]
    masks.regrow(0.0, 9.0)
    assert bool((network[0].weight != 0).all())  # there are no more


def test_what_is_dense_and_what_is_laid_out_otherwise_regrow_too() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3), nn.Conv2d(1, 4, 3)).to(
        memory_format=torch.channels_last)
    prune_magnitude(network, MagnitudePruning(0.6, "layer", {"1": 0.0}))
    masks = Masks(network, collect=True)
    before = [layer.weight.detach().clone() for layer in network]
    for wanted in masks.wanted:
        wanted.copy_(torch.randn_like(wanted))
    masks.regrow(0.5)
    assert torch.equal(network[1].weight, before[1]) and sparsity(network)["0"] == pytest.approx(0.6, abs=0.01)
    assert int(((network[0].weight != 0) & (before[0] == 0)).sum()) == 27  # half of 54
    assert int(((network[2].weight != 0) & (before[2] == 0)).sum()) == 7  # half of 14: one channel has both layouts
