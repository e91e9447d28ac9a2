"""Homographic adaptation (SuperPoint, section 5): a trained detector labels photographs.

The detector looks at many warps of an image; where it finds a point again in most of them, that is a label.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from efficient_matcher.learn.compute import Compute
from efficient_matcher.learn.keypoints import centroids, find_peaks
from efficient_matcher.learn.labels import LabelConfig, label_image
from efficient_matcher.learn.recipe import setting
from efficient_matcher.learn.superpoint import CELL, SuperPoint, score_map
from efficient_matcher.learn.weights import fingerprint


@dataclass(frozen=True)
class AdaptationConfig:
    """How a detector's points become labels."""

    votes: LabelConfig = LabelConfig(warps=20)
    threshold: float = setting(0.015, minimum=0.0, maximum=1.0)  # score of a point that votes
    points: int = setting(1000, minimum=1)  # that vote in one warp, at most
    nms_radius_px: int = setting(4, minimum=1)
    long_side_px: int = setting(640, minimum=64)  # larger images are looked at in this size


class AdaptedLabeller:
    """Labels by a trained detector. Its name tells detector and settings, so that labels are not mixed."""

    def __init__(self, network: SuperPoint, config: AdaptationConfig = AdaptationConfig(),
                 compute: Compute = Compute()) -> None:
        self.config, self._device = config, compute.device
        self.name = f"adapted {_key(network, config)[:12]}"
        self.in_process = compute.device.type != "cpu"
        self._network = network.eval().to(compute.device, memory_format=torch.channels_last)

    def __call__(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.float32]:
        """Repeatable points of a grey image [H,W]: rows x, y (pixels), share of warps in (0,1]. [N,3]."""
        height, width = image.shape
        size = _network_size(width, height, self.config.long_side_px)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if size != (width, height) else image
        labels = label_image(small, seed, self.config.votes, self._detect)
        labels[:, :2] = (labels[:, :2] + 0.5) * np.float32([width / size[0], height / size[1]]) - 0.5
        return labels

    @torch.no_grad()
    def _detect(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        given = torch.from_numpy(image)[None, None].to(self._device).float() / 255
        scores = score_map(self._network(given.contiguous(memory_format=torch.channels_last))[0])
        peaks, found = find_peaks(scores, self.config.points, self.config.nms_radius_px)
        high = scores[0, peaks[0, :, 1], peaks[0, :, 0]] >= self.config.threshold
        return centroids(scores, peaks)[found & high[None]].double().cpu().numpy()


def _network_size(width: int, height: int, long_side_px: int) -> tuple[int, int]:
    """(width, height) in whole cells, the longer side at most `long_side_px`."""
    scale = min(1.0, long_side_px / max(width, height))
    return tuple(max(CELL, int(side * scale) // CELL * CELL) for side in (width, height))


def _key(network: SuperPoint, config: AdaptationConfig) -> str:
    return hashlib.sha256(json.dumps([asdict(config), fingerprint(network)]).encode()).hexdigest()
