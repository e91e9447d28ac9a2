"""The benchmark's bookkeeping, with matchers whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from efficient_matcher.core.geometry import fit_homography, warp_points
from efficient_matcher.config import Config, GeometryConfig
from efficient_matcher.core.pipeline import Matcher
from efficient_matcher.errors import SourceError
from efficient_matcher.evaluate.homography import (NearestNeighbourMatcher, PairOutcome, fit_ransac, run_benchmark,
                                                   summarize)
from efficient_matcher.evaluate.metrics import MatchCounts
from efficient_matcher.records import Features, Matches, PairResult
from efficient_matcher.sources.pairs import HomographyPair

H = np.array([[1.05, 0.02, 6], [-0.03, 1.02, -4], [2e-5, -1e-5, 1.0]])


class Oracle:
    """Knows the homography: image 0's keypoints are a grid, image 1's the same grid warped."""

    def __init__(self, H_0to1: np.ndarray, count: int = 40) -> None:
        self._grid = np.random.default_rng(1).uniform((40, 40), (560, 420), (count, 2))
        self._H = H_0to1
        self._calls = 0

    def extract(self, image: np.ndarray) -> Features:
        points = self._grid if self._calls == 0 else warp_points(self._grid, self._H)
        self._calls += 1
        count = len(points)
        return Features(points.astype(np.float32), np.ones(count, np.float32), np.zeros((count, 1), np.float32),
                        (640, 480))

    def match(self, features0: Features, features1: Features) -> PairResult:
        count = len(features0)
        matches = Matches(np.column_stack([np.arange(count)] * 2).astype(np.int32), np.ones(count, np.float32))
        fit = fit_homography(features0.keypoints, features1.keypoints, (640, 480), GeometryConfig())
        return PairResult(features0, features1, matches, fit)


def outcome(predicted: int = 20, correct: int = 20, missed: int = 0, error: float = 0.0, index: int = 0,
            method: str = "m", variant: str = "clean") -> PairOutcome:
    return PairOutcome(index, "a.jpg", variant, method, (50, 60), MatchCounts(predicted, correct, missed),
                       {"ransac": error, "robust": error})


@pytest.fixture()
def listed(tmp_path: Path, make_textured: Callable[..., np.ndarray]) -> list[HomographyPair]:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), make_textured(480, 640))
    return [HomographyPair("a.png", path, H)]


def test_perfect_matcher_gets_100(listed: list[HomographyPair]) -> None:
    outcomes = [o for of_pair in run_benchmark(listed, {"oracle": Oracle(H)}) for o in of_pair]
    for figures in summarize(outcomes):
        assert figures["precision"] == figures["recall"] == 100.0
        for estimator in ("ransac", "robust"):
            assert list(figures["strict"]["auc"][estimator].values()) == pytest.approx([100.0] * 3, abs=0.01)
    assert [o.variant for o in outcomes] == ["clean", "hard"]


def test_wrong_homography_gets_0(listed: list[HomographyPair]) -> None:
    far = np.array([[1, 0, 200], [0, 1, 0], [0, 0, 1.0]])
    (clean,) = next(run_benchmark(listed, {"liar": Oracle(far)}, ["clean"]))
    assert clean.counts.correct == 0
    assert clean.corner_errors["ransac"] > 100


def test_too_few_matches_fail_strictly_and_are_dropped_by_the_paper() -> None:
    figures = summarize([outcome(), outcome(predicted=11, correct=11, error=0.0, index=1)])[0]
    assert figures["strict"]["auc"]["ransac"] == pytest.approx({"5": 50.0, "10": 50.0, "25": 50.0})
    assert figures["paper"]["auc"]["ransac"] == pytest.approx({"5": 100.0, "10": 100.0, "25": 100.0})
    assert (figures["pairs"], figures["dropped"]) == (2, 1)


def test_twelve_matches_are_enough() -> None:
    assert outcome(predicted=12).kept
    assert not outcome(predicted=11).kept


def test_precision_is_the_mean_over_pairs() -> None:
    figures = summarize([outcome(20, 20), outcome(40, 10, missed=10, index=1)])[0]
    assert figures["precision"] == pytest.approx((100 + 25) / 2)
    assert figures["recall"] == pytest.approx((100 + 50) / 2)


def test_methods_and_variants_are_kept_apart() -> None:
    figures = summarize([outcome(method="a"), outcome(method="b", error=np.inf), outcome(method="a", variant="hard")])
    assert [(f["method"], f["variant"]) for f in figures] == [("a", "clean"), ("b", "clean"), ("a", "hard")]
    assert figures[1]["strict"]["auc"]["ransac"]["5"] == 0.0


def test_ransac_is_exact_on_exact_points_and_bears_outliers() -> None:
    points = np.random.default_rng(0).uniform(0, 400, (60, 2))
    moved = warp_points(points, H)
    moved[:15] += 80
    found = fit_ransac(points.astype(np.float32), moved.astype(np.float32))
    assert found / found[2, 2] == pytest.approx(H, abs=1e-2)
    assert fit_ransac(points[:3], moved[:3]) is None


def test_core_matcher_and_nearest_neighbours_run_the_same_benchmark(
        listed: list[HomographyPair], tiny_bundle: Path) -> None:
    core = Matcher.from_bundle(tiny_bundle, Config())
    methods = {"network": core, "nearest": NearestNeighbourMatcher(core)}
    outcomes = next(run_benchmark(listed, methods, ["clean"]))
    assert [o.method for o in outcomes] == ["network", "nearest"]
    for found in outcomes:
        assert found.counts.precision > 60
        assert found.corner_errors["ransac"] < 3


def test_refined_figures_stand_beside_those_of_the_networks(
        listed: list[HomographyPair], tiny_bundle: Path) -> None:
    core = Matcher.from_bundle(tiny_bundle, Config())
    methods = {"network": core, "nearest": NearestNeighbourMatcher(core), "oracle": Oracle(H)}
    outcomes = next(run_benchmark(listed, methods, ["clean"]))
    unrefined = Matcher.from_bundle(tiny_bundle, Config().with_values({"refine.enabled": False}))
    alone = next(run_benchmark(listed, {"network": unrefined, "nearest": NearestNeighbourMatcher(unrefined)}, ["clean"]))
    assert all(list(found.corner_errors) == ["ransac", "robust"] and found.refined_counts is None for found in alone)
    for found, plain in zip(outcomes[:2], alone):
        assert found.corner_errors["refined_robust"] < 0.3 * found.corner_errors["robust"]
        assert found.corner_errors["robust"] == plain.corner_errors["robust"]
        assert found.refined_counts.correct >= found.counts.correct
    figures = summarize(outcomes)
    assert list(figures[0]["strict"]["auc"]) == ["ransac", "robust", "refined_ransac", "refined_robust"]
    assert figures[0]["refined"]["matches"] == outcomes[0].refined_counts.predicted
    assert list(figures[2]["strict"]["auc"]) == ["ransac", "robust"] and figures[2]["refined"] is None


def test_same_run_twice_gives_the_same_figures(listed: list[HomographyPair], tiny_bundle: Path) -> None:
    core = Matcher.from_bundle(tiny_bundle, Config())
    first, second = (next(run_benchmark(listed, {"core": core}, ["hard"])) for _ in range(2))
    assert first == second


def test_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"not an image")
    with pytest.raises(SourceError, match="broken.jpg"):
        next(run_benchmark([HomographyPair("broken.jpg", path, H)], {}))
