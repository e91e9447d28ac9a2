"""Where the camera was: poses from an odometry or ground-truth topic of a bag, and the static transforms beside them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.errors import SourceError
from efficient_matcher.ros.messages import stamp_ns
from efficient_matcher.sources.bags import ImageBag

Array = NDArray[np.float64]

POSE_TYPES = ("nav_msgs/msg/Odometry", "geometry_msgs/msg/PoseStamped",
              "geometry_msgs/msg/PoseWithCovarianceStamped", "geometry_msgs/msg/TransformStamped")
STATIC_TOPIC = "/tf_static"
LONGEST_GAP_NS = 200_000_000  # between two poses that one is interpolated from


@dataclass(frozen=True)
class Trajectory:
    """Poses of a body in a fixed frame: stamps [N] ns, ascending; positions [N,3] m; quaternions [N,4] (x, y, z, w).

    body: the frame that moves; "" where the messages do not name it, as geometry_msgs/PoseStamped.
    """

    stamps: NDArray[np.int64]
    positions: Array
    quaternions: Array
    body: str

    def at(self, stamp: int) -> Array | None:
        """T_body_to_world [4,4] at a stamp, ns, between two poses; None outside, or where they are far apart."""
        after = int(np.searchsorted(self.stamps, stamp))
        if after < len(self.stamps) and self.stamps[after] == stamp:
            return pose_matrix(self.positions[after], self.quaternions[after])
        if not 0 < after < len(self.stamps):
            return None
        start, end = self.stamps[after - 1], self.stamps[after]
        if end - start > LONGEST_GAP_NS:
            return None
        share = float(stamp - start) / float(end - start)
        position = (1 - share) * self.positions[after - 1] + share * self.positions[after]
        q0, q1 = self.quaternions[after - 1], self.quaternions[after]
        return pose_matrix(position, (1 - share) * q0 + share * np.copysign(1.0, q0 @ q1) * q1)  # so near: no slerp


def read_trajectory(bag: ImageBag, topic: str | None = None) -> Trajectory:
    """The poses of a topic; it may be left out when the bag has exactly one of `POSE_TYPES`.

    Raises SourceError naming bag and topic where there is none, several, or one whose numbers are no poses.
    """
    topic = _choose(bag, topic)
    rows, body = [], ""
    for message in bag.messages(topic):
        pose = _pose_of(message)
        position, rotation = getattr(pose, "position", None) or pose.translation, _rotation(pose)
        rows.append((stamp_ns(message.header), position.x, position.y, position.z,
                     rotation.x, rotation.y, rotation.z, rotation.w))
        body = str(getattr(message, "child_frame_id", "")).lstrip("/")
    stamps = np.array([row[0] for row in rows], np.int64)
    values = np.array([row[1:] for row in rows], np.float64).reshape(-1, 7)
    if not np.isfinite(values).all() or (np.linalg.norm(values[:, 3:], axis=1) < 0.5).any():
        raise SourceError(f"{bag.path}: topic {topic} holds poses that are not finite or have no rotation")
    order = np.unique(stamps, return_index=True)[1]
    return Trajectory(stamps[order], values[order, :3], values[order, 3:], body)


def camera_in_body(bag: ImageBag, body: str, camera: str) -> Array:
    """T_camera_to_body [4,4] by the bag's static transforms; the identity where `body` is the camera or not named.

    Raises SourceError naming both frames where the transforms do not connect them.
    """
    camera = camera.lstrip("/")
    if body in ("", camera):
        return np.eye(4)
    links: dict[str, list[tuple[str, Array]]] = {}
    for message in bag.messages(STATIC_TOPIC):
        for transform in message.transforms:
            parent, child = str(transform.header.frame_id).lstrip("/"), str(transform.child_frame_id).lstrip("/")
            link = _matrix_of(transform.transform)
            links.setdefault(parent, []).append((child, link))
            links.setdefault(child, []).append((parent, np.linalg.inv(link)))
    found, waiting = {body: np.eye(4)}, deque([body])
    while waiting:
        here = waiting.popleft()
        for there, link in links.get(here, []):
            if there not in found:
                found[there] = found[here] @ link
                waiting.append(there)
    if camera not in found:
        raise SourceError(f"{bag.path}: poses are those of '{body}', images those of '{camera}', and {STATIC_TOPIC} "
                          "does not connect them")
    return found[camera]


def pose_matrix(position: Array, quaternion: Array) -> Array:
    """[4,4] of a position [3] and a quaternion [4] (x, y, z, w) of any length."""
    x, y, z, w = quaternion / np.linalg.norm(quaternion)
    matrix = np.eye(4)
    matrix[:3, :3] = [[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                      [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                      [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]]
    matrix[:3, 3] = position
    return matrix


def _choose(bag: ImageBag, topic: str | None) -> str:
    known = bag.topics(POSE_TYPES)
    if topic is not None and topic not in known:
        raise SourceError(f"{bag.path}: '{topic}' is not a pose topic with messages; "
                          f"it has {', '.join(known) or 'none'}")
    if topic is None and len(known) != 1:
        raise SourceError(f"{bag.path}: has {'several pose topics' if known else 'no pose or odometry topic'}"
                          + (f", choose one with --pose-topic: {', '.join(known)}" if known else ""))
    return topic or known[0]


def _pose_of(message: Any) -> Any:
    """The geometry_msgs/Pose or Transform in a message of `POSE_TYPES`."""
    inner = message.transform if hasattr(message, "transform") else message.pose
    return getattr(inner, "pose", inner)  # with covariance it is one level deeper


def _rotation(pose: Any) -> Any:
    return pose.rotation if hasattr(pose, "rotation") else pose.orientation


def _matrix_of(transform: Any) -> Array:
    t, q = transform.translation, transform.rotation
    return pose_matrix(np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w]))
