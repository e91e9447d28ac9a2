"""XFeat with mutual nearest neighbours, behind the interface of the networks; needs torch and its authors' weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import GeometryConfig
from efficient_matcher.core.backend import available_threads
from efficient_matcher.evaluate.baselines import matched
from efficient_matcher.records import Features, PairResult

XFEAT = "xfeat"  # in PyTorch, as its authors run it
XFEAT_SESSION = "xfeat_onnxruntime"  # its network in the runtime of ours


class XFeat:
    """`extract` and `match` as core's Matcher has them.

    weights: the published file, `xfeat.pt`. session: the network runs in onnxruntime. threads: 0 takes all the process
    may use. Raises WeightsError naming the file, and ImportError without torch.
    """

    def __init__(self, weights: Path, max_keypoints: int = 512, geometry: GeometryConfig = GeometryConfig(),
                 threads: int = 0, session: bool = False) -> None:
        from efficient_matcher.learn.xfeat import XFeatExtractor, load_xfeat, mutual_nearest
        self.name = XFEAT_SESSION if session else XFEAT
        self._geometry, self._nearest = geometry, mutual_nearest
        self._extractor = XFeatExtractor(load_xfeat(weights), max_keypoints, threads or available_threads(), session)

    def extract(self, image: NDArray[np.uint8]) -> Features:
        """Keypoints of a grey image [H,W], pixels, best first. Raises ImageError for one of less than 32 pixels."""
        return self._extractor.extract(image)

    def match(self, features0: Features, features1: Features) -> PairResult:
        """Mutual nearest neighbours and the project's own robust homography; timings in ms."""
        return matched(features0, features1, self._nearest, self._geometry)
