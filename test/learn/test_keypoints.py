"""Peaks and centroids agree with positions known beforehand."""

from __future__ import annotations

import pytest
import torch
from efficient_matcher.config import ExtractConfig
from efficient_matcher.core.features import detect
from efficient_matcher.learn.keypoints import centroids, find_peaks, inside, sharp_peaks, warp_points


def bump(x: float, y: float, height: int = 40, width: int = 56, sigma: float = 0.9) -> torch.Tensor:
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * sigma**2))


def test_peaks_come_best_first_and_missing_ones_are_masked() -> None:
    scores = (0.5 * bump(20, 10) + bump(40, 30))[None]
    peaks, found = find_peaks(scores, 4, radius=2)
    assert peaks[0, :2].tolist() == [[40, 30], [20, 10]]
    assert bool(found[0, :2].all())


def test_peaks_keep_their_distance_and_the_border() -> None:
    scores = (bump(20, 20) + 0.9 * bump(23, 20) + bump(2, 20))[None]
    peaks, found = find_peaks(scores, 3, radius=4)
    kept = peaks[0][found[0] & (scores[0][peaks[0, :, 1], peaks[0, :, 0]] > 0.5)]
    assert kept.tolist() == [[20, 20]]


def test_sharp_peaks_are_those_of_the_run_time_in_its_order() -> None:
    scores = torch.rand(2, 96, 128, generator=torch.Generator().manual_seed(3)) ** 4
    peaks, found = sharp_peaks(scores, 40)
    for score, own, places in zip(scores, centroids(scores, peaks), found):
        points = detect(score.numpy(), ExtractConfig(max_keypoints=40))[0]
        assert bool(places.all()) and own.numpy() == pytest.approx(points, abs=1e-4)


def test_missing_sharp_peaks_come_last_and_are_masked() -> None:
    scores = (0.5 * bump(20, 10, sigma=0.5) + bump(40, 30))[None].where(bump(20, 10)[None] + bump(40, 30) > 1e-3, 0.0)
    peaks, found = sharp_peaks(scores, 6)
    assert peaks[0][found[0]].tolist()[:2] == [[20, 10], [40, 30]]
    assert found[0].tolist() == sorted(found[0].tolist(), reverse=True)


@pytest.mark.parametrize("x, y", [(20.0, 15.0), (20.3, 14.8), (19.6, 15.45)])
def test_centroid_finds_the_sub_pixel_peak(x: float, y: float) -> None:
    found = centroids(bump(x, y)[None], torch.tensor([[[20, 15]]]))[0, 0]
    assert found.tolist() == pytest.approx([x, y], abs=0.06)


def test_centroid_moves_with_the_scores_gradient() -> None:
    scores = bump(20, 15)[None].requires_grad_()
    centroids(scores, torch.tensor([[[20, 15]]]))[0, 0, 0].backward()
    assert scores.grad[0, 15, 21] > 0 > scores.grad[0, 15, 19]


def test_warp_points_and_its_horizon() -> None:
    H = torch.tensor([[[2.0, 0, 1], [0, 2, -1], [0.01, 0, 1]]])
    mapped = warp_points(torch.tensor([[[0.0, 0], [100, 0], [-200, 0]]]), H)
    assert mapped[0, 0].tolist() == [1, -1]
    assert mapped[0, 1].tolist() == [100.5, -0.5]
    assert not bool(inside(mapped, 640, 480)[0, 2])
