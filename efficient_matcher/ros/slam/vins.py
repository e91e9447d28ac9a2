"""Tracked features as VINS-Fusion's estimator reads them from a topic: sensor_msgs/PointCloud, one point a feature.

A point is its ray at z = 1. The channels, by their places: id, camera, u, v (px), velocity of the ray in x and in y (1/s),
and three that a simulator would fill with the true point; they must be there, and are 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.records import PairResult, RelativePose
from efficient_matcher.ros.messages import NO_TRACK, MessageTypes

CHANNELS = ("id_of_point", "camera_id", "p_u", "p_v", "velocity_x", "velocity_y", "gx", "gy", "gz")
IDS = 1 << 24  # whole numbers that a float32 tells apart; ids go round after so many tracks

Rays = NDArray[np.float32]


def pack_features(result: PairResult, rays0: Rays | None, rays1: Rays | None, pose: RelativePose) -> NDArray[np.float32]:
    """Rows [N, 3 + 9] of the tracked matches: x, y, z and the channels.

    rays: [K,3] of the matches in both images, None where there is no CameraInfo; then, and without track ids or time
    between the images, there are no rows. pose: where one was found, matches that contradict it are left out.
    """
    count, elapsed_s = len(result.matches), _elapsed_s(result)
    if rays0 is None or rays1 is None or result.track_ids is None or elapsed_s <= 0:
        return np.zeros((0, 3 + len(CHANNELS)), np.float32)
    kept = np.isfinite(rays0).all(1) & np.isfinite(rays1).all(1) & (result.track_ids != NO_TRACK)
    if pose.valid:
        kept &= pose.inliers
    velocities = (rays1[:, :2] - rays0[:, :2]) / np.float32(elapsed_s)
    rows = np.column_stack([rays1, result.track_ids % IDS, np.zeros(count), result.points1, velocities, np.zeros((count, 3))])
    return rows[kept].astype(np.float32)


def features_message(types: MessageTypes, header: Any, rows: NDArray[np.float32]) -> Any:
    """The PointCloud of `pack_features`' rows, under the current image's header."""
    points = [types.point32(x=x, y=y, z=z) for x, y, z in rows[:, :3].tolist()]
    channels = [types.channel(name=name, values=types.to_floats(values))
                for name, values in zip(CHANNELS, np.ascontiguousarray(rows[:, 3:].T))]
    return types.features(header=header, points=points, channels=channels)


def _elapsed_s(result: PairResult) -> float:
    if result.frame0 is None or result.frame1 is None:
        return 0.0
    return 1e-9 * (result.frame1.stamp_ns - result.frame0.stamp_ns)
