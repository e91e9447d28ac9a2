"""Recipes of `prune`, and what they make of a pair of networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch

from efficient_matcher.errors import RecipeError
from efficient_matcher.learn.channels import PAIRS, Criterion, Network, check_targets, narrow, narrow_pair, sizes
from efficient_matcher.learn.data import ImageSet, PairConfig, pair_batch
from efficient_matcher.learn.finetune import extractor_training, no_labels
from efficient_matcher.learn.finetune_matching import as_batch, matching_loss, read_features
from efficient_matcher.learn.fold import sparse_form
from efficient_matcher.learn.principal import narrow_principal
from efficient_matcher.learn.prune import MagnitudePruning, prune_magnitude
from efficient_matcher.learn.recipe import setting
from efficient_matcher.learn.superglue import SuperGlue
from efficient_matcher.learn.superpoint import SuperPoint
from efficient_matcher.learn.train_superglue import SuperGlueTraining
from efficient_matcher.learn.train_superpoint import Learner, superpoint_loss
from efficient_matcher.learn.views import ViewConfig
from efficient_matcher.learn.width_search import Budget, search_widths

GRADIENT_BATCHES = 8
BOTH_NEEDED = "descriptors: both networks are needed, since both get narrower"


@dataclass(frozen=True)
class MagnitudeRecipe:
    """Fine-grained: which share of the weights of each network becomes zero."""

    method: Literal["magnitude"] = "magnitude"
    superpoint: MagnitudePruning | None = None
    superglue: MagnitudePruning | None = None


@dataclass(frozen=True)
class ChannelPruning:
    """How narrow one network becomes: `sizes` say it; `layers` (names or patterns) and `ratio` say which share goes,
    rounded to the recipe's multiple; a target searches the rest."""

    sizes: dict[str, int] = setting(dict, minimum=1)
    ratio: float = setting(0.0, minimum=0.0, below=1.0)  # of all but heads and pairs
    layers: dict[str, float] = setting(dict, minimum=0.0, below=1.0)
    target_macs: float | None = setting(None, minimum=1)
    target_latency_ms: float | None = setting(None, minimum=0.0)

    def __post_init__(self) -> None:
        if self.target_macs is not None and self.target_latency_ms is not None:
            raise ValueError("target_macs and target_latency_ms exclude each other")


@dataclass(frozen=True)
class ChannelRecipe:
    """Structured: which channels, heads and layers of each network go for good. Criterion principal is for the descriptors
    alone: not some of their channels stay, but their principal components (see principal.py)."""

    method: Literal["channel"] = "channel"
    criterion: Literal[Criterion, "principal"] = "frobenius"
    multiple: int = setting(16, minimum=1)  # of channels, which CPU kernels like
    seed: int = setting(0, minimum=0)
    descriptors: int | None = setting(None, minimum=1)  # width of the descriptors, of both networks
    superpoint: ChannelPruning | None = None
    superglue: ChannelPruning | None = None

    def __post_init__(self) -> None:
        if self.descriptors is not None and self.criterion == "taylor":
            raise ValueError("descriptors: the two networks' Taylor terms do not compare; use frobenius, random or principal")
        if self.criterion == "principal" and (self.descriptors is None or self.superpoint or self.superglue):
            raise ValueError("criterion principal is for descriptors alone: give their width, and no sizes, ratios or targets")


RECIPES: dict[str, type] = {"magnitude": MagnitudeRecipe, "channel": ChannelRecipe}


def prune_networks(
    superpoint: SuperPoint | None, superglue: SuperGlue | None, recipe: MagnitudeRecipe | ChannelRecipe,
    images: ImageSet | None = None, threads: int = 0, progress: Callable[[str], None] = lambda line: None,
) -> tuple[SuperPoint | None, SuperGlue | None]:
    """Pruned copies of the networks that are given; images are for criteria taylor and principal. A SuperGlue whose weights
    became zero is folded (`fold.py`), so that they are those of the graph.

    Raises RecipeError for a part of the recipe without its network, and as `prune.py` and `channels.py` do.
    """
    networks: dict[str, Any] = {"superpoint": superpoint, "superglue": superglue}
    for name, network in networks.items():
        if network is None and getattr(recipe, name) is not None:
            raise RecipeError(f"the recipe prunes {name}, of which no weights are given")
    if isinstance(recipe, MagnitudeRecipe):
        return tuple(_sparse(network, getattr(recipe, name)) for name, network in networks.items())
    if recipe.criterion == "principal":
        return _along_components(superpoint, superglue, recipe, images, progress)
    if recipe.criterion == "taylor":
        _gradients(superpoint, superglue, images, recipe.seed)
    narrowed = [_narrowed(network, getattr(recipe, name), recipe, threads, progress)
                for name, network in networks.items()]
    if recipe.descriptors is None:
        return tuple(narrowed)
    if None in narrowed:
        raise RecipeError(BOTH_NEEDED)
    return narrow_pair(*narrowed, recipe.descriptors, recipe.criterion, recipe.seed)


def targets_of(network: Network, part: ChannelPruning, multiple: int) -> dict[str, int]:
    """Sizes that a part's `sizes`, `layers` and `ratio` come to. Raises RecipeError or PruneError."""
    known = sizes(network)
    shares = {name: part.ratio for name in known if name != PAIRS and not name.endswith(".heads")}
    for pattern, share in part.layers.items():
        named = [name for name in known if fnmatchcase(name, pattern)]
        if not named:
            raise RecipeError(f"layers: unknown layer '{pattern}' (known: {', '.join(known)})")
        shares.update(dict.fromkeys(named, share))
    targets = {name: _rounded(known[name], share, multiple if name in _channels(known) else 1)
               for name, share in shares.items() if share > 0}
    targets.update(part.sizes)
    check_targets(network, targets)
    return targets


def _channels(known: dict[str, int]) -> set[str]:
    return {name for name in known if name != PAIRS and not name.endswith(".heads")}


def _rounded(size: int, share: float, multiple: int) -> int:
    wanted = size * (1 - share)
    return round(wanted / multiple) * multiple if size > multiple else round(wanted)


def _sparse(network: Any, part: MagnitudePruning | None) -> Any:
    if network is None or part is None:
        return network
    network = sparse_form(network)
    prune_magnitude(network, part)
    return network


def _narrowed(network: Any, part: ChannelPruning | None, recipe: ChannelRecipe, threads: int,
              progress: Callable[[str], None]) -> Any:
    if network is None or part is None:
        return network
    targets = targets_of(network, part, recipe.multiple)
    network = narrow(network, targets, recipe.criterion, recipe.seed) if targets else network
    if part.target_macs is None and part.target_latency_ms is None:
        return network
    if recipe.criterion == "taylor" and targets:
        raise RecipeError("with criterion taylor give either sizes and ratios or a target, not both")
    budget = Budget(part.target_macs, part.target_latency_ms, threads)
    found = search_widths(network, budget, recipe.multiple, recipe.criterion, recipe.seed, progress)
    return narrow(network, found, recipe.criterion, recipe.seed)


def _along_components(superpoint: SuperPoint | None, superglue: SuperGlue | None, recipe: ChannelRecipe,
                      images: ImageSet | None, progress: Callable[[str], None]) -> tuple[SuperPoint, SuperGlue]:
    if superpoint is None or superglue is None:
        raise RecipeError(BOTH_NEEDED)
    if images is None:
        raise RecipeError("criterion principal needs training images, on which it looks at descriptors and tokens")
    narrowed, matcher, share = narrow_principal(superpoint, superglue, recipe.descriptors, images, recipe.seed)
    progress(f"{recipe.descriptors} components hold {100 * share:.1f} % of descriptors and tokens")
    return narrowed, matcher


def _gradients(superpoint: SuperPoint | None, superglue: SuperGlue | None, images: ImageSet | None, seed: int) -> None:
    """Gradients of the training losses on warped images, into the networks' parameters.

    The extractor's labels are its own repeated points, so that none have to be made.
    """
    if superpoint is None or images is None:
        raise RecipeError("criterion taylor needs training images and the weights of the SuperPoint")
    pairs = PairConfig()
    config = replace(extractor_training(superpoint, pairs), self_label_weight=1.0)
    matching = SuperGlueTraining(views=ViewConfig(width=pairs.width, height=pairs.height))
    learner = Learner(superpoint, config.descriptor_scale)
    for step in range(GRADIENT_BATCHES):
        torch.manual_seed(seed + step)
        batch = pair_batch(images, no_labels(images), pairs, seed, step)
        outputs = superpoint(batch.images)
        loss, _ = superpoint_loss(learner, batch, config, 0.0, outputs)
        if superglue is not None:
            features = as_batch(read_features(*outputs, config.peaks), batch.motion.H_0to1)
            loss = loss + matching_loss(superglue, features, matching, 1.0, None, None, 0.0)[0]
        loss.backward()
