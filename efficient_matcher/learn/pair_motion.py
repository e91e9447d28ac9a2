"""Where the points of one training view lie in the other: by a homography, or by a map read off a scene's depth.

Points are [B,N,2] px, x right, y down, centres at integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from efficient_matcher.learn.keypoints import warp_points

HIDDEN = -1e4  # px; where a point is said to lie that the other view does not show, or may not: outside any view


@dataclass(frozen=True)
class PairMotion:
    """Of P pairs that a homography joins and, after them, S pairs that maps join.

    H_0to1: [P,3,3]. maps: [S,2,h,w,2] px, where each pixel of view 0 lies in view 1 and each of view 1 in view 0, HIDDEN
    where it is not seen or in doubt; None without such pairs.
    """

    H_0to1: Tensor
    maps: Tensor | None = None

    def ahead(self, points0: Tensor) -> Tensor:
        """Points [P+S,N,2] of views 0, in views 1; the gradient goes through."""
        return self._moved(points0, self.H_0to1, 0)

    def back(self, points1: Tensor) -> Tensor:
        """Points [P+S,N,2] of views 1, in views 0."""
        return self._moved(points1, torch.linalg.inv(self.H_0to1), 1)

    def _moved(self, points: Tensor, H: Tensor, direction: int) -> Tensor:
        if self.maps is None:
            return warp_points(points, H)
        warped = warp_points(points[: len(H)], H)
        return torch.cat([warped, read_maps(self.maps[:, direction], points[len(H):])])


def read_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Maps [S,h,w,2] at points [S,N,2], bilinear; HIDDEN where one of the four pixels about is, or beyond the border."""
    height, width = maps.shape[1:3]
    low = points.detach().floor().long()
    inside = (low >= 0).all(-1) & (low[..., 0] < width - 1) & (low[..., 1] < height - 1)
    x, y = low[..., 0].clamp(0, width - 2), low[..., 1].clamp(0, height - 2)
    right, down = (points - torch.stack([x, y], dim=-1)).split(1, dim=-1)
    rows = maps.reshape(len(maps), height * width, 2)

    def at(dx: int, dy: int) -> Tensor:
        return rows.gather(1, ((y + dy) * width + x + dx)[..., None].expand(-1, -1, 2))

    corners = at(0, 0), at(1, 0), at(0, 1), at(1, 1)
    known = inside & torch.stack([(corner > HIDDEN).all(-1) for corner in corners]).all(0)
    upper, lower = torch.lerp(corners[0], corners[1], right), torch.lerp(corners[2], corners[3], right)
    return torch.where(known[..., None], torch.lerp(upper, lower, down), maps.new_tensor(HIDDEN))
