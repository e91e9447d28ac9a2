"""Training of the locator: the same point of a scene is to be found at the same place in two views.

Nothing says where a keypoint should lie but its partner in the other view. How far the two are apart under the true
warp has a likelihood, by what the network says of how sure it is of each (a Student distribution, as some partners
show another point), and the network learns to make that large: places and spreads together (Nix and Weigend,
"Estimating the mean and variance of the target probability distribution", 1994).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from efficient_matcher.core.settle import NOISE
from efficient_matcher.learn.augment import AugmentConfig
from efficient_matcher.learn.compute import Compute
from efficient_matcher.learn.data import ImageSet
from efficient_matcher.learn.finetune import Pruning
from efficient_matcher.learn.keypoints import warp_points
from efficient_matcher.learn.locator import Locator
from efficient_matcher.learn.patches import PatchSet, gather_patches
from efficient_matcher.learn.prune import Ramp, Regrowth
from efficient_matcher.learn.recipe import setting
from efficient_matcher.learn.superpoint import SuperPoint
from efficient_matcher.learn.training import Loop, LoopConfig
from efficient_matcher.learn.views import ViewConfig
from efficient_matcher.learn.weights import fingerprint

FREEDOM = 4.0  # degrees of it, of the Student distribution
LEAST_VARIANCE = 1e-4  # px^2


@dataclass(frozen=True)
class LocatorTraining:
    """Recipe of `train locator`.

    widths, reach_px: of a new locator; one that the weights have is trained on. pairs: of patches, per step and process.
    prune: a ramp of zeros; keep_zeros, keep_codebooks, regrow: as in finetuning.
    """

    widths: tuple[int, ...] = setting((256, 128), minimum=1)
    reach_px: int = setting(8, minimum=1, maximum=32)
    views: ViewConfig = ViewConfig(width=640, height=480, views=7, keypoints=512, tiled=0.8,
                                   photometric=AugmentConfig(probability=0.4, sharpen=1.0))
    clean: float = setting(0.5, minimum=0.0, maximum=1.0)  # of the views, those that are only warped
    loop: LoopConfig = LoopConfig(steps=10000, learning_rate=2e-3, warmup_steps=500, weight_decay=1e-3)
    pairs: int = setting(2048, minimum=1)
    prune: Ramp | None = None
    keep_zeros: bool = True
    keep_codebooks: bool = False
    regrow: Regrowth | None = None

    def __post_init__(self) -> None:
        if not self.widths:
            raise ValueError("widths: a locator needs a hidden layer")


def with_locator(network: SuperPoint, recipe: LocatorTraining) -> SuperPoint:
    """The network as it is when it has a locator, else with a new one, which changes nothing yet."""
    if network.locator is not None:
        return network
    torch.manual_seed(recipe.loop.seed)
    located = SuperPoint(replace(network.config, locator_widths=recipe.widths, locator_reach_px=recipe.reach_px))
    located.load_state_dict({**located.state_dict(), **network.state_dict()})
    return located.eval()


def train_locator(network: SuperPoint, images: ImageSet, recipe: LocatorTraining, folder: Path,
                  compute: Compute = Compute(),
                  progress: Callable[[int, int], None] = lambda done, of: None) -> tuple[SuperPoint, float]:
    """Train (or go on training) the locator of a SuperPoint in `folder`; returns the whole network, all else as it was,
    and the hours spent. Raises TrainingError as `Loop` does, MatcherError for images that show nothing."""
    network = with_locator(network, recipe)
    assert network.locator is not None
    patches = gather_patches(network, images, recipe.views, recipe.clean, network.locator.reach_px, recipe.loop.seed,
                             folder, progress)
    locator = network.locator.to(compute.device).train()
    pruning = Pruning([(locator, recipe.prune)], recipe)
    loop = Loop(locator, recipe.loop, folder, {"kind": "locator", **asdict(recipe), "images": images.key,
                                               "start": fingerprint(network), **compute.description}, pruning)
    loop.resume()

    def step(batch_index: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([recipe.loop.seed, batch_index])
        chosen = torch.from_numpy(rng.integers(0, len(patches), recipe.pairs))
        batch = PatchSet(*(values[chosen].to(compute.device) for values in vars(patches).values()))
        return locator_loss(locator, batch)

    averaged = loop.run(step)
    pruning.given_to([averaged])
    network.locator.load_state_dict(averaged.state_dict())
    return network.eval().cpu(), loop.seconds / 3600


def locator_loss(locator: Locator, batch: PatchSet) -> tuple[Tensor, dict[str, float]]:
    """Negative log-likelihood, but for a constant, of what the points of view 0, warped, are off those of view 1; and for
    the log how far they are apart, px: the median of it, and what it is without the locator."""
    moves0, spreads0 = locator(batch.patches0, batch.hints0)
    moves1, spreads1 = locator(batch.patches1, batch.hints1)
    points0 = batch.points0 + moves0
    apart = _warped(points0, batch.H_0to1) - batch.points1 - moves1
    variance = NOISE**2 * (magnified(points0, batch.H_0to1) * spreads0.square() + spreads1.square()) + LEAST_VARIANCE
    scale = variance * (FREEDOM - 2) / FREEDOM  # of a Student distribution with that variance
    squared = apart.square().sum(1)
    loss = (scale.log() + (FREEDOM + 2) / 2 * torch.log1p(squared / (FREEDOM * scale))).mean()
    before = (_warped(batch.points0, batch.H_0to1) - batch.points1).norm(dim=1)
    return loss, {"apart_px": squared.sqrt().median().item(), "before_px": before.median().item()}


def magnified(points: Tensor, H: Tensor) -> Tensor:
    """By how much homographies [M,3,3] magnify areas at points [M,2]: the determinant of the map's derivative [M]."""
    depth = (H[:, 2, :2] * points).sum(1) + H[:, 2, 2]
    return (torch.linalg.det(H) / depth**3).abs().detach()


def _warped(points: Tensor, H: Tensor) -> Tensor:
    return warp_points(points[:, None], H)[:, 0]
