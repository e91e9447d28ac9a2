"""The recipe of a whole training, from synthetic shapes to two networks that know each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from efficient_matcher.learn.adaptation import AdaptationConfig
from efficient_matcher.learn.data import PairConfig
from efficient_matcher.learn.finetune_recipes import JointFinetuning
from efficient_matcher.learn.recipe import setting
from efficient_matcher.learn.shapes import ShapeConfig
from efficient_matcher.learn.train_superglue import SuperGlueTraining
from efficient_matcher.learn.train_superpoint import SuperPointTraining
from efficient_matcher.learn.training import LoopConfig


@dataclass(frozen=True)
class DetectorTraining(SuperPointTraining):
    """Recipe of `train detector`: as a SuperPoint's, on drawings whose corners are known, so only on where they are."""

    loop: LoopConfig = LoopConfig(steps=2500)
    pairs: PairConfig = PairConfig(own_proportions=0.0)
    shapes: ShapeConfig = ShapeConfig()
    location_weight_at_end: float = 1.0
    descriptor_weight: float = 0.0
    reprojection_weight: float = 0.0
    self_label_from: float = 1.0  # never: a corner that is not seen is still one

    def __post_init__(self) -> None:
        if self.scenes_share:
            raise ValueError("scenes_share: a base detector learns from drawings alone")


@dataclass(frozen=True)
class TrainingChain:
    """Recipe of `train all`; labels: `sift` goes without the detector and its adaptation."""

    labels: Literal["adapted", "sift"] = "adapted"
    detector: DetectorTraining = DetectorTraining()
    adaptation: AdaptationConfig = AdaptationConfig()
    superpoint: SuperPointTraining = SuperPointTraining()
    superglue: SuperGlueTraining = SuperGlueTraining()
    scenes_share: float = setting(0.0, minimum=0.0, maximum=1.0)  # of the matcher's pairs, see scene_views.py
    scenes: int = setting(600, minimum=1)
    both: JointFinetuning = JointFinetuning()
