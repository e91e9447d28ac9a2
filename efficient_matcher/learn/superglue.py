"""SuperGlue: keypoint encoder, alternating self and cross attention, final projection.

Sarlin, DeTone, Malisiewicz, Rabinovich, "SuperGlue: Learning Feature Matching with Graph Neural
Networks", 2020; equation numbers are those of the paper. At its defaults the network is the
published one, key names and weight shapes of the official checkpoints included; the optimal
transport that follows it is in `transport.py`.

Conventions: features are tokens [B,N,C], the best keypoints first. Weights keep the shape [out,in,1]
of the published 1x1 convolutions but are applied as matrix products, which on a CPU are several
times faster. Heads are interleaved as in the published weights: channel = d * heads + h.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# `residual_init`: cosine 1 becomes this similarity, and the dustbin starts where cosine 0.7 would be.
INITIAL_SIMILARITY = 20.0
INITIAL_DUSTBIN_COSINE = 0.7


@dataclass(frozen=True)
class SuperGlueConfig:
    """Sizes of a SuperGlue; the defaults are the published ones (12.02 M parameters)."""

    descriptor_dim: int = 256
    keypoint_encoder: tuple[int, ...] = (32, 64, 128, 256)
    layers: int = 9  # pairs of one self and one cross layer
    heads: int = 4
    residual_init: bool = False  # start as plain descriptor matching instead of at random
    head_dim: int = 0  # channels of a head; 0: descriptor_dim / heads
    layer_heads: tuple[int, ...] = ()  # heads of each of the 2 * layers layers; empty: `heads` in all
    layer_hidden: tuple[int, ...] = ()  # hidden width of each layer's MLP; empty: 2 * descriptor_dim in all
    keys: int = 0  # attention reads only so many of an image's keypoints, the first, which are the best; 0: all
    folded: bool = False  # no batch norms, no `merge`: the layers next to them have taken them over (see fold.py)

    def __post_init__(self) -> None:
        if self.layers < 1 or self.heads < 1 or self.descriptor_dim < 1:
            raise ValueError("layers, heads and descriptor_dim must be at least 1")
        self.layer_sizes()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and model cards."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SuperGlueConfig:
        """Inverse of `to_dict`. Raises TypeError on an unknown field."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})

    def layer_sizes(self) -> list[tuple[int, int, int]]:
        """(heads, channels of a head, hidden width) of each layer. Raises ValueError where they do not fit together."""
        if not self.head_dim and self.descriptor_dim % self.heads:
            raise ValueError(f"descriptor_dim {self.descriptor_dim} is not a multiple of heads {self.heads}")
        count, depth = 2 * self.layers, self.head_dim or self.descriptor_dim // self.heads
        heads, hidden = self.layer_heads or (self.heads,) * count, self.layer_hidden or (2 * self.descriptor_dim,) * count
        if len(heads) != count or len(hidden) != count:
            raise ValueError(f"layer_heads and layer_hidden need {count} entries, got {len(heads)} and {len(hidden)}")
        return [(own_heads, depth, own_hidden) for own_heads, own_hidden in zip(heads, hidden)]


class TokenLinear(nn.Module):
    """A 1x1 convolution over tokens [...,in] -> [...,out], with the weight of a Conv1d [out,in,1]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 1))
        self.bias = nn.Parameter(torch.empty(outputs))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # Conv1d's own initialisation
        nn.init.uniform_(self.bias, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [...,in] -> [...,out]."""
        return F.linear(x, self.weight[:, :, 0], self.bias)


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of tokens [B,N,C]; equals BatchNorm1d on [B,C,N]."""

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B,N,C] -> [B,N,C]."""
        return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)


def mlp(widths: tuple[int, ...], folded: bool = False) -> nn.Sequential:
    """Linear layers between `widths`, each but the last followed by batch norm (unless folded) and ReLU."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths[:-2], widths[1:-1]):
        layers += [TokenLinear(inputs, outputs), nn.Identity() if folded else TokenBatchNorm(outputs), nn.ReLU()]
    layers.append(TokenLinear(widths[-2], widths[-1]))
    nn.init.zeros_(layers[-1].bias)
    return nn.Sequential(*layers)


class KeypointEncoder(nn.Module):
    """Lifts position and detection score into the space of descriptors (equation 2)."""

    def __init__(self, dim: int, widths: tuple[int, ...], folded: bool = False) -> None:
        super().__init__()
        self.encoder = mlp((3, *widths, dim), folded)

    def forward(self, keypoints: Tensor, scores: Tensor) -> Tensor:
        """Normalised keypoints [B,N,2] and scores [B,N] -> [B,N,C]."""
        return self.encoder(torch.cat([keypoints, scores[..., None]], dim=-1))


class MultiHeadedAttention(nn.Module):
    """Message to each token from the tokens of a source (equations 4 and 5)."""

    def __init__(self, dim: int, heads: int, depth: int = 0, folded: bool = False, keys: int = 0) -> None:
        """depth: channels of a head, dim / heads if not given. folded: messages [B,N,heads * depth], head by head.
        keys: of the source's tokens that are read, 0 for all."""
        super().__init__()
        if not depth and dim % heads:
            raise ValueError(f"descriptor_dim {dim} is not a multiple of heads {heads}")
        self.heads, self.keys, depth = heads, keys, depth or dim // heads
        self.merge = None if folded else TokenLinear(heads * depth, dim)
        self.proj = nn.ModuleList(TokenLinear(dim, heads * depth) for _ in range(3))

    def _project(self, layer: TokenLinear, x: Tensor) -> Tensor:
        # Sorting the weight rows by head is far cheaper than gathering interleaved channels of every token.
        batch, count, dim = x.shape
        weight = layer.weight.view(-1, self.heads, dim).transpose(0, 1).reshape(-1, dim)
        bias = layer.bias.view(-1, self.heads).t().reshape(-1)
        return F.linear(x, weight, bias).view(batch, count, self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """Tokens [B,N,C] and their source [B,M,C] -> messages [B,N,C]."""
        source = source[:, :self.keys] if self.keys else source
        query, key, value = (self._project(layer, y) for layer, y in zip(self.proj, (x, source, source)))
        # Plain products: the backward pass of the fused attention is slow on CPUs.
        weights = (query / math.sqrt(query.shape[-1]) @ key.transpose(2, 3)).softmax(dim=-1)
        message = (weights @ value).transpose(1, 2).flatten(2)
        if self.merge is None:
            return message
        merge = self.merge.weight.view(x.shape[-1], -1, self.heads).transpose(1, 2).reshape(x.shape[-1], -1)
        return F.linear(message, merge, self.merge.bias)


class AttentionalPropagation(nn.Module):
    """One layer's update of the tokens from the message (equation 3)."""

    def __init__(self, dim: int, heads: int, depth: int, hidden: int, folded: bool = False, keys: int = 0) -> None:
        super().__init__()
        self.attn = MultiHeadedAttention(dim, heads, depth, folded, keys)
        self.mlp = mlp((dim + (heads * depth if folded else dim), hidden, dim), folded)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """Tokens [B,N,C] and their source [B,M,C] -> what is added to the tokens [B,N,C]."""
        return self.mlp(torch.cat([x, self.attn(x, source)], dim=-1))


class AttentionalGNN(nn.Module):
    """Layers 0, 2, 4.. attend within an image, layers 1, 3, 5.. to the other image."""

    def __init__(self, dim: int, sizes: list[tuple[int, int, int]], folded: bool = False, keys: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(AttentionalPropagation(dim, *own, folded, keys) for own in sizes)

    def forward(self, x0: Tensor, x1: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Tokens [B,N,C], [B,M,C] -> the same shapes, after each pair of a self and a cross layer."""
        if x0.shape == x1.shape:
            return self._forward_together(torch.cat([x0, x1]))
        after = []
        for index, layer in enumerate(self.layers):
            source0, source1 = (x1, x0) if index % 2 else (x0, x1)
            delta0, delta1 = layer(x0, source0), layer(x1, source1)
            x0, x1 = x0 + delta0, x1 + delta1
            after.append((x0, x1))
        return after[1::2]

    def _forward_together(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        # Equal counts, as in training: both images as one batch, half as many kernels.
        after = []
        for index, layer in enumerate(self.layers):
            source = x.roll(x.shape[0] // 2, dims=0) if index % 2 else x
            x = x + layer(x, source)
            after.append(tuple(x.chunk(2)))
        return after[1::2]


class SuperGlue(nn.Module):
    """Two images' features to the similarity of every pair of keypoints."""

    def __init__(self, config: SuperGlueConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SuperGlueConfig()
        self.kenc = KeypointEncoder(config.descriptor_dim, config.keypoint_encoder, config.folded)
        self.gnn = AttentionalGNN(config.descriptor_dim, config.layer_sizes(), config.folded, config.keys)
        self.final_proj = TokenLinear(config.descriptor_dim, config.descriptor_dim)
        self.bin_score = nn.Parameter(torch.tensor(1.0))
        if config.residual_init:
            self._start_as_descriptor_matching()

    @torch.no_grad()
    def _start_as_descriptor_matching(self) -> None:
        """Every residual branch starts at zero, the projection as a scaled identity."""
        for last in (self.kenc.encoder[-1], *(layer.mlp[-1] for layer in self.gnn.layers)):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        scale = math.sqrt(INITIAL_SIMILARITY * math.sqrt(self.config.descriptor_dim))
        self.final_proj.weight.copy_(scale * torch.eye(self.config.descriptor_dim)[:, :, None])
        nn.init.zeros_(self.final_proj.bias)
        self.bin_score.fill_(INITIAL_SIMILARITY * INITIAL_DUSTBIN_COSINE)

    def forward(self, keypoints0: Tensor, scores0: Tensor, descriptors0: Tensor,
                keypoints1: Tensor, scores1: Tensor, descriptors1: Tensor) -> Tensor:
        """Normalised keypoints [B,N,2], scores [B,N], unit descriptors [B,N,D]; the same with M.

        Returns the similarity [B,N,M] (equation 7, divided by sqrt(D)) for `transport.py`.
        """
        return self.similarity(*self.tokens(keypoints0, scores0, descriptors0, keypoints1, scores1, descriptors1)[-1])

    def tokens(self, keypoints0: Tensor, scores0: Tensor, descriptors0: Tensor,
               keypoints1: Tensor, scores1: Tensor, descriptors1: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Tokens [B,N,D] and [B,M,D] after each pair of layers; any of them can be compared by `similarity`."""
        x0 = descriptors0 + self.kenc(keypoints0, scores0)
        x1 = descriptors1 + self.kenc(keypoints1, scores1)
        return self.gnn(x0, x1)

    def similarity(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Tokens [B,N,D], [B,M,D] -> similarity [B,N,M]."""
        projected0, projected1 = self.final_proj(x0), self.final_proj(x1)  # equation 6
        return projected0 @ projected1.transpose(1, 2) / math.sqrt(self.config.descriptor_dim)


def normalize_keypoints(keypoints: Tensor, width: int, height: int) -> Tensor:
    """Pixels [...,2] of a width x height image -> centred, over 0.7 of the longer side."""
    centre = keypoints.new_tensor([width / 2, height / 2])
    return (keypoints - centre) / (0.7 * max(width, height))
