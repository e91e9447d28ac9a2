"""SuperGlue redrawn for torch-pruning: the same weights in plain linear layers, and only which channels meet.

The network applies its weights as matrices cut up by head, which a tracer of modules does not see. The sketch
computes nothing useful: where two tensors must keep the same channels it adds or multiplies them.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig, TokenBatchNorm, TokenLinear


class MatcherSketch(nn.Module):
    """Modules by the names they have in SuperGlue; tokens are [N,C]."""

    def __init__(self, network: SuperGlue) -> None:
        super().__init__()
        twin = copy.deepcopy(network)
        _copy_gradients(network, twin)
        self.kenc, self.gnn, self.final_proj = (_plain(part) for part in (twin.kenc, twin.gnn, twin.final_proj))
        self.register_buffer("bin_score", twin.bin_score.detach().clone())

    def forward(self, keypoints: Tensor, descriptors: Tensor) -> Tensor:
        """Keypoints with scores [N,3], descriptors [N,C] -> [N,C]."""
        x = descriptors + self.kenc.encoder(keypoints)
        for layer in self.gnn.layers:
            query, key, value = (projection(x) for projection in layer.attn.proj)
            message = layer.attn.merge(query * key * value)  # a head leaves all three and the merge
            # the message is as wide as the tokens, by the network's design
            x = x + layer.mlp(torch.cat([x, message + x], dim=-1))
        return self.final_proj(x) * x  # so is the projection


def network_of_sketch(config: SuperGlueConfig, sketch: MatcherSketch, heads: tuple[int, ...]) -> SuperGlue:
    """The SuperGlue of a sketch that was made narrower; heads are those of each layer."""
    layers = sketch.gnn.layers
    dim = sketch.final_proj.out_features
    narrow = replace(
        config, descriptor_dim=dim, layers=len(layers) // 2, residual_init=False,
        keypoint_encoder=tuple(part.out_features for part in sketch.kenc.encoder if isinstance(part, nn.Linear))[:-1],
        head_dim=layers[0].attn.proj[0].out_features // heads[0], layer_heads=heads,
        layer_hidden=tuple(layer.mlp[0].out_features for layer in layers))
    network = SuperGlue(narrow)
    network.load_state_dict({key: value.view(expected.shape) for (key, value), expected
                             in zip(_sorted(sketch), dict(_sorted(network)).values())})
    return network.eval()


def _sorted(module: nn.Module) -> list[tuple[str, Tensor]]:
    return sorted(module.state_dict().items())


def _copy_gradients(source: nn.Module, target: nn.Module) -> None:
    for own, other in zip(target.parameters(), source.parameters()):
        own.grad = None if other.grad is None else other.grad.clone()


def _plain(module: nn.Module) -> nn.Module:
    """The library's own layers in place of ours, recursively."""
    if isinstance(module, TokenLinear):
        outputs, inputs = module.weight.shape[:2]
        layer = nn.Linear(inputs, outputs)
        layer.weight, layer.bias = nn.Parameter(module.weight.detach()[:, :, 0]), nn.Parameter(module.bias.detach())
        if module.weight.grad is not None:
            layer.weight.grad, layer.bias.grad = module.weight.grad[:, :, 0], module.bias.grad
        return layer
    if isinstance(module, TokenBatchNorm):
        layer = nn.BatchNorm1d(module.num_features)
        layer.load_state_dict(module.state_dict())
        _copy_gradients(module, layer)
        return layer
    for name, child in module.named_children():
        setattr(module, name, _plain(child))
    return module
