"""SIFT and ORB behind the interface of the networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from efficient_matcher.core.geometry import corner_error
from efficient_matcher.evaluate.baselines import BASELINES, Baseline


@pytest.mark.parametrize("name", BASELINES)
def test_image_against_itself_is_the_identity(name: str, textured_image: np.ndarray) -> None:
    baseline = Baseline(name, 200)
    features = baseline.extract(textured_image)
    result = baseline.match(features, baseline.extract(textured_image))
    assert 20 <= len(features) <= 200
    assert np.array_equal(result.points0, result.points1)
    assert corner_error(result.homography.matrix, np.eye(3), features.image_size) < 1e-3


def test_sift_finds_a_small_warp(warped_pair: Any) -> None:
    baseline = Baseline("sift")
    result = baseline.match(baseline.extract(warped_pair.image0), baseline.extract(warped_pair.image1))
    assert corner_error(result.homography.matrix, warped_pair.matrix, result.features0.image_size) < 1.0


@pytest.mark.parametrize("name", BASELINES)
def test_best_first_and_never_more_than_asked(name: str, textured_image: np.ndarray) -> None:
    features = Baseline(name, 30).extract(textured_image)
    assert len(features) <= 30
    assert (np.diff(features.scores) <= 0).all()
    assert features.image_size == (320, 240)


@pytest.mark.parametrize("name", BASELINES)
def test_match_scores_descend_within_0_and_1(name: str, warped_pair: Any) -> None:
    baseline = Baseline(name)
    matches = baseline.match(baseline.extract(warped_pair.image0), baseline.extract(warped_pair.image1)).matches
    assert (np.diff(matches.scores) <= 0).all()
    assert 0 <= matches.scores.min() and matches.scores.max() <= 1
    assert matches.indices.dtype == np.int32


@pytest.mark.parametrize("name", BASELINES)
def test_black_image_has_no_keypoints(name: str, textured_image: np.ndarray) -> None:
    baseline = Baseline(name)
    black = baseline.extract(np.zeros((240, 320), np.uint8))
    result = baseline.match(black, baseline.extract(textured_image))
    assert len(black) == 0 and len(result.matches) == 0
    assert not result.homography.valid
