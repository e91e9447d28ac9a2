"""Descriptors in fewer numbers: what lies in the directions kept stays as it was, and those kept are the longest."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from efficient_matcher.errors import RecipeError
from efficient_matcher.learn.channels import PruneError
from efficient_matcher.learn.data import ImageSet
from efficient_matcher.learn.principal import moments_of, narrow_along, narrow_principal, principal_basis
from efficient_matcher.learn.pruning import ChannelRecipe, prune_networks
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig

WIDE, NARROW = 16, 6


def extractor() -> SuperPoint:
    return SuperPoint(SuperPointConfig((8,) * 8, 8, 8, WIDE)).eval()


def matcher() -> SuperGlue:
    # of a message of two heads of two channels, six directions hold all
    config = SuperGlueConfig(WIDE, (8,), layers=2, heads=2, head_dim=2, layer_heads=(2,) * 4, layer_hidden=(12,) * 4)
    network = SuperGlue(config).eval()
    for parameter in network.parameters():  # biases too, which begin at zero
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def basis_of(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(WIDE, NARROW, dtype=torch.float64, generator=generator))[0].T


@torch.no_grad()
def test_a_pair_within_the_basis_answers_as_before() -> None:
    torch.manual_seed(0)
    basis, wide, network = basis_of(1), matcher(), extractor()
    inside = (basis.T @ basis).float()
    for last in (wide.kenc.encoder[-1], *(layer.mlp[-1] for layer in wide.gnn.layers)):  # all that writes tokens
        last.weight.copy_((inside @ last.weight[:, :, 0])[:, :, None])
        last.bias.copy_(inside @ last.bias)
    small, glue = narrow_along(network, wide, basis)
    assert small.config.descriptor_dim == glue.config.descriptor_dim == NARROW
    assert glue.final_proj.weight.all()  # zeros would be kept by what trains it on
    sides = [(torch.rand(2, count, 2) - 0.5, torch.rand(2, count), torch.randn(2, count, WIDE) @ inside) for count in (9, 7)]
    expected = wide(*sides[0], *sides[1]) - wide.bin_score
    got = glue(*[part @ basis.float().T if part.shape[-1] == WIDE else part for side in sides for part in side])
    assert torch.allclose(got - glue.bin_score, expected, atol=1e-4)
    assert not torch.allclose(glue.bin_score, wide.bin_score, atol=1e-3)  # biases of the projection that all share
    image = torch.rand(1, 1, 32, 40)
    (logits, coarse), (same, turned) = network(image), small(image)
    assert torch.equal(logits, same)
    assert torch.allclose(torch.einsum("dc,bchw->bdhw", basis.float(), coarse), turned, atol=1e-5)


def test_the_basis_holds_what_is_longest() -> None:
    places = torch.diag(torch.tensor([3.0, 0.0, 1.0, 2.0])), 10 * torch.diag(torch.tensor([3.0, 0.0, 1.0, 2.0]))
    moments = moments_of(list(places))
    assert float(moments.trace()) == pytest.approx(1)  # however long the vectors of a place are
    basis, share = principal_basis(moments, 2)
    assert torch.allclose(basis.abs(), torch.eye(4, dtype=torch.float64)[[0, 3]]) and share == pytest.approx(13 / 14)


def test_of_real_outputs_few_components_hold_more_than_channels() -> None:
    rng = np.random.default_rng(0)
    images = ImageSet(["a", "b"], [rng.integers(0, 256, (96, 128)).astype(np.uint8) for _ in range(2)], {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("efficient_matcher.learn.principal.BATCHES", 2)
        torch.manual_seed(0)
        *networks, share = narrow_principal(extractor(), matcher(), NARROW, images)
    assert [network.config.descriptor_dim for network in networks] == [NARROW] * 2
    assert NARROW / WIDE < share < 1


def test_pairs_that_cannot_be_narrowed_are_named() -> None:
    images = ImageSet(["a"], [np.zeros((64, 64), np.uint8)], {})
    with pytest.raises(PruneError, match="descriptor width 17 is not from 1 to 16"):
        narrow_principal(extractor(), matcher(), 17, images)
    other = SuperGlue(SuperGlueConfig(8, (8,), layers=1, heads=2))
    with pytest.raises(PruneError, match="SuperPoint describes in 16 dimensions, SuperGlue reads 8"):
        narrow_principal(extractor(), other, 4, images)
    with pytest.raises(RecipeError, match="^descriptors: both networks are needed"):
        prune_networks(extractor(), None, ChannelRecipe(criterion="principal", descriptors=4), images)
