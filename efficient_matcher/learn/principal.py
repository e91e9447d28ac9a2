"""Narrower descriptors by principal components: both networks of a pair, turned so that few channels say most.

All that the matcher reads and adds up lies in one space, that of the descriptors. In the directions in which descriptors
and tokens of real images are longest, few channels hold nearly all of them, and the others can go: Ashkboos et al.,
"SliceGPT", 2024, with one basis for all layers. Any choice among the channels as they lie loses more.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from efficient_matcher.learn.channels import check_descriptors
from efficient_matcher.learn.data import ImageSet, PairConfig, pair_batch
from efficient_matcher.learn.finetune import no_labels
from efficient_matcher.learn.finetune_matching import as_batch, read_features
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig, TokenLinear
from efficient_matcher.learn.superpoint import SuperPoint
from efficient_matcher.learn.train_superglue import batch_tokens
from efficient_matcher.learn.weights import take_what_fits

BATCHES, KEYPOINTS = 24, 400
TINY = 1e-12
VIEWS = PairConfig(width=480, height=360)


def narrow_principal(superpoint: SuperPoint, superglue: SuperGlue, descriptor_dim: int, images: ImageSet,
                     seed: int = 0) -> tuple[SuperPoint, SuperGlue, float]:
    """Copies of both with descriptors of `descriptor_dim` numbers, the principal components of what the two make of warped
    images; and which share of it, by square, they hold. Raises PruneError."""
    check_descriptors(superpoint, superglue, descriptor_dim)
    basis, share = principal_basis(moments_on(superpoint, superglue, images, seed), descriptor_dim)
    return (*narrow_along(superpoint, superglue, basis), share)


@torch.no_grad()
def moments_on(superpoint: SuperPoint, superglue: SuperGlue, images: ImageSet, seed: int) -> Tensor:
    """Second moments [C,C] of the descriptors and of the tokens after each pair of layers, on warped images."""
    superpoint, superglue = superpoint.eval(), superglue.eval()
    total = torch.zeros((superglue.config.descriptor_dim,) * 2, dtype=torch.float64)
    torch.manual_seed(seed)
    for step in range(BATCHES):
        batch = pair_batch(images, no_labels(images), VIEWS, seed, step)
        features = as_batch(read_features(*superpoint(batch.images), KEYPOINTS), batch.motion.H_0to1)
        tokens = batch_tokens(superglue, features, (VIEWS.width, VIEWS.height))
        total += moments_of([torch.cat(both) for both in [(features.descriptors0, features.descriptors1), *tokens]])
    return total / BATCHES


def moments_of(places: list[Tensor]) -> Tensor:
    """Second moments [C,C], float64, of descriptors or tokens [..,C] at some places of a network, each of which counts as
    much; their trace is 1."""
    rows = [values.flatten(0, -2).double() for values in places]
    return torch.stack([own.T @ own / own.square().sum().clamp(min=TINY) for own in rows]).mean(0)


def principal_basis(moments: Tensor, width: int) -> tuple[Tensor, float]:
    """The orthonormal directions [width,C] that hold most of the moments [C,C], most first; and their share of the trace."""
    values, vectors = torch.linalg.eigh(moments)
    return vectors.T.flip(0)[:width].contiguous(), float(values[-width:].sum() / values.sum())


@torch.no_grad()
def narrow_along(superpoint: SuperPoint, superglue: SuperGlue, basis: Tensor) -> tuple[SuperPoint, SuperGlue]:
    """Copies whose descriptors and tokens are the coordinates in `basis` [width,C]."""
    return _extractor(superpoint, basis), _matcher(superglue, basis)


def _extractor(network: SuperPoint, basis: Tensor) -> SuperPoint:
    narrowed = SuperPoint(replace(network.config, descriptor_dim=len(basis)))
    state = dict(network.state_dict())
    weight, bias = state["convDb.weight"], state["convDb.bias"]
    state["convDb.weight"] = (basis @ weight[:, :, 0, 0].double()).to(weight.dtype)[:, :, None, None]
    state["convDb.bias"] = (basis @ bias.double()).to(bias.dtype)
    narrowed.load_state_dict(state)
    return narrowed.eval()


def _matcher(network: SuperGlue, basis: Tensor) -> SuperGlue:
    narrowed = SuperGlue(_config(network.config, len(basis))).eval()
    take_what_fits(narrowed, network)
    _write(narrowed.kenc.encoder[-1], network.kenc.encoder[-1], basis)
    for own, layer in zip(narrowed.gnn.layers, network.gnn.layers):
        for projection, before in zip(own.attn.proj, layer.attn.proj):
            _set(projection, _matrix(before) @ basis.T, before.bias)
        _first_of_mlp(own, layer, basis)
        _write(own.mlp[-1], layer.mlp[-1], basis)
    _projection(narrowed, network, basis)
    return narrowed


def _config(config: SuperGlueConfig, width: int) -> SuperGlueConfig:
    sizes = config.layer_sizes()
    return replace(config, descriptor_dim=width, residual_init=False, head_dim=sizes[0][1],
                   layer_heads=tuple(heads for heads, _, _ in sizes), layer_hidden=tuple(hidden for _, _, hidden in sizes))


def _write(own: TokenLinear, layer: TokenLinear, basis: Tensor) -> None:
    _set(own, basis @ _matrix(layer), basis @ layer.bias.double())


def _first_of_mlp(own: nn.Module, layer: nn.Module, basis: Tensor) -> None:
    """What reads tokens and message, and the merge before it, which the two may write and read in any basis: the best of
    so few directions."""
    weight, merge, width = _matrix(layer.mlp[0]), _matrix(layer.attn.merge), basis.shape[1]
    read, message = weight[:, :width] @ basis.T, weight[:, width:]
    left, values, right = torch.linalg.svd(message @ merge, full_matrices=False)
    kept, count = min(len(basis), len(values)), len(basis)
    root = values[:kept].sqrt()
    reading, writing = message.new_zeros(len(message), count), message.new_zeros(count, merge.shape[1])
    reading[:, :kept], writing[:kept] = left[:, :kept] * root, root[:, None] * right[:kept]
    _set(own.attn.merge, writing, writing.new_zeros(count))
    _set(own.mlp[0], torch.cat([read, reading], 1), layer.mlp[0].bias.double() + message @ layer.attn.merge.bias.double())


def _projection(own: SuperGlue, network: SuperGlue, basis: Tensor) -> None:
    """Similarities stay what they are: only the products of the projected tokens count, and what all of them have in common
    is taken off the dustbin's instead. Of the square matrices with these products the symmetric one, which has no zeros
    that finetuning would keep."""
    columns, bias, width = _matrix(network.final_proj) @ basis.T, network.final_proj.bias.double(), len(basis)
    left, values, right = torch.linalg.svd(columns, full_matrices=False)
    turn, square = left @ right, (right.T * values) @ right
    scale = (width / network.config.descriptor_dim) ** 0.25
    inside = turn.T @ bias
    _set(own.final_proj, scale * square, scale * inside)
    common = (bias.square().sum() - inside.square().sum()) / network.config.descriptor_dim ** 0.5
    own.bin_score.copy_(network.bin_score - common)


def _matrix(layer: TokenLinear) -> Tensor:
    return layer.weight[:, :, 0].double()


def _set(layer: TokenLinear, weight: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weight[:, :, None])
    layer.bias.copy_(bias)
