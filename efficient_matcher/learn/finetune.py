"""Finetuning of pruned or narrowed networks, alone or distilled from the dense ones.

A run is a folder, as in `training.py`: resumed where it stopped, the same for the same seed. The student begins as
the given weights, made narrower if the recipe says so; zeros of a pruned network stay zeros.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from efficient_matcher.errors import RecipeError
from efficient_matcher.learn.channels import Network, narrow
from efficient_matcher.learn.cluster import SharedValues
from efficient_matcher.learn.compute import Compute
from efficient_matcher.learn.data import ImageSet, PairBatch, PairConfig
from efficient_matcher.learn.distill import ExtractorDistillation, extractor_distillation
from efficient_matcher.learn.finetune_recipes import SuperPointFinetuning
from efficient_matcher.learn.prune import Masks, Ramp, prune_magnitude, sparsity, stored_weight, weight_layers
from efficient_matcher.learn.quantization_aware import as_deployed, unrounded
from efficient_matcher.learn.recipe import to_mapping
from efficient_matcher.learn.scene_pairs import ScenePairSet, mixed_batch
from efficient_matcher.learn.stem import with_fewer_layers, with_half_stem
from efficient_matcher.learn.superpoint import SuperPoint
from efficient_matcher.learn.train_superpoint import Learner, SuperPointTraining, superpoint_loss
from efficient_matcher.learn.training import Constraint, Loop
from efficient_matcher.learn.weights import fingerprint
from efficient_matcher.learn.widen import widened

Labels = Sequence[NDArray[np.float32]]


def finetune_superpoint(
    start: SuperPoint, images: ImageSet, labels: Labels | None, recipe: SuperPointFinetuning, folder: Path,
    teacher: SuperPoint | None = None, compute: Compute = Compute(), scenes: ScenePairSet | None = None,
) -> tuple[SuperPoint, float]:
    """Finetune (or go on) in `folder`; returns the averaged network and the hours spent.

    labels: of each image, as `data.label_images` makes them; not needed with `task` 0. scenes: where `scenes_share` of
    the pairs come from. Raises PruneError, RecipeError and, as `Loop` does, TrainingError.
    """
    torch.manual_seed(recipe.loop.seed)
    student = rebuilt(start, recipe)
    if recipe.rounded_bits:
        student = as_deployed(student, images.images, recipe.rounded_bits)
    begun = copy.deepcopy(student)
    config = extractor_training(student, recipe.pairs)
    learner = Learner(student.train(), config.descriptor_scale).to(compute.device, memory_format=torch.channels_last)
    teacher = teacher.to(compute.device) if teacher is not None else None
    pruning = Pruning([(student, recipe.prune)], recipe)
    labels = labels if labels is not None else no_labels(images)
    loop = begun_loop(learner, recipe, "superpoint", folder, [start], [teacher], compute, pruning, images)

    def step(batch_index: int) -> tuple[Tensor, dict[str, float]]:
        batch = compute.moved(mixed_batch(images, labels, scenes, recipe.scenes_share, recipe.pairs, recipe.loop.seed,
                                          batch_index, with_clean=teacher is not None))
        outputs = compute.run(student, batch.images.contiguous(memory_format=torch.channels_last))
        taught = None if teacher is None else compute.run(answers, teacher, batch.clean)
        return extractor_loss(learner, batch, outputs, config, loop.step / recipe.loop.steps, recipe.task, taught,
                              recipe.distill)

    averaged = loop.run(step)
    pruning.given_to([averaged.network])
    network = unrounded(averaged.network.cpu()) if recipe.rounded_bits else averaged.network.eval().cpu()
    return (mixed(begun, network, recipe.start_share) if recipe.start_share else network), loop.seconds / 3600


def rebuilt(start: SuperPoint, recipe: SuperPointFinetuning) -> SuperPoint:
    """The network that a recipe trains, with what it takes over of `start`. Raises PruneError, RecipeError."""
    seed = recipe.loop.seed
    student = widened(start, recipe.wider, seed) if recipe.wider else start
    student = narrow(student, recipe.sizes, recipe.criterion, seed) if recipe.sizes else student
    if recipe.half_stem and (recipe.stem_width or not student.config.half_stem):
        student = with_half_stem(student, seed, recipe.stem_width)
    if recipe.without or recipe.direct_location:
        if not student.config.half_stem:
            raise RecipeError("without and direct_location are for a half stem; set half_stem as well")
        student = with_fewer_layers(student, recipe.without, recipe.direct_location, seed)
    return student


def extractor_training(student: SuperPoint, pairs: PairConfig) -> SuperPointTraining:
    """The settings of training whose losses finetuning goes on with."""
    return replace(SuperPointTraining().going_on(student.config), pairs=pairs)


def extractor_loss(
    learner: Learner, batch: PairBatch, outputs: tuple[Tensor, Tensor], config: SuperPointTraining, progress: float,
    task: float, taught: tuple[Tensor, Tensor] | None, distill: ExtractorDistillation,
) -> tuple[Tensor, dict[str, float]]:
    """`task` times the losses of training plus the distillation; and the parts for the log.

    taught: what the teacher answers to `batch.clean`.
    """
    total, parts = outputs[0].sum() * 0, {}
    if task:
        loss, parts = superpoint_loss(learner, batch, config, progress, outputs)
        total = total + task * loss
    if taught is not None and distill:
        loss, distilled = extractor_distillation(outputs, taught, distill)
        total, parts = total + loss, {**parts, **distilled}
    return total, parts


@torch.no_grad()
def mixed(begun: SuperPoint, finetuned: SuperPoint, share: float) -> SuperPoint:
    """`finetuned` with `share` of the weights of what it was made of (Wortsman et al., "Robust fine-tuning of
    zero-shot models", 2022): between the two lies what is good at both, what was learned before and what is new."""
    before = begun.state_dict()
    finetuned.load_state_dict({name: torch.lerp(value, before[name], share) if value.is_floating_point() else value
                               for name, value in finetuned.state_dict().items()})
    return finetuned


@torch.no_grad()
def answers(teacher: SuperPoint, images: Tensor) -> tuple[Tensor, Tensor]:
    """What a teacher says of images [B,1,H,W]: logits and coarse descriptors, without gradient."""
    return teacher.eval()(images.contiguous(memory_format=torch.channels_last))


def no_labels(images: ImageSet) -> Labels:
    """Empty labels, where no loss reads them."""
    return [np.zeros((0, 3), np.float32)] * len(images)


def check_zeros(parts: list[tuple[Network, Ramp | None]], recipe: Any) -> None:
    """Raise RecipeError when zeros are to change places and neither the weights nor a ramp of the recipe have any."""
    if recipe.regrow and not any(ramp or max(sparsity(network).values()) for network, ramp in parts):
        raise RecipeError("regrow: the weights to begin with have no zeros that could change places; prune them, "
                          "first or by this recipe")


class Pruning(Constraint):
    """Masks and ramps of the networks of one run."""

    def __init__(self, parts: list[tuple[Network, Ramp | None]], recipe: Any) -> None:
        """parts: the networks that learn, by a recipe of this module, which says whether zeros and equal values that are
        there at the start stay so. Raises RecipeError when zeros are to change places and there are none."""
        self._shared = [SharedValues(network) for network, _ in parts] if recipe.keep_codebooks else []
        self._parts, self._steps, self._regrowth = parts, recipe.loop.steps, recipe.regrow
        self._masks = [Masks(network, self._regrowth is not None) if recipe.keep_zeros or ramp is not None else None
                       for network, ramp in parts]
        self._shares = [0.0] * len(parts)
        check_zeros(parts, recipe)

    def begin(self) -> None:
        """The zeros of now are the ones to hold."""
        for masks in filter(None, self._masks):
            masks.renew()

    def before(self, step: int) -> None:
        """Prune where the ramp rises, then let zeros change places."""
        for i, ((network, ramp), masks) in enumerate(zip(self._parts, self._masks)):
            if ramp is None or masks is None or (share := ramp.share(step, self._steps)) == self._shares[i]:
                continue
            prune_magnitude(network, ramp, share)
            masks.renew()
            self._shares[i] = share
        if self._regrowth and (moving := self._regrowth.share_at(step, self._steps)):
            for masks in filter(None, self._masks):
                masks.regrow(moving, self._regrowth.more_at(step))

    def on_gradients(self) -> None:
        """Zeros have no gradient."""
        for masks in filter(None, self._masks):
            masks.mask_gradients()

    def state(self) -> dict[str, Any]:
        """How far the ramps are, and the gradients summed up since zeros last changed places."""
        wanted = {"wanted": [masks.wanted for masks in filter(None, self._masks)]} if self._regrowth else {}
        return {"shares": self._shares, **wanted}

    def resume(self, state: dict[str, Any]) -> None:
        """See `state`."""
        self._shares = list(state.get("shares", self._shares))
        for masks, wanted in zip(filter(None, self._masks), state.get("wanted", [])):
            for own, saved in zip(masks.wanted, wanted):
                own.copy_(saved)

    def after(self) -> None:
        """Set to zero again what the optimizer's momentum moved."""
        for masks in filter(None, self._masks):
            masks.hold()

    def given_to(self, networks: list[nn.Module]) -> None:
        """Give other networks of the same build the zeros: averages still remember what was pruned late."""
        for shared, other in zip(self._shared, networks):
            shared.hold(other)
        for (own, _), masks, other in zip(self._parts, self._masks, networks):
            if masks is None:
                continue
            with torch.no_grad():
                for layer, target in zip(weight_layers(own).values(), weight_layers(other).values()):
                    stored_weight(target).mul_(stored_weight(layer) != 0)


def begun_loop(model: nn.Module, recipe: Any, what: str, folder: Path, starts: list[Network],
               teachers: list[Network | None], compute: Compute, pruning: Pruning, images: ImageSet | None) -> Loop:
    """The loop of a finetuning run, resumed if its folder holds one of the same recipe, weights and images."""
    seen = {} if images is None else {"images": images.key}
    loop = Loop(model, recipe.loop, folder, {
        "kind": f"finetune {what}", **to_mapping(recipe), **seen, "start": [fingerprint(network) for network in starts],
        "teacher": [fingerprint(network) for network in teachers if network is not None],
        **compute.description}, pruning)
    loop.resume()
    return loop
