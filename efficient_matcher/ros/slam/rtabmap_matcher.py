"""Matches for RTAB-Map's PyMatcher, which imports this file by its path and calls `init` and `match`.

To be used with rtabmap_detector.py, as a matcher network knows the descriptors of its own extractor alone. The environment
variable EFFICIENT_MATCHER_CONFIG names a file of settings; threshold, iterations and model are RTAB-Map's parameters.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIG_VARIABLE = "EFFICIENT_MATCHER_CONFIG"
OTHERS_MODELS = ("", "indoor", "outdoor")  # RTAB-Map's own values for another network: the bundle of the settings is meant

_matcher: Optional[Any] = None


def init(descriptor_dim: int, threshold: float, iterations: int, cuda: int = 0, model: str = "") -> None:
    """Load the bundle `model`, a name or a path. threshold: of the matches' probability; iterations: of the transport.

    cuda: not used, this runs on the CPU. Raises MatcherError when the bundle's descriptors have another length.
    """
    from efficient_matcher.config import load_config
    from efficient_matcher.core.pipeline import Matcher
    from efficient_matcher.errors import MatcherError
    global _matcher
    config = load_config(os.environ.get(CONFIG_VARIABLE) or None, {
        "match.score_threshold": float(threshold), "match.transport_iterations": int(iterations)})
    matcher = Matcher.from_bundle(config.model.bundle if model in OTHERS_MODELS else model, config)
    expected = matcher.card.extractor["descriptor_dim"]
    if descriptor_dim != expected:
        raise MatcherError(f"the descriptors have {descriptor_dim} numbers, those of bundle '{matcher.card.name}' "
                           f"{expected}: set PyDetector/Path to rtabmap_detector.py")
    _matcher = matcher


def match(keypoints0: NDArray[np.float32], keypoints1: NDArray[np.float32], scores0: NDArray[np.float32],
          scores1: NDArray[np.float32], descriptors0: NDArray[np.float32], descriptors1: NDArray[np.float32],
          width: int, height: int) -> NDArray[np.int32]:
    """Matches [K,2], indices into the keypoints of image 0 and 1, both of `width` x `height` px.

    keypoints: [N,2] px, scores [N], descriptors [N,D], in any order; the network takes them best first.
    """
    import numpy as np
    order0, features0 = _best_first(keypoints0, scores0, descriptors0, (int(width), int(height)))
    order1, features1 = _best_first(keypoints1, scores1, descriptors1, (int(width), int(height)))
    indices = _matcher.match(features0, features1).matches.indices
    return np.ascontiguousarray(np.column_stack([order0[indices[:, 0]], order1[indices[:, 1]]]), np.int32)


def _best_first(keypoints: Any, scores: Any, descriptors: Any, size: tuple[int, int]) -> tuple[Any, Any]:
    """The order, and Features with copies in it: RTAB-Map's arrays last no longer than the call."""
    import numpy as np

    from efficient_matcher.records import Features
    scores = np.asarray(scores, np.float32).reshape(-1)
    order = np.argsort(-scores, kind="stable")
    keypoints = np.asarray(keypoints, np.float32).reshape(-1, 2)[order]
    return order, Features(keypoints, scores[order], np.asarray(descriptors, np.float32)[order], size)
