"""XFeat behind the interface of the networks; the network itself is tested in test/learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from efficient_matcher.core.geometry import corner_error
from efficient_matcher.evaluate.xfeat import XFeat


def test_image_against_itself_is_the_identity(xfeat_weights: Path, textured_image: np.ndarray) -> None:
    matcher = XFeat(xfeat_weights, 100, threads=1)
    features = matcher.extract(textured_image)
    result = matcher.match(features, matcher.extract(textured_image))
    assert len(features) == len(result.matches) == 100
    assert np.array_equal(result.points0, result.points1)
    assert corner_error(result.homography.matrix, np.eye(3), features.image_size) < 1e-3
    assert set(result.timings) == {"match", "homography"}


def test_black_image_has_no_matches(xfeat_weights: Path, textured_image: np.ndarray) -> None:
    matcher = XFeat(xfeat_weights, 100, threads=1)
    black = matcher.extract(np.zeros((240, 320), np.uint8))
    result = matcher.match(black, matcher.extract(textured_image))
    assert len(result.matches) <= len(black) and not result.homography.valid
