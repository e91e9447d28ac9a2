"""`~/relative_pose`: one row a pair, and back; as messages.py does for the other two clouds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.records import PairResult, RelativePose
from efficient_matcher.ros.messages import MessageTypes, cloud_message, unpack_cloud

POSE_DTYPE = np.dtype({
    "names": ["R", "t", "cov", "margin", "parallax_px", "ref_sec", "ref_nanosec", "n_matches", "n_inliers", "valid",
              "ref_cam", "cur_cam"],
    "formats": [("<f8", (9,)), ("<f8", (3,)), ("<f8", (21,)), "<f8", "<f8", "<i4", "<u4", "<u4", "<u4", "u1", "u1", "u1"],
    "offsets": [0, 72, 96, 264, 272, 280, 284, 288, 292, 296, 297, 298],
    "itemsize": 304,
})


def pack_pose(result: PairResult, pose: RelativePose, ref_cam: int = 0, cur_cam: int = 0) -> NDArray[np.void]:
    """The one row of `~/relative_pose`: [1] of POSE_DTYPE; all but counts and stamps are NaN where `valid` is 0."""
    row = np.zeros(1, POSE_DTYPE)
    row["R"] = np.nan if pose.rotation is None else pose.rotation.ravel()
    row["t"] = np.nan if pose.translation is None else pose.translation
    row["cov"] = pose.covariance[np.triu_indices(6)]
    row["margin"], row["parallax_px"] = pose.margin, pose.parallax_px
    reference = 0 if result.frame0 is None else result.frame0.stamp_ns
    row["ref_sec"], row["ref_nanosec"] = divmod(reference, 1_000_000_000)
    row["n_matches"], row["n_inliers"] = len(result.matches), int(pose.inliers.sum())
    row["valid"], row["ref_cam"], row["cur_cam"] = pose.valid, ref_cam, cur_cam
    return row


def pose_message(types: MessageTypes, header: Any, result: PairResult, pose: RelativePose, ref_cam: int = 0,
                 cur_cam: int = 0) -> Any:
    """`~/relative_pose` as a PointCloud2 under the current image's header; also when no pose was found."""
    return cloud_message(types, header, pack_pose(result, pose, ref_cam, cur_cam), is_dense=pose.valid)


def unpack_pose(message: Any) -> NDArray[np.void]:
    """`~/relative_pose` back to [1] row of POSE_DTYPE; raises MatcherError for another kind of cloud."""
    return unpack_cloud(message, POSE_DTYPE)
