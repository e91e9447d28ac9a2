"""Finetuning through the matcher's loss: of the matcher alone, or of both networks together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from efficient_matcher.learn.channels import narrow
from efficient_matcher.learn.compute import Compute
from efficient_matcher.learn.data import ImageSet, pair_batch
from efficient_matcher.learn.distill import assignment_distillation
from efficient_matcher.learn.finetune import (
    Labels, Pruning, answers, begun_loop, extractor_loss, extractor_training, no_labels)
from efficient_matcher.learn.finetune_recipes import JointFinetuning, SuperGlueFinetuning
from efficient_matcher.learn.fold import sparse_form
from efficient_matcher.learn.keypoints import centroids, sharp_peaks
from efficient_matcher.learn.superglue import SuperGlue
from efficient_matcher.learn.superpoint import SuperPoint, sample_descriptors, score_map
from efficient_matcher.learn.train_superglue import (
    MatchBatch, SuperGlueTraining, assignment, batch_tokens, draw_pairs, superglue_loss)
from efficient_matcher.learn.train_superpoint import Learner
from efficient_matcher.learn.views import ViewConfig, ViewSet

BORDER_PX = 4


class Pair(nn.Module):
    """Both networks as one model, for the joint loop; `extractor` holds the temperature of its descriptor loss."""

    def __init__(self, superpoint: SuperPoint, superglue: SuperGlue, scale: float) -> None:
        super().__init__()
        self.extractor = Learner(superpoint, scale).to(memory_format=torch.channels_last)
        self.matcher = superglue


def finetune_superglue(
    start: SuperGlue, views: ViewSet, recipe: SuperGlueFinetuning, folder: Path, teacher: SuperGlue | None = None,
    compute: Compute = Compute(), extractors: Sequence[SuperPoint] = (), images: ImageSet | None = None,
) -> tuple[SuperGlue, float]:
    """Finetune a matcher (or go on) in `folder` on the features in `views`, which the teacher matches as well.

    extractors, images: those the views are of; a run goes on with the same ones alone. Returns the averaged network and
    the hours spent. Raises PruneError, RecipeError and TrainingError.
    """
    torch.manual_seed(recipe.loop.seed)
    student = narrow(start, recipe.sizes, recipe.criterion, recipe.loop.seed) if recipe.sizes else start
    student = sparse_form(student) if recipe.prune is not None else student
    student = student.train().to(compute.device)
    teacher = teacher.to(compute.device) if teacher is not None else None
    pruning = Pruning([(student, recipe.prune)], recipe)
    config = SuperGlueTraining(network=student.config, views=recipe.views)
    loop = begun_loop(student, recipe, "superglue", folder, [start, *extractors], [teacher], compute, pruning,
                      images)

    def step(batch_index: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([recipe.loop.seed, batch_index])
        batch = compute.moved(draw_pairs(views, recipe.pairs, recipe.keypoints, rng))
        return matching_loss(student, batch, config, recipe.task, teacher, batch, recipe.distill, compute)

    averaged = loop.run(step)
    pruning.given_to([averaged])
    return averaged.eval().cpu(), loop.seconds / 3600


def finetune_both(
    superpoint: SuperPoint, superglue: SuperGlue, images: ImageSet, labels: Labels | None, recipe: JointFinetuning,
    folder: Path, teachers: tuple[SuperPoint, SuperGlue] | None = None,
    compute: Compute = Compute(),
) -> tuple[SuperPoint, SuperGlue, float]:
    """Finetune both networks together (or go on) in `folder`; returns them averaged, and the hours spent.

    labels: as for `finetune_superpoint`. Raises RecipeError and TrainingError.
    """
    torch.manual_seed(recipe.loop.seed)
    superglue = sparse_form(superglue) if recipe.prune_superglue is not None else superglue
    config = extractor_training(superpoint, recipe.pairs)
    pair = Pair(superpoint.train(), superglue.train(), config.descriptor_scale).to(compute.device)
    if recipe.keep_statistics:
        keep_statistics(pair)
    pruning = Pruning([(superpoint, recipe.prune_superpoint), (superglue, recipe.prune_superglue)], recipe)
    views = ViewConfig(width=recipe.pairs.width, height=recipe.pairs.height)
    matching = SuperGlueTraining(network=superglue.config, views=views)
    labels = labels if labels is not None else no_labels(images)
    loop = begun_loop(pair, recipe, "both", folder, [superpoint, superglue], list(teachers or ()), compute, pruning,
                      images)
    dense, dense_matcher = [network.to(compute.device) for network in teachers] if teachers else (None, None)

    def step(batch_index: int) -> tuple[Tensor, dict[str, float]]:
        batch = compute.moved(pair_batch(images, labels, recipe.pairs, recipe.loop.seed, batch_index,
                                         with_clean=dense is not None))
        outputs = compute.run(superpoint, batch.images.contiguous(memory_format=torch.channels_last))
        features = read_features(*outputs, recipe.keypoints)
        taught = None if dense is None else read_features(
            *compute.run(answers, dense, batch.images), recipe.keypoints, features[0])
        loss, parts = matching_loss(
            superglue, as_batch(features, batch.motion.H_0to1), matching, recipe.matching, dense_matcher,
            None if taught is None else as_batch(taught, batch.motion.H_0to1), recipe.distill_matching, compute)
        told = None if dense is None else compute.run(answers, dense, batch.clean)
        own, own_parts = extractor_loss(pair.extractor, batch, outputs, config, loop.step / recipe.loop.steps,
                                        recipe.task, told, recipe.distill)
        return loss + own, {**parts, **own_parts}

    averaged = loop.run(step)
    networks = averaged.extractor.network, averaged.matcher
    pruning.given_to(list(networks))
    return networks[0].eval().cpu(), networks[1].eval().cpu(), loop.seconds / 3600


def keep_statistics(network: nn.Module) -> None:
    """Let its batch norms use, and keep, the means and variances they have; their scales and shifts go on learning."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.eval()


def matching_loss(
    student: SuperGlue, batch: MatchBatch, config: SuperGlueTraining, task: float, teacher: SuperGlue | None,
    taught: MatchBatch | None, distill: float, compute: Compute = Compute(),
) -> tuple[Tensor, dict[str, float]]:
    """`task` times the matcher's loss plus `distill` times the divergence from the teacher's assignments.

    taught: the same keypoints as the teacher's own extractor describes them.
    """
    size = (config.views.width, config.views.height)
    tokens = compute.run(batch_tokens, student, batch, size)
    assigned = assignment(student, tokens[-1], config)
    loss, parts = superglue_loss(student, batch, config, tokens, assigned)
    total = task * loss
    if teacher is not None and taught is not None and distill:
        with torch.no_grad():
            target = assignment(teacher.eval(), compute.run(batch_tokens, teacher, taught, size)[-1], config)
        divergence = assignment_distillation(assigned, target)
        total, parts = total + distill * divergence, {**parts, "distilled_assignment": divergence.item()}
    return total, parts


def read_features(
    logits: Tensor, coarse: Tensor, count: int, points: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Keypoints [B,N,2], scores [B,N] and descriptors [B,N,D], differentiable in all but the choice of pixels.

    points: read there instead of at the network's own keypoints. Where there are fewer than `count`, random places
    fill up, which teach the matcher its dustbin.
    """
    scores = score_map(logits)
    height, width = scores.shape[1:]
    if points is None:
        pixels, found = sharp_peaks(scores, count, border=BORDER_PX)
        high = torch.tensor([width, height], device=pixels.device)
        filler = BORDER_PX + (torch.rand(pixels.shape).to(pixels.device) * (high - 2 * BORDER_PX)).long()
        pixels = torch.where(found[..., None], pixels, filler)
        points = centroids(scores, pixels)
    else:
        pixels = points.detach().round().long()
    x, y = pixels[..., 0].clamp(0, width - 1), pixels[..., 1].clamp(0, height - 1)
    return points, scores.flatten(1).gather(1, y * width + x), sample_descriptors(coarse, points)


def as_batch(features: tuple[Tensor, Tensor, Tensor], H_0to1: Tensor) -> MatchBatch:
    """Features of 2B views, first all views 0, as a batch of pairs."""
    (keypoints0, keypoints1), (scores0, scores1), (own, other) = (part.chunk(2) for part in features)
    return MatchBatch(keypoints0, scores0, own, keypoints1, scores1, other, H_0to1)
