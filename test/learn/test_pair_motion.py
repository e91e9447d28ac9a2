"""Where points of a pair's views lie in each other, by homographies and by maps."""

from __future__ import annotations

import torch

from efficient_matcher.learn.keypoints import warp_points
from efficient_matcher.learn.pair_motion import HIDDEN, PairMotion, read_maps

H = torch.tensor([[[1.05, 0.1, -4.0], [-0.08, 0.97, 6.0], [4e-4, -2e-4, 1.0]]])
SIZE = (64, 48)  # width, height


def map_of(transform: torch.Tensor) -> torch.Tensor:
    """Where a homography [1,3,3] takes every pixel, [h,w,2]."""
    y, x = torch.meshgrid(torch.arange(float(SIZE[1])), torch.arange(float(SIZE[0])), indexing="ij")
    return warp_points(torch.stack([x, y], -1).reshape(1, -1, 2), transform).reshape(SIZE[1], SIZE[0], 2)


def test_maps_of_a_homography_say_what_it_says() -> None:
    maps = torch.stack([map_of(H), map_of(torch.linalg.inv(H))])[None]
    motion = PairMotion(H, maps)
    points = torch.rand(2, 40, 2, generator=torch.manual_seed(0)) * torch.tensor([62.0, 46.0])
    points[1] = points[0]
    for moved in (motion.ahead(points), motion.back(points)):
        assert torch.allclose(moved[0], moved[1], atol=2e-3)
    assert torch.allclose(motion.ahead(points)[0], warp_points(points[:1], H)[0])


def test_gradients_go_through_a_map_as_through_its_homography() -> None:
    points = torch.tensor([[[20.3, 11.6]]])
    by_map, by_homography = points.clone().requires_grad_(), points.clone().requires_grad_()
    read_maps(map_of(H)[None], by_map)[..., 0].sum().backward()
    warp_points(by_homography, H)[..., 0].sum().backward()
    assert torch.allclose(by_map.grad, by_homography.grad, atol=2e-3)


def test_hidden_neighbours_and_borders_hide_a_point() -> None:
    maps = map_of(torch.eye(3)[None])[None].clone()
    maps[0, 10, 10] = HIDDEN
    points = torch.tensor([[[9.5, 9.5], [10.0, 10.0], [11.0, 10.0], [11.5, 10.5], [63.5, 20], [-0.5, 5], [5, 48]]])
    hidden = (read_maps(maps, points) == HIDDEN).all(-1)
    assert hidden.tolist() == [[True, True, False, False, True, True, True]]


def test_without_maps_it_is_the_homography() -> None:
    points = torch.rand(1, 5, 2) * 40
    assert torch.equal(PairMotion(H).ahead(points), warp_points(points, H))
    assert torch.allclose(PairMotion(H).back(PairMotion(H).ahead(points)), points, atol=1e-3)
