"""Networks as they are deployed: batch norms and the attentions' `merge` are taken over by the layers beside them.

What is done to single weights (zeros, codebooks) must be done to these: folding afterwards multiplies weights with
each other, which fills zeros and breaks codebooks. After folding, each weight of a network is one of the graph, up to
a factor common to its layer. Folded networks can be finetuned as any other, but not be narrowed.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from efficient_matcher.learn.matcher_graph import sorted_heads
from efficient_matcher.learn.onnx_graph import fold_batch_norm
from efficient_matcher.learn.superglue import AttentionalPropagation, SuperGlue
from efficient_matcher.learn.superpoint import SuperPoint
from efficient_matcher.learn.weights import take_what_fits

N = TypeVar("N", SuperPoint, SuperGlue)


def sparse_form(network: N) -> N:
    """The form in which single weights become zero, and stay so when exported: a SuperGlue is folded, since `merge`
    would fill zeros. A SuperPoint's norms only scale its channels, and help finetuning: it is copied as it is."""
    return folded(network) if isinstance(network, SuperGlue) else copy.deepcopy(network)


def folded(network: N) -> N:
    """A folded network in evaluation mode that computes the same, up to rounding; the given one is left alone."""
    if isinstance(network, SuperPoint):
        return _folded_superpoint(network) if network.config.batch_norm else copy.deepcopy(network).eval()
    return copy.deepcopy(network).eval() if network.config.folded else _folded_superglue(network)


@torch.no_grad()
def _folded_superpoint(network: SuperPoint) -> SuperPoint:
    result = SuperPoint(replace(network.config, batch_norm=False)).eval()
    result.load_state_dict({name: value for name, value in network.state_dict().items() if not name.startswith("bn")})
    for name, module in network.named_modules():
        if name.startswith("bn"):
            _set(result, name.replace("bn", "conv"), getattr(network, name.replace("bn", "conv")), module)
    return result


@torch.no_grad()
def _folded_superglue(network: SuperGlue) -> SuperGlue:
    result = SuperGlue(replace(network.config, folded=True)).eval()
    take_what_fits(result, network)
    _fold_norms(network.kenc.encoder, result.kenc.encoder)
    for layer, into in zip(network.gnn.layers, result.gnn.layers):
        _fold_norms(layer.mlp, into.mlp)
        _fold_merge(layer, into)
    return result


def _fold_norms(layers: nn.Sequential, into: nn.Sequential) -> None:
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.BatchNorm1d):
            _set(into, str(index - 1), layers[index - 1], layer)


def _fold_merge(layer: AttentionalPropagation, into: AttentionalPropagation) -> None:
    """The hidden layer reads the heads themselves instead of what `merge` makes of them."""
    *_, merge, _ = sorted_heads(layer.attn)
    dim = layer.mlp[0].weight.shape[1] - layer.attn.merge.bias.numel()
    weight, bias = layer.mlp[0].weight.double()[:, :, 0], layer.mlp[0].bias.double()
    bias = bias + weight[:, dim:] @ layer.attn.merge.bias.double()  # a value's bias stays where it is
    weight, bias = fold_batch_norm(torch.cat([weight[:, :dim], weight[:, dim:] @ merge], dim=1), bias, layer.mlp[1])
    into.mlp[0].weight.copy_(weight[:, :, None])
    into.mlp[0].bias.copy_(bias)


def _set(network: nn.Module, name: str, layer: nn.Module, norm: nn.Module) -> None:
    target = network.get_submodule(name)
    weight, bias = fold_batch_norm(layer.weight, layer.bias, norm)
    if target.weight.shape == weight.shape:  # else `_fold_merge` will
        target.weight.copy_(weight)
        target.bias.copy_(bias)
