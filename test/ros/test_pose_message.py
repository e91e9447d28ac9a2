"""`~/relative_pose` there and back, with the messages of a rosbags typestore."""

from __future__ import annotations

import numpy as np
import pytest

from efficient_matcher.core.relative_pose import no_pose
from efficient_matcher.errors import MatcherError
from efficient_matcher.records import Features, Frame, Homography, Matches, PairResult, RelativePose
from efficient_matcher.ros.messages import MessageTypes, make_header, pack_homography, cloud_message
from efficient_matcher.ros.pose_message import POSE_DTYPE, pose_message, unpack_pose

COVARIANCE = np.arange(36.0).reshape(6, 6) + np.arange(36.0).reshape(6, 6).T


@pytest.fixture(scope="module")
def types() -> MessageTypes:
    typesys = pytest.importorskip("rosbags.typesys")
    return MessageTypes.from_typestore(typesys.get_typestore(typesys.Stores.ROS2_HUMBLE))


@pytest.fixture()
def result() -> PairResult:
    features = Features(np.zeros((4, 2), np.float32), np.ones(4, np.float32), np.zeros((4, 8), np.float32), (64, 48))
    matches = Matches(np.column_stack([np.arange(3)] * 2).astype(np.int32), np.ones(3, np.float32))
    none = Homography(None, np.zeros(3, bool), np.full((8, 8), np.nan), float("nan"))
    return PairResult(features, features, matches, none, frame0=Frame(np.zeros((48, 64), np.uint8), 2_000_000_007))


def test_the_row_is_laid_out_as_documented() -> None:
    assert POSE_DTYPE.itemsize == 304
    assert [POSE_DTYPE.fields[name][1] for name in POSE_DTYPE.names] == [
        0, 72, 96, 264, 272, 280, 284, 288, 292, 296, 297, 298]


def test_a_pose_there_and_back(types: MessageTypes, result: PairResult) -> None:
    turn, way = np.arange(9.0).reshape(3, 3), np.array([0.0, 0.6, 0.8])
    pose = RelativePose(turn, way, np.array([True, False, True]), COVARIANCE, 1.5, 7.25)
    header = make_header(types, 5, "left")
    message = pose_message(types, header, result, pose, 0, 1)
    assert message.header is header and message.is_dense and message.width == 1
    row = unpack_pose(message)[0]
    assert np.array_equal(row["R"].reshape(3, 3), turn) and np.array_equal(row["t"], way)
    assert np.array_equal(row["cov"], COVARIANCE[np.triu_indices(6)])
    assert (row["margin"], row["parallax_px"], row["n_matches"], row["n_inliers"]) == (1.5, 7.25, 3, 2)
    assert (row["ref_sec"], row["ref_nanosec"], row["valid"], row["ref_cam"], row["cur_cam"]) == (2, 7, 1, 0, 1)


def test_no_pose_is_published_as_invalid(types: MessageTypes, result: PairResult) -> None:
    message = pose_message(types, make_header(types, 5, ""), result, no_pose(3))
    row = unpack_pose(message)[0]
    assert row["valid"] == 0 and not message.is_dense and (row["n_matches"], row["n_inliers"]) == (3, 0)
    assert all(np.isnan(row[name]).all() for name in ("R", "t", "cov", "margin", "parallax_px"))


def test_another_cloud_is_refused_by_the_name_of_what_is_missing(types: MessageTypes, result: PairResult) -> None:
    other = cloud_message(types, make_header(types, 5, ""), pack_homography(result), is_dense=False)
    with pytest.raises(MatcherError, match="the cloud has no field 'R'"):
        unpack_pose(other)
