"""The dense networks in PyTorch eager, tracking a camera: what the speed of the deployed path is held against.

Unpruned SuperPoint and SuperGlue at their published sizes, fp32, with 100 log-domain Sinkhorn
iterations. Weights are random: speed does not depend on them, as long as there are as many
keypoints, so the best are taken whatever their score. Suppression is one max-pooling pass, less
than the published five, and no homography is fitted: both favour this side.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from efficient_matcher.learn.superglue import SuperGlue, normalize_keypoints
from efficient_matcher.learn.superpoint import SuperPoint, sample_descriptors, score_map
from efficient_matcher.learn.transport import log_optimal_transport

SINKHORN_ITERATIONS = 100
MATCH_THRESHOLD = 0.2

_Features = tuple[Tensor, Tensor, Tensor]  # keypoints [1,N,2] px, scores [1,N], descriptors [1,N,D]


class DenseTracker:
    """Extracts each frame once and matches it with the frame before."""

    def __init__(self, keypoints: int, threads: int, nms_radius_px: int = 4, border_px: int = 4) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self._keypoints, self._radius, self._border = keypoints, nms_radius_px, border_px
        self._superpoint = SuperPoint().eval()
        self._superglue = SuperGlue().eval()
        self._previous: _Features | None = None
        self.keypoints_found = 0
        self.matches = 0

    @torch.inference_mode()
    def process(self, image: NDArray[np.uint8]) -> dict[str, float] | None:
        """Time, in ms, of extracting a grey image [H,W] and matching it with the one before; None for the first."""
        start = perf_counter()
        features = self._extract(image)
        extracted = perf_counter()
        previous, self._previous = self._previous, features
        self.keypoints_found = features[1].shape[1]
        if previous is None:
            return None
        self.matches = self._match(previous, features, image.shape[1], image.shape[0])
        end = perf_counter()
        return {"extract": 1e3 * (extracted - start), "match": 1e3 * (end - extracted), "total": 1e3 * (end - start)}

    def _extract(self, image: NDArray[np.uint8]) -> _Features:
        logits, coarse = self._superpoint(torch.from_numpy(image)[None, None].float() / 255)
        scores = score_map(logits)[0]
        size = 2 * self._radius + 1
        peaks = scores == F.max_pool2d(scores[None], size, stride=1, padding=self._radius)[0]
        inside = torch.zeros_like(peaks)
        inside[self._border:-self._border, self._border:-self._border] = True
        rows, columns = torch.nonzero(peaks & inside, as_tuple=True)
        best = scores[rows, columns].topk(min(self._keypoints, len(rows)))
        points = torch.stack([columns, rows], dim=1)[best.indices].float()[None]
        return points, best.values[None], sample_descriptors(F.normalize(coarse, dim=1), points)

    def _match(self, features0: _Features, features1: _Features, width: int, height: int) -> int:
        inputs = [(normalize_keypoints(points, width, height), scores, descriptors)
                  for points, scores, descriptors in (features0, features1)]
        similarity = self._superglue(*inputs[0], *inputs[1])
        logarithm = log_optimal_transport(similarity, self._superglue.bin_score, SINKHORN_ITERATIONS)
        assignment = logarithm[0, :-1, :-1].exp()
        best0, best1 = assignment.max(dim=1), assignment.max(dim=0)
        mutual = best1.indices[best0.indices] == torch.arange(len(assignment))
        return int((mutual & (best0.values > MATCH_THRESHOLD)).sum())
