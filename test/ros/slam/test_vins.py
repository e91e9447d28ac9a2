"""Features for VINS-Fusion, read back as its estimator reads them: by the places of the channels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from efficient_matcher.core.relative_pose import no_pose
from efficient_matcher.records import Features, Frame, Homography, Matches, PairResult, RelativePose
from efficient_matcher.ros.messages import NO_TRACK, MessageTypes, make_header
from efficient_matcher.ros.slam.vins import features_message, pack_features

COUNT = 6
RAYS0 = np.column_stack([np.linspace(-0.5, 0.5, COUNT), np.zeros(COUNT), np.ones(COUNT)]).astype(np.float32)
RAYS1 = RAYS0 + np.array([0.01, -0.02, 0], np.float32)


@pytest.fixture()
def result() -> PairResult:
    points = np.arange(2.0 * COUNT).reshape(COUNT, 2).astype(np.float32)
    features = Features(points, np.ones(COUNT, np.float32), np.zeros((COUNT, 8), np.float32), (64, 48))
    matches = Matches(np.column_stack([np.arange(COUNT)] * 2).astype(np.int32), np.ones(COUNT, np.float32))
    none = Homography(None, np.zeros(COUNT, bool), np.full((8, 8), np.nan), float("nan"))
    frames = [Frame(np.zeros((48, 64), np.uint8), stamp) for stamp in (1_000_000_000, 1_100_000_000)]
    ids = np.array([7, NO_TRACK, (1 << 24) + 9, 3, 4, 5], np.uint32)
    return PairResult(features, features, matches, none, track_ids=ids, frame0=frames[0], frame1=frames[1])


def test_the_channels_stand_where_the_estimator_looks(result: PairResult) -> None:
    rows = pack_features(result, RAYS0, RAYS1, no_pose(COUNT))
    assert rows.shape == (COUNT - 1, 12) and rows.dtype == np.float32
    kept = [0, 2, 3, 4, 5]  # one is no track
    assert np.array_equal(rows[:, :3], RAYS1[kept]) and rows[:, 3].tolist() == [7, 9, 3, 4, 5]
    assert not rows[:, 4].any() and not rows[:, 9:].any()
    assert np.array_equal(rows[:, 5:7], result.points1[kept])
    np.testing.assert_allclose(rows[:, 7:9], [[0.1, -0.2]] * (COUNT - 1), atol=1e-5)  # in 0.1 s


def test_what_contradicts_the_pose_or_has_no_ray_is_left_out(result: PairResult) -> None:
    rays = RAYS1.copy()
    rays[3] = np.nan
    pose = RelativePose(np.eye(3), np.array([1.0, 0, 0]), np.array([True] * 5 + [False]), np.eye(6), 2.0, 5.0)
    assert pack_features(result, RAYS0, rays, pose)[:, 3].tolist() == [7, 9, 4]


def test_without_rays_tracks_or_time_there_are_no_features(result: PairResult) -> None:
    for changed, rays in ((result, None), (replace(result, track_ids=None), RAYS1),
                          (replace(result, frame1=result.frame0), RAYS1), (replace(result, frame0=None), RAYS1)):
        assert pack_features(changed, RAYS0, rays, no_pose(COUNT)).shape == (0, 12)


def test_the_message_comes_back_from_a_bag(result: PairResult) -> None:
    typesys = pytest.importorskip("rosbags.typesys")
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    types = MessageTypes.from_typestore(store)
    rows = pack_features(result, RAYS0, RAYS1, no_pose(COUNT))
    message = features_message(types, make_header(types, 1_100_000_000, "camera"), rows)
    read = store.deserialize_cdr(store.serialize_cdr(message, "sensor_msgs/msg/PointCloud"), "sensor_msgs/msg/PointCloud")
    assert [len(channel.values) for channel in read.channels] == [COUNT - 1] * 9 and read.channels[0].name == "id_of_point"
    assert [point.z for point in read.points] == [1.0] * (COUNT - 1)
    assert np.array_equal(np.column_stack([channel.values for channel in read.channels]), rows[:, 3:])
    assert read.header.frame_id == "camera" and read.header.stamp.nanosec == 100_000_000
