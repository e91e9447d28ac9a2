"""Losses have their least value where they should, and the values that a hand can work out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from efficient_matcher.learn import losses
from efficient_matcher.learn.keypoints import warp_points
from efficient_matcher.learn.pair_motion import HIDDEN, PairMotion

SHAPE = (1, 16, 24)  # one view of 2x3 cells
Pair = tuple[torch.Tensor, torch.Tensor, PairMotion]


def draw(x: float, y: float, weight: float = 1.0) -> torch.Tensor:
    return losses.draw_points(torch.tensor([[x, y]]), torch.tensor([0]), torch.tensor([weight]), SHAPE)


def test_a_point_on_a_pixel_fills_its_location() -> None:
    mass = draw(10, 3)
    assert mass[0, 3 * 8 + 2, 0, 1] == 1 and mass.sum() == 1


def test_a_point_between_pixels_and_cells_is_shared() -> None:
    mass = draw(7.5, 2.25)
    assert mass[0, 2 * 8 + 7, 0, 0] == pytest.approx(0.375)
    assert mass[0, 2 * 8 + 0, 0, 1] == pytest.approx(0.375)
    assert mass.sum() == pytest.approx(1)


def test_two_points_in_a_cell_make_one_distribution() -> None:
    labels = np.array([[1, 1, 1.0], [5, 5, 1.0]], np.float32)
    mass = losses.draw_labels([labels], SHAPE)
    assert mass[0, :, 0, 0].sum() == pytest.approx(1) and mass[0, 9, 0, 0] == pytest.approx(0.5)


def test_detector_loss_of_uniform_logits_is_log_65() -> None:
    assert losses.detector_loss(torch.zeros(1, 65, 2, 3), draw(10, 3)).item() == pytest.approx(math.log(65))


def test_detector_loss_counts_only_weighted_cells() -> None:
    logits = torch.zeros(1, 65, 2, 3)
    logits[0, 64, 1, 2] = 50.0  # a sure dustbin where there is none of the label
    weight = torch.zeros(1, 2, 3)
    weight[0, 1, 2] = 1
    assert losses.detector_loss(logits, draw(10, 3), weight).item() == pytest.approx(0, abs=1e-4)


def test_location_loss_ignores_the_dustbin_and_empty_cells() -> None:
    logits = torch.zeros(1, 65, 2, 3)
    logits[:, 64] = 30.0
    assert losses.location_loss(logits, draw(10, 3)).item() == pytest.approx(math.log(64))
    logits[0, 26, 0, 1] = 60.0
    assert losses.location_loss(logits, draw(10, 3)).item() == pytest.approx(0, abs=1e-4)


def shift_by_maps(dx: float, dy: float) -> PairMotion:
    """A shift in views of 128x96 px, told by maps."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    maps = torch.stack([torch.stack([x + dx, y + dy], -1), torch.stack([x - dx, y - dy], -1)])
    return PairMotion(torch.zeros(0, 3, 3), maps[None])


@pytest.fixture(params=["homography", "maps"])
def shifted_pair(request: pytest.FixtureRequest) -> Pair:
    """Three points, their true places under a shift by (10, 5), the second one displaced by 0.6 px."""
    H = torch.eye(3)[None].clone()
    H[0, 0, 2], H[0, 1, 2] = 10, 5
    motion = PairMotion(H) if request.param == "homography" else shift_by_maps(10, 5)
    points0 = torch.tensor([[[20.0, 20], [40, 30], [90, 60]]])
    points1 = warp_points(points0, H)
    points1[0, 1, 0] += 0.6
    points1[0, 2] = torch.tensor([30.0, 50.0])  # the third is not found again
    return points0, points1, motion


def test_repeated_peaks_are_mutual_and_near(shifted_pair: Pair) -> None:
    points0, points1, motion = shifted_pair
    found = torch.ones(1, 3, dtype=torch.bool)
    partner, visible0, _ = losses.repeated_peaks(points0, points1, found, found, motion, (128, 96), 3.0)
    assert partner.tolist() == [[0, 1, -1]] and bool(visible0.all())


def test_reprojection_loss_is_the_distance_and_its_gradient_closes_it(shifted_pair: Pair) -> None:
    points0, points1, motion = shifted_pair
    points1.requires_grad_()
    loss = losses.reprojection_loss(points0, points1, torch.tensor([[0, 1, -1]]), motion)
    loss.backward()
    assert loss.item() == pytest.approx((0.01 + 0.6) / 2, abs=1e-3)
    assert points1.grad[0, 1, 0] > 0 and points1.grad[0, 2].abs().sum() == 0


def test_what_the_other_view_does_not_show_is_no_peak_of_both() -> None:
    motion = shift_by_maps(10, 5)
    motion.maps[0, 0, 20, 20] = HIDDEN
    points0, found = torch.tensor([[[20.4, 20.3], [40, 30]]]), torch.ones(1, 2, dtype=torch.bool)
    points1 = points0 + torch.tensor([10.0, 5.0])
    partner, visible0, visible1 = losses.repeated_peaks(points0, points1, found, found, motion, (128, 96), 3.0)
    assert partner.tolist() == [[-1, 1]] and visible0.tolist() == [[False, True]] and bool(visible1.all())


def test_reprojection_loss_without_repeated_peaks_is_zero(shifted_pair: Pair) -> None:
    points0, points1, motion = shifted_pair
    assert losses.reprojection_loss(points0, points1, torch.full((1, 3), -1), motion).item() == 0


def test_self_labels_average_repeats_and_empty_the_cells_of_the_rest(shifted_pair: Pair) -> None:
    points0, points1, motion = shifted_pair
    everything = torch.ones(1, 3, dtype=torch.bool)
    matches = torch.tensor([[0, 1, -1]])
    mass, counts = losses.self_labels(points0, points1, matches, everything, everything, motion, (128, 96))
    cell_of_second = mass[0, :, 30 // 8, 40 // 8]  # averaged position (40.3, 30)
    assert cell_of_second[6 * 8 + 0] == pytest.approx(0.7, abs=1e-4)
    assert cell_of_second[6 * 8 + 1] == pytest.approx(0.3, abs=1e-4)
    assert mass[0, :, 60 // 8, 90 // 8].sum() == 0 and counts[0, 60 // 8, 90 // 8] == 1
    assert counts[0, 0, 0] == 0


def test_descriptor_loss_prefers_the_true_correspondence() -> None:
    one_hot = torch.eye(4)[None]
    points = torch.tensor([[[0.0, 0], [50, 0], [0, 50], [50, 50]]])
    valid = torch.ones(1, 4, dtype=torch.bool)
    scale = torch.tensor(20.0)
    right = losses.descriptor_loss(one_hot, one_hot, points, valid, scale)
    wrong = losses.descriptor_loss(one_hot, one_hot.roll(1, 1), points, valid, scale)
    assert right.item() < 1e-3 and wrong.item() > 10


def test_descriptor_loss_spares_neighbours_and_invalid_rows() -> None:
    same = torch.ones(1, 3, 4) / 2  # all alike: every other correspondence confuses
    points = torch.tensor([[[0.0, 0], [3, 0], [90, 90]]])
    valid = torch.tensor([[True, True, False]])
    loss = losses.descriptor_loss(same, same, points, valid, torch.tensor(10.0))
    assert loss.item() == pytest.approx(0, abs=1e-4)  # the near one is no negative, the invalid one does not count
