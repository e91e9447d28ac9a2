"""Keypoints and descriptors for RTAB-Map's PyDetector, which imports this file by its path and calls `init` and `detect`.

The environment variable EFFICIENT_MATCHER_CONFIG names a file of settings, the bundle among them. What is slow or needs
more than Python is imported in `init`: RTAB-Map imports scripts before its interpreter may start threads.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIG_VARIABLE = "EFFICIENT_MATCHER_CONFIG"

_matcher: Optional[Any] = None


def init(cuda: int = 0) -> None:
    """Load the bundle. cuda: not used, this runs on the CPU. Raises MatcherError."""
    from efficient_matcher.config import load_config
    from efficient_matcher.core.pipeline import Matcher
    global _matcher
    config = load_config(os.environ.get(CONFIG_VARIABLE) or None)
    _matcher = Matcher.from_bundle(config.model.bundle, config)


def detect(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Keypoints [N,3] of an image [H,W], x and y in px and the score, and their descriptors [N,D]; possibly none.

    RTAB-Map reads both by their memory, so they are in C order.
    """
    import numpy as np
    if _matcher is None:
        init()
    features = _matcher.extract(np.ascontiguousarray(image))
    keypoints = np.column_stack([features.keypoints, features.scores])
    return np.ascontiguousarray(keypoints, np.float32), np.ascontiguousarray(features.descriptors, np.float32)
