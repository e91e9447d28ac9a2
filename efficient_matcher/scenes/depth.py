"""Where a point of one view lies in another, by depth and relative pose.

Points are [N,2] px, x right, y down, centres at integers; depth maps [H,W] m, 0 where unknown;
T_0to1 [4,4] takes camera coordinates 0 to camera coordinates 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EDGE_RATIO = 1.05  # neighbouring depths farther apart than this belong to different surfaces
AGREEMENT = 0.03  # of a projected depth with the depth map, for the point to be in sight


@dataclass(frozen=True)
class DepthView:
    """What is known of a view's geometry: K [3,3], pose T_world_to_camera [4,4], depth [H,W] float32 m, 0 unknown."""

    K: Array
    pose: Array
    depth: NDArray[np.float32]


@dataclass(frozen=True)
class Transfer:
    """Points of view 0 as view 1 has them.

    points: [N,2] px, NaN where the depth is unknown or the point is behind camera 1. visible: [N], inside image 1
    and not hidden. sure: [N], False where the depth is unknown or a depth edge is so near that the point may belong
    to either surface; then the nearer one was taken.
    """

    points: Array
    visible: NDArray[np.bool_]
    sure: NDArray[np.bool_]


def transfer(points: NDArray[np.floating], view0: DepthView, view1: DepthView) -> Transfer:
    """Move points [N,2] px of view 0 to view 1 by view 0's depth; view 1's tells what is hidden."""
    depth, sure = depth_at(view0.depth, points)
    T_0to1 = view1.pose @ np.linalg.inv(view0.pose)
    moved, z = project(points, depth, view0.K, T_0to1, view1.K)
    return Transfer(moved, _in_sight(moved, z, view1.depth), sure)


def project(points: NDArray[np.floating], depth: Array, K0: Array, T_0to1: Array, K1: Array) -> tuple[Array, Array]:
    """Points [N,2] of depth [N] in camera 0 to pixels [N,2] and depth [N] in camera 1; NaN behind it."""
    rays = np.column_stack([points, np.ones(len(points))]) @ np.linalg.inv(K0).T
    moved = (rays * depth[:, None]) @ T_0to1[:3, :3].T + T_0to1[:3, 3]
    z = np.where(moved[:, 2] > 1e-6, moved[:, 2], np.nan)
    return (moved @ K1.T)[:, :2] / z[:, None], z


def depth_at(depth: NDArray[np.float32], points: NDArray[np.floating]) -> tuple[Array, NDArray[np.bool_]]:
    """Depth [N] at points [N,2], NaN where unknown, and whether it is sure [N].

    On a plane inverse depth is linear, so bilinear interpolation of it is exact there. Near an edge between surfaces,
    where corners are that belong to the nearer one, it is the smallest depth about.
    """
    height, width = depth.shape
    x, y = (np.clip(column, 0, last) for column, last in zip(np.asarray(points, np.float64).T, (width - 1, height - 1)))
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    around = np.stack([depth[top + dy, left + dx] for dy in (0, 1) for dx in (0, 1)]).astype(np.float64)
    known = (around > 0).all(0)
    inverse = 1 / np.where(around > 0, around, np.nan)
    fx, fy = x - left, y - top
    plane = (inverse[0] * (1 - fx) + inverse[1] * fx) * (1 - fy) + (inverse[2] * (1 - fx) + inverse[3] * fx) * fy
    nearest, farthest = _extremes(depth, left, top)
    whole = known & (farthest < EDGE_RATIO * nearest)
    return np.where(whole, 1 / plane, np.where(nearest > 0, nearest, np.nan)), whole


def _extremes(depth: NDArray[np.float32], left: NDArray[np.intp], top: NDArray[np.intp]) -> tuple[Array, Array]:
    """Smallest and largest depth [N] in the 4x4 pixels about; the smallest is of the known ones, 0 without any."""
    kernel = np.ones((4, 4), np.uint8)
    known = np.where(depth > 0, depth, np.float32(np.inf))
    smallest = cv2.erode(known, kernel, anchor=(1, 1), borderType=cv2.BORDER_REPLICATE)[top, left]
    largest = cv2.dilate(known, kernel, anchor=(1, 1), borderType=cv2.BORDER_REPLICATE)[top, left]
    return np.where(np.isfinite(smallest), smallest, 0.0).astype(np.float64), largest.astype(np.float64)


def _in_sight(points: Array, z: Array, depth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether points [N,2] of depth z [N] are inside the image and within the depths of the pixels about."""
    height, width = depth.shape
    x, y = points.T
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)  # False for NaN
    left = np.minimum(np.where(inside, x, 0).astype(int), width - 2)
    top = np.minimum(np.where(inside, y, 0).astype(int), height - 2)
    around = np.stack([depth[top + dy, left + dx] for dy in (0, 1) for dx in (0, 1)]).astype(np.float64)
    return inside & (around.min(0) * (1 - AGREEMENT) < z) & (z < around.max(0) * (1 + AGREEMENT))
