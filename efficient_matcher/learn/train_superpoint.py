"""Training of SuperPoint on warped pairs of natural images.

First the labels of `labels.py` teach where repeatable points are; once peaks have formed, the
distance between repeated peaks teaches their position to a fraction of a pixel, and the network's
own repeated peaks join the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from efficient_matcher.learn import losses
from efficient_matcher.learn.compute import Compute
from efficient_matcher.learn.data import ImageSet, PairBatch, PairConfig
from efficient_matcher.learn.keypoints import centroids, find_peaks
from efficient_matcher.learn.pair_motion import PairMotion
from efficient_matcher.learn.recipe import setting
from efficient_matcher.learn.scene_pairs import ScenePairSet, mixed_batch
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig, sample_descriptors, score_map
from efficient_matcher.learn.training import Loop, LoopConfig

COMPACT = SuperPointConfig(widths=(16, 16, 32, 32, 48, 48, 96, 96), detector_width=64, descriptor_width=96,
                           descriptor_dim=128, batch_norm=True, location_width=16)


@dataclass(frozen=True)
class SuperPointTraining:
    """Everything a run depends on besides its images."""

    network: SuperPointConfig = COMPACT
    pairs: PairConfig = PairConfig()
    loop: LoopConfig = LoopConfig()
    peaks: int = setting(140, minimum=1)  # per view
    correspondences: int = setting(96, minimum=1)  # per direction
    repeat_px: float = 3.0  # peaks this close under the true warp are one place
    location_weight: float = 1.0
    location_weight_at_end: float = 0.3  # labels are a third of a pixel rough; repeated peaks know better
    descriptor_weight: float = 1.0
    descriptor_scale: float = 14.0  # inverse temperature of the descriptor loss to begin with; it is learned
    reprojection_weight: float = 2.0
    reprojection_from: float = 0.05  # share of the run after which peaks are worth moving
    reprojection_full: float = 0.65
    self_label_from: float = 0.45
    self_label_weight: float = 0.5  # the labels keep the rest
    scenes_share: float = setting(0.0, minimum=0.0, maximum=1.0)  # of the pairs, see scene_pairs.py
    scenes: int = setting(600, minimum=1)  # how many are rendered for that

    def __post_init__(self) -> None:
        if self.reprojection_from >= self.reprojection_full:
            raise ValueError("reprojection_from must be below reprojection_full")

    def going_on(self, network: SuperPointConfig) -> SuperPointTraining:
        """The settings for a trained network: its peaks have formed, so the late weights hold from the start."""
        return replace(self, network=network, location_weight=self.location_weight_at_end, reprojection_from=-1.0,
                       reprojection_full=0.0, self_label_from=0.0, descriptor_scale=40.0,
                       loop=replace(self.loop, learning_rate=1e-3))


class Learner(nn.Module):
    """The network and the learned temperature of its descriptor loss."""

    def __init__(self, network: SuperPoint, scale: float) -> None:
        super().__init__()
        self.network = network
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(scale))))


def train_superpoint(
    images: ImageSet, labels: Sequence[NDArray[np.float32]], config: SuperPointTraining, folder: Path,
    start: SuperPoint | None = None, compute: Compute = Compute(), labelled_by: str = "sift",
    scenes: ScenePairSet | None = None,
) -> tuple[SuperPoint, float]:
    """Train (or go on training) in `folder`; returns the averaged network and the hours spent.

    start: a trained network to begin with, instead of a fresh one. labelled_by: who made the labels; a run keeps to
    it. scenes: where `scenes_share` of the pairs come from. Raises TrainingError as `Loop` does.
    """
    torch.manual_seed(config.loop.seed)
    network = start.train() if start is not None else SuperPoint(config.network)
    learner = Learner(network, config.descriptor_scale).to(compute.device, memory_format=torch.channels_last)
    labelling = {} if labelled_by == "sift" else {"labels": labelled_by}
    loop = Loop(learner, config.loop, folder,
                {"kind": "superpoint", **asdict(config), **labelling, "images": images.key,
                 **compute.description})
    loop.resume()

    def step(batch_index: int) -> tuple[Tensor, dict[str, float]]:
        batch = compute.moved(mixed_batch(images, labels, scenes, config.scenes_share, config.pairs, config.loop.seed,
                                          batch_index))
        outputs = compute.run(learner.network, batch.images.contiguous(memory_format=torch.channels_last))
        return superpoint_loss(learner, batch, config, loop.step / config.loop.steps, outputs)

    averaged = loop.run(step)
    return averaged.network.cpu(), loop.seconds / 3600


def superpoint_loss(
    learner: Learner, batch: PairBatch, config: SuperPointTraining, progress: float,
    outputs: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one batch at `progress` in [0,1) of the run, and its parts for the log.

    outputs: the network's, where they are known already.
    """
    size = (batch.images.shape[3], batch.images.shape[2])
    shape = (len(batch.images), size[1], size[0])
    logits, coarse = outputs or learner.network(batch.images.contiguous(memory_format=torch.channels_last))
    scores = score_map(logits)
    peaks, found = find_peaks(scores, config.peaks)
    (points0, points1), (found0, found1) = centroids(scores, peaks).chunk(2), found.chunk(2)
    partner, visible0, visible1 = losses.repeated_peaks(points0, points1, found0, found1, batch.motion, size,
                                                        config.repeat_px)
    mass = losses.draw_labels(batch.labels, shape, logits.device)
    labelled = None if batch.labelled is None else batch.labelled[:, None, None].expand_as(mass[:, 0])
    detector, location = losses.detector_loss(logits, mass, labelled), losses.location_loss(logits, mass)
    if progress >= config.self_label_from:
        own, counts = losses.self_labels(points0, points1, partner, visible0, visible1, batch.motion, size)
        detector = torch.lerp(detector, losses.detector_loss(logits, own, counts), config.self_label_weight)
        location = torch.lerp(location, losses.location_loss(logits, own), config.self_label_weight)
    reprojection = losses.reprojection_loss(points0, points1, partner, batch.motion)
    descriptor = coarse.sum() * 0
    if config.descriptor_weight:
        descriptor = _descriptor_loss(learner, coarse, points0, points1, visible0, visible1, batch.motion, config)
    total = (detector + _location_weight(progress, config) * location + config.descriptor_weight * descriptor
             + _reprojection_weight(progress, config) * reprojection)
    repeated = (partner >= 0).sum() / visible0.sum().clamp(min=1)
    parts = {"detector": detector, "location": location, "descriptor": descriptor, "reprojection_px": reprojection,
             "repeated": repeated}
    return total, {name: part.item() for name, part in parts.items()}


def _reprojection_weight(progress: float, config: SuperPointTraining) -> float:
    span = config.reprojection_full - config.reprojection_from
    return config.reprojection_weight * float(np.clip((progress - config.reprojection_from) / span, 0, 1))


def _location_weight(progress: float, config: SuperPointTraining) -> float:
    late = max(0.0, (progress - config.self_label_from) / max(1e-9, 1 - config.self_label_from))
    return config.location_weight + late * (config.location_weight_at_end - config.location_weight)


def _descriptor_loss(
    learner: Learner, coarse: Tensor, points0: Tensor, points1: Tensor, visible0: Tensor, visible1: Tensor,
    motion: PairMotion, config: SuperPointTraining,
) -> Tensor:
    """Correspondences from the peaks of both views, carried over by the true motion."""
    with torch.no_grad():
        from0, ok0 = _choose(points0, visible0, config.correspondences)
        from1, ok1 = _choose(points1, visible1, config.correspondences)
        places0 = torch.cat([from0, motion.back(from1)], dim=1)
        places1 = torch.cat([motion.ahead(from0), from1], dim=1)
        valid = torch.cat([ok0, ok1], dim=1)
    coarse0, coarse1 = coarse.chunk(2)
    return losses.descriptor_loss(sample_descriptors(coarse0, places0), sample_descriptors(coarse1, places1), places1,
                                  valid, learner.log_scale.exp().clamp(max=100))


def _choose(points: Tensor, eligible: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`count` random eligible points of each view [B,count,2], and which of them are real [B,count]."""
    lots = torch.rand(eligible.shape).to(points.device)  # drawn on the CPU: the same on every device
    order = (lots + eligible.float()).topk(min(count, eligible.shape[1]), dim=1).indices
    return points.gather(1, order[..., None].expand(-1, -1, 2)), eligible.gather(1, order)
