"""What the recipes of `finetune` say: of the extractor, of the matcher, of both together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from efficient_matcher.learn.data import PairConfig
from efficient_matcher.learn.distill import ExtractorDistillation
from efficient_matcher.learn.prune import Ramp, Regrowth
from efficient_matcher.learn.recipe import setting
from efficient_matcher.learn.superpoint import OPTIONAL
from efficient_matcher.learn.training import LoopConfig
from efficient_matcher.learn.views import ViewConfig

WithoutLoss = Literal["frobenius", "random"]  # criteria that need no gradients


@dataclass(frozen=True)
class SuperPointFinetuning:
    """Recipe of `finetune superpoint`."""

    loop: LoopConfig = LoopConfig(steps=3000, learning_rate=2e-3, warmup_steps=50)
    pairs: PairConfig = PairConfig()
    wider: dict[str, int] = setting(dict, minimum=1)  # to bring the weights to first, the function unchanged; see widen.py
    sizes: dict[str, int] = setting(dict, minimum=1)  # then to bring them down to; see channels.py
    half_stem: bool = False  # then to leave out the full-resolution map; see stem.py
    stem_width: int = setting(0, minimum=0)  # with half_stem, of its two layers in place of three; 0: as they are
    without: tuple[str, ...] = setting((), choices=OPTIONAL)  # then layers of a half stem to leave out; see stem.py
    direct_location: bool = False  # then to give the location branch no hidden layer
    criterion: WithoutLoss = "frobenius"
    task: float = setting(0.5, minimum=0.0)  # weight of the losses of training
    distill: ExtractorDistillation = ExtractorDistillation()
    prune: Ramp | None = None
    regrow: Regrowth | None = None  # zeros change places
    keep_zeros: bool = True
    keep_codebooks: bool = False  # equal weights of a layer stay equal: finetunes the values of `cluster.py`
    rounded_bits: int = setting(0, choices=(0, 4, 8))  # learn as deployed in so few; see quantization_aware.py
    start_share: float = setting(0.0, minimum=0.0, below=1.0)  # of the weights to begin with, in those of the end
    scenes_share: float = setting(0.0, minimum=0.0, maximum=1.0)  # of the pairs, see scene_pairs.py
    scenes: int = setting(600, minimum=1)  # how many are rendered for that

    def __post_init__(self) -> None:
        if self.stem_width and not self.half_stem:
            raise ValueError("stem_width is that of a half stem; set half_stem as well")
        rebuilt = (self.wider or self.sizes or self.half_stem or self.without or self.direct_location
                   or self.rounded_bits)
        if self.start_share and (rebuilt or self.prune or self.regrow):
            raise ValueError("start_share mixes two networks of one build; it goes without wider, sizes, half_stem, "
                             "without, direct_location, rounded_bits, prune and regrow")
        if self.keep_codebooks and self.rounded_bits:
            raise ValueError("keep_codebooks and rounded_bits each say what values weights may have; choose one")
        _check_regrowth(self)


@dataclass(frozen=True)
class SuperGlueFinetuning:
    """Recipe of `finetune superglue`."""

    loop: LoopConfig = LoopConfig(steps=1500, learning_rate=2e-4, warmup_steps=50)
    views: ViewConfig = ViewConfig()
    pairs: int = setting(4, minimum=1)  # per step and process
    keypoints: int = setting(400, minimum=8)
    sizes: dict[str, int] = setting(dict, minimum=1)
    criterion: WithoutLoss = "frobenius"
    task: float = setting(1.0, minimum=0.0)
    distill: float = setting(1.0, minimum=0.0)  # weight of the divergence of the assignments
    prune: Ramp | None = None
    regrow: Regrowth | None = None  # zeros change places
    keep_zeros: bool = True
    keep_codebooks: bool = False  # equal weights of a layer stay equal: finetunes the values of `cluster.py`

    def __post_init__(self) -> None:
        _check_regrowth(self)


@dataclass(frozen=True)
class JointFinetuning:
    """Recipe of `finetune both`: the matching loss reaches the extractor through its descriptors, scores and
    sub-pixel positions; which pixels are keypoints has no gradient."""

    loop: LoopConfig = LoopConfig(steps=1500, learning_rate=2e-4, warmup_steps=50)
    pairs: PairConfig = PairConfig(width=320, height=240, pairs=2)
    keypoints: int = setting(256, minimum=8)
    matching: float = setting(1.0, minimum=0.0)
    task: float = setting(0.3, minimum=0.0)  # of the extractor's own losses, which keep its points where they are
    distill: ExtractorDistillation = ExtractorDistillation()
    distill_matching: float = setting(1.0, minimum=0.0)
    keep_statistics: bool = True  # of batch norms: those of so few pairs are others than a whole training's
    prune_superpoint: Ramp | None = None
    prune_superglue: Ramp | None = None
    regrow: Regrowth | None = None  # zeros of both change places
    keep_zeros: bool = True
    keep_codebooks: bool = False  # equal weights of a layer stay equal: finetunes the values of `cluster.py`

    def __post_init__(self) -> None:
        _check_regrowth(self)


def _check_regrowth(recipe: SuperPointFinetuning | SuperGlueFinetuning | JointFinetuning) -> None:
    ramps = [getattr(recipe, name, None) for name in ("prune", "prune_superpoint", "prune_superglue")]
    if recipe.keep_codebooks and any(ramps):
        raise ValueError("keep_codebooks moves equal weights together, a pruning ramp takes some of them; prune first")
    if recipe.regrow is not None and (recipe.keep_codebooks or not recipe.keep_zeros):
        raise ValueError("regrow moves the zeros there are; it goes with keep_zeros and without keep_codebooks")
