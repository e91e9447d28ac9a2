"""The weights that ship, on photographs they were not trained on: they are the right ones, in the right form."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from efficient_matcher import Matcher
from efficient_matcher.config import Config
from efficient_matcher.core.bundle import shipped_bundles
from efficient_matcher.core.geometry import corner_error, warp_points
from efficient_matcher.demo import load_photos

SIZE = (640, 480)
# A camera that turns by 12 degrees in the image and comes a fifth nearer, a little from the side.
H_0TO1 = np.array([[1.17, 0.25, -110.0], [-0.25, 1.17, 40.0], [1e-4, -5e-5, 1.0]])


@pytest.mark.parametrize("bundle", shipped_bundles())
def test_networks_alone_find_a_known_homography(bundle: str) -> None:
    matcher = Matcher.from_bundle(bundle, Config().with_values({"refine.enabled": False}))
    precisions, errors = [], []
    for _, photo in load_photos():
        image0 = cv2.resize(photo, SIZE, interpolation=cv2.INTER_AREA)
        result = matcher.match(image0, cv2.warpPerspective(image0, H_0TO1, SIZE))
        apart = np.linalg.norm(warp_points(result.points0, H_0TO1) - result.points1, axis=1)
        precisions.append(float(np.mean(apart < 3)))
        errors.append(corner_error(result.homography.matrix, H_0TO1, SIZE))
    assert min(precisions) > 0.7
    assert max(errors) < 0.5
