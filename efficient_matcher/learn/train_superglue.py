"""Training of SuperGlue on pairs of views between which it is known what lies where: by a homography, or by depth.

The ground truth is the benchmark's: keypoints that are mutual nearest neighbours within a few pixels
match, those with no neighbour near belong to the dustbin, and those between are left out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from efficient_matcher.learn.compute import Compute
from efficient_matcher.learn.keypoints import inside, warp_points
from efficient_matcher.learn.recipe import setting
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig, normalize_keypoints
from efficient_matcher.learn.training import Loop, LoopConfig
from efficient_matcher.learn.transport import sinkhorn
from efficient_matcher.learn.views import ViewConfig, ViewSet

COMPACT = SuperGlueConfig(descriptor_dim=128, keypoint_encoder=(32, 64, 128), layers=4, heads=4, residual_init=True)


@dataclass(frozen=True)
class SuperGlueTraining:
    """Everything a run depends on besides its views."""

    network: SuperGlueConfig = COMPACT
    views: ViewConfig = ViewConfig()
    loop: LoopConfig = LoopConfig(steps=2000, learning_rate=1e-4, warmup_steps=100)
    pairs: int = setting(8, minimum=1)  # per step and process, at first
    keypoints: int = setting(256, minimum=8)  # at first: twice as many pairs in the same time
    all_keypoints_from: float = setting(0.7, minimum=0.0, maximum=1.0)  # share of the run after which all keypoints of a view take part
    pairs_then: int = setting(4, minimum=1)
    match_px: float = setting(3.0, minimum=0.0)
    no_match_px: float = setting(4.0, minimum=0.0)  # a keypoint without a neighbour this near belongs to the dustbin
    transport_iterations: int = setting(20, minimum=2)
    early_weight: float = setting(0.4, minimum=0.0)  # of the assignment after an earlier pair of layers, so that easy images can stop there
    unmatched_weight: float = setting(0.7, minimum=0.0)  # a missed match costs a tracker more than one that the robust fit drops


def train_superglue(
    views: ViewSet, config: SuperGlueTraining, folder: Path, start: SuperGlue | None = None,
    scenes: PairSource | None = None, scenes_share: float = 0.0, compute: Compute = Compute(), views_of: str = "",
) -> tuple[SuperGlue, float]:
    """Train (or go on training) in `folder`; returns the averaged network and the hours spent.

    start: a trained network to begin with, instead of a fresh one. scenes: where `scenes_share` of the pairs come
    from; their views are of the same size. views_of: `views.features_key` of the views, to which a run keeps. Raises
    TrainingError as `Loop` does.
    """
    torch.manual_seed(config.loop.seed)
    network = start.train() if start is not None else SuperGlue(config.network)
    network.to(compute.device)
    mixture = {} if scenes is None else {"scenes_share": scenes_share, "scenes": len(scenes)}
    loop = Loop(network, config.loop, folder, {"kind": "superglue", **asdict(config), **mixture, "views_of": views_of,
                                               **compute.description})
    size = (config.views.width, config.views.height)
    loop.resume()

    def step(batch_index: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([config.loop.seed, batch_index])
        late = loop.step >= config.all_keypoints_from * config.loop.steps
        count = views.keypoints.shape[2] if late else config.keypoints
        pairs = config.pairs_then if late else config.pairs
        batch = compute.moved(mixed_pairs(views, scenes, scenes_share, pairs, count, size, rng))
        return superglue_loss(network, batch, config, compute.run(batch_tokens, network, batch, size))

    return loop.run(step).cpu(), loop.seconds / 3600


@dataclass(frozen=True)
class Moved:
    """Where keypoints 0 lie in view 1, however that is known.

    ahead: [B,N,2] px. seen0: [B,N], visible in view 1; seen1: [B,M], keypoints 1 visible in view 0. sure0 [B,N],
    sure1 [B,M]: False where a keypoint without a match says nothing, as its own place in the other view is in doubt.
    """

    ahead: Tensor
    seen0: Tensor
    seen1: Tensor
    sure0: Tensor
    sure1: Tensor


class PairSource(Protocol):
    """Views other than warped images: gives pairs of them with where the keypoints moved; as long as it has scenes."""

    def __len__(self) -> int: ...

    def draw(self, pairs: int, keypoints: int, rng: np.random.Generator) -> MatchBatch: ...


@dataclass(frozen=True)
class MatchBatch:
    """Keypoints [B,N,2] px, scores [B,N] and descriptors [B,N,D] of two views.

    H_0to1: [B,3,3], or None where `moved` tells what lies where.
    """

    keypoints0: Tensor
    scores0: Tensor
    descriptors0: Tensor
    keypoints1: Tensor
    scores1: Tensor
    descriptors1: Tensor
    H_0to1: Tensor | None
    moved: Moved | None = None


def draw_pairs(views: ViewSet, pairs: int, keypoints: int, rng: np.random.Generator) -> MatchBatch:
    """Random pairs of views with their best keypoints; the first view is one nearly as taken."""
    image = torch.from_numpy(rng.integers(0, len(views.H), pairs))
    first = torch.from_numpy(rng.integers(0, 2, pairs))
    second = (first + torch.from_numpy(rng.integers(1, views.H.shape[1], pairs))) % views.H.shape[1]
    if rng.random() < 0.5:
        first, second = second, first

    def side(view: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        chosen = (image, view, slice(keypoints))
        return views.keypoints[chosen], views.scores[chosen], views.descriptors[chosen].float()

    H_0to1 = views.H[image, second] @ torch.linalg.inv(views.H[image, first])
    return MatchBatch(*side(first), *side(second), H_0to1)


def batch_tokens(network: SuperGlue, batch: MatchBatch, size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    """The network's tokens after each pair of layers; size is the views' (width, height)."""
    return network.tokens(normalize_keypoints(batch.keypoints0, *size), batch.scores0, batch.descriptors0,
                          normalize_keypoints(batch.keypoints1, *size), batch.scores1, batch.descriptors1)


def superglue_loss(
    network: SuperGlue, batch: MatchBatch, config: SuperGlueTraining,
    tokens: list[tuple[Tensor, Tensor]] | None = None, assigned: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Negative log-likelihood of the true assignment (SuperGlue, equation 10), and figures for the log.

    The two kinds weigh 1 and `unmatched_weight` however many keypoints there are of each. Besides the last
    pair of layers one random earlier pair is asked for its assignment. tokens: of the batch, and assigned: the
    assignment after the last pair, where they are known.
    """
    size = (config.views.width, config.views.height)
    tokens = tokens or batch_tokens(network, batch, size)
    truth = ground_truth(batch, config.match_px, config.no_match_px, size)
    assigned = assignment(network, tokens[-1], config) if assigned is None else assigned
    loss, figures = _assignment_loss(assigned, truth, config)
    if len(tokens) > 1 and config.early_weight:
        early = int(torch.randint(len(tokens) - 1, ()))
        early_loss, _ = _assignment_loss(assignment(network, tokens[early], config), truth, config)
        loss = loss + config.early_weight * early_loss
        figures["early"] = early_loss.item()
    return loss, figures


def assignment(network: SuperGlue, tokens: tuple[Tensor, Tensor], config: SuperGlueTraining) -> Tensor:
    """Log assignment [B,N+1,M+1] of the tokens after a pair of layers."""
    return sinkhorn(network.similarity(*tokens), network.bin_score, config.transport_iterations)


def _assignment_loss(
    assigned: Tensor, truth: tuple[Tensor, Tensor, Tensor], config: SuperGlueTraining
) -> tuple[Tensor, dict[str, float]]:
    matched, alone0, alone1 = truth
    inner = assigned[:, :-1, :-1]
    match_loss = -inner[matched].sum() / matched.sum().clamp(min=1)
    alone = torch.cat([assigned[:, :-1, -1][alone0], assigned[:, -1, :-1][alone1]])
    alone_loss = -alone.sum() / max(1, len(alone))
    precision, recall = _precision_recall(inner.detach(), matched)
    return match_loss + config.unmatched_weight * alone_loss, {
        "match": match_loss.item(), "unmatched": alone_loss.item(), "precision": precision, "recall": recall}


def ground_truth(
    batch: MatchBatch, match_px: float, no_match_px: float, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """True matches [B,N,M] and keypoints that have none, [B,N] and [B,M]; size is the views' (width, height)."""
    moved = batch.moved or moved_by_homography(batch, size)
    seen = moved.seen0[:, :, None] & moved.seen1[:, None, :]
    distance = torch.cdist(moved.ahead, batch.keypoints1).masked_fill(~seen, 1e6)
    nearest0, nearest1 = distance.amin(2, keepdim=True), distance.amin(1, keepdim=True)
    matched = (distance == nearest0) & (distance == nearest1) & (distance < match_px)
    return matched, (nearest0[..., 0] > no_match_px) & moved.sure0, (nearest1[:, 0] > no_match_px) & moved.sure1


def moved_by_homography(batch: MatchBatch, size: tuple[int, int]) -> Moved:
    """Where keypoints lie by H_0to1, in views of `size` (width, height); all of it is sure."""
    ahead = warp_points(batch.keypoints0, batch.H_0to1)
    backward = warp_points(batch.keypoints1, torch.linalg.inv(batch.H_0to1))
    seen0, seen1 = inside(ahead, *size, 0), inside(backward, *size, 0)
    return Moved(ahead, seen0, seen1, torch.ones_like(seen0), torch.ones_like(seen1))


def mixed_pairs(views: ViewSet, scenes: PairSource | None, share: float, pairs: int, keypoints: int,
                size: tuple[int, int], rng: np.random.Generator) -> MatchBatch:
    """Pairs of warped images, each replaced by one of `scenes` with probability `share`."""
    from_scenes = int(rng.binomial(pairs, share)) if scenes is not None else 0
    parts = []
    if from_scenes < pairs:
        parts.append(draw_pairs(views, pairs - from_scenes, keypoints, rng))
    if scenes is not None and from_scenes:
        parts.append(scenes.draw(from_scenes, keypoints, rng))
    return parts[0] if len(parts) == 1 else _joined(parts, size)


def _joined(parts: list[MatchBatch], size: tuple[int, int]) -> MatchBatch:
    moved = [part.moved or moved_by_homography(part, size) for part in parts]
    joined = Moved(*(torch.cat([getattr(entry, f.name) for entry in moved]) for f in fields(Moved)))
    names = [f.name for f in fields(MatchBatch) if f.name not in ("H_0to1", "moved")]
    return MatchBatch(*(torch.cat([getattr(part, name) for part in parts]) for name in names), None, joined)


def _precision_recall(inner: Tensor, matched: Tensor, threshold: float = 0.2) -> tuple[float, float]:
    best = (inner == inner.amax(2, keepdim=True)) & (inner == inner.amax(1, keepdim=True))
    predicted = best & (inner.exp() > threshold)
    correct = (predicted & matched).sum()
    return (correct / predicted.sum().clamp(min=1)).item(), (correct / matched.sum().clamp(min=1)).item()
