"""Messages of a camera to outputs, with the messages of a rosbags typestore: no ROS needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from efficient_matcher.config import Config
from efficient_matcher.core.geometry import corner_error
from efficient_matcher.core.pipeline import Matcher
from efficient_matcher.errors import ImageError
from efficient_matcher.ros.messages import MessageTypes, unpack_homography, unpack_matches
from efficient_matcher.ros.pose_message import unpack_pose
from efficient_matcher.ros.stream import CameraStream

K = [300.0, 0.0, 160.0, 0.0, 300.0, 120.0, 0.0, 0.0, 1.0]


def image_message(image: np.ndarray, milliseconds: int, frame_id: str = "camera") -> SimpleNamespace:
    sec, rest = divmod(milliseconds, 1000)
    header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=rest * 1_000_000), frame_id=frame_id)
    height, width = image.shape
    return SimpleNamespace(header=header, height=height, width=width, encoding="mono8", is_bigendian=0, step=width,
                           data=np.frombuffer(image.tobytes(), np.uint8))


def camera_info(**changes: Any) -> SimpleNamespace:
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    info = SimpleNamespace(width=320, height=240, distortion_model="plumb_bob", d=[0.0] * 5, k=K, p=[0.0] * 12,
                           binning_x=0, binning_y=0, roi=roi)
    info.__dict__.update(changes)
    return info


@pytest.fixture(scope="module")
def types() -> MessageTypes:
    typesys = pytest.importorskip("rosbags.typesys")
    return MessageTypes.from_typestore(typesys.get_typestore(typesys.Stores.ROS2_HUMBLE))


@pytest.fixture()
def warnings() -> list[str]:
    return []


@pytest.fixture()
def stream(tiny_bundle: Path, warnings: list[str]) -> CameraStream:
    config = Config().with_values({"input.width": 320, "input.height": 240, "model.threads": 1})
    return CameraStream(Matcher.from_bundle(tiny_bundle, config), warnings.append)


def test_second_image_gives_the_homography_under_its_own_header(stream: CameraStream, warped_pair: Any,
                                                               types: MessageTypes) -> None:
    first, second = image_message(warped_pair.image0, 1000), image_message(warped_pair.image1, 1033)
    assert stream.process((first,)) is None
    output = stream.process((second,))
    assert output.header is second.header
    row = unpack_homography(output.homography(types))[0]
    assert row["valid"] == 1 and (row["ref_sec"], row["ref_nanosec"]) == (1, 0)
    assert corner_error(row["H"].reshape(3, 3), warped_pair.matrix, (320, 240)) < 1.0
    assert len(unpack_matches(output.matches(types))) == row["n_matches"] >= 50


def test_rays_come_from_camera_info(stream: CameraStream, warped_pair: Any, types: MessageTypes) -> None:
    stream.set_camera_info(0, camera_info())
    stream.process((image_message(warped_pair.image0, 0),))
    rows = unpack_matches(stream.process((image_message(warped_pair.image1, 33),)).matches(types))
    np.testing.assert_allclose(rows["x"], (rows["u1"] - 160) / 300, atol=1e-6)
    np.testing.assert_allclose(rows["y"], (rows["v1"] - 120) / 300, atol=1e-6)
    assert (rows["z"] == 1).all()


def test_without_camera_info_rays_are_nan(stream: CameraStream, warped_pair: Any, types: MessageTypes) -> None:
    stream.process((image_message(warped_pair.image0, 0),))
    message = stream.process((image_message(warped_pair.image1, 33),)).matches(types)
    assert np.isnan(unpack_matches(message)["x"]).all() and not message.is_dense


def test_a_camera_that_turned_is_known_by_its_rays(stream: CameraStream, warped_pair: Any,
                                                   types: MessageTypes) -> None:
    matrix, turn = np.reshape(K, (3, 3)), cv2.Rodrigues(np.radians([2.0, 4.0, -5.0]))[0]
    turned = cv2.warpPerspective(warped_pair.image0, matrix @ turn @ np.linalg.inv(matrix), (320, 240))
    stream.set_camera_info(0, camera_info())
    stream.process((image_message(warped_pair.image0, 0),))
    output = stream.process((image_message(turned, 33),))
    pose = stream.relative_pose(output, stream.rays0(output))
    assert pose.parallax_px < 2 and np.degrees(np.linalg.norm(cv2.Rodrigues(pose.rotation @ turn.T)[0])) < 0.5
    features = output.vins_features(types, stream.rays0(output), pose)
    assert len(features.points) == pose.inliers.sum() > 50 and features.header is output.header
    row = unpack_pose(output.relative_pose(types, pose))[0]
    assert row["valid"] == 1 and np.array_equal(row["R"], pose.rotation.ravel()) and row["ref_nanosec"] == 0


def test_matches_are_published_settled_and_poses_are_of_them_as_measured(tiny_bundle: Path, warped_pair: Any,
                                                                         warnings: list[str]) -> None:
    outputs, poses = [], []
    for settle in (True, False):
        config = Config().with_values({"input.width": 320, "input.height": 240, "model.threads": 1, "geometry.settle": settle})
        stream = CameraStream(Matcher.from_bundle(tiny_bundle, config), warnings.append)
        stream.set_camera_info(0, camera_info())
        stream.process((image_message(warped_pair.image0, 0),))
        outputs.append(stream.process((image_message(warped_pair.image1, 33),)))
        poses.append(stream.relative_pose(outputs[-1], stream.rays0(outputs[-1])))
    np.testing.assert_array_equal(poses[0].rotation, poses[1].rotation)
    np.testing.assert_array_equal(outputs[0].result.homography.matrix, outputs[1].result.homography.matrix)
    assert np.abs(outputs[0].rays - outputs[1].rays).max() > 1e-5


def test_without_camera_info_there_is_no_pose(stream: CameraStream, warped_pair: Any) -> None:
    stream.process((image_message(warped_pair.image0, 0),))
    output = stream.process((image_message(warped_pair.image1, 33),))
    pose = stream.relative_pose(output, stream.rays0(output))
    assert not pose.valid and len(pose.inliers) == len(output.result.matches)


def test_unusable_camera_info_warns_once_and_leaves_rays_nan(stream: CameraStream, warped_pair: Any,
                                                             warnings: list[str]) -> None:
    for _ in range(3):
        stream.set_camera_info(0, camera_info(k=[0.0] * 9))
    stream.process((image_message(warped_pair.image0, 0),))
    assert stream.process((image_message(warped_pair.image1, 33),)).rays is None
    assert warnings == ["camera_info: not calibrated, k is zero"]


def test_camera_info_of_another_size_warns_once(stream: CameraStream, warped_pair: Any, warnings: list[str]) -> None:
    stream.set_camera_info(0, camera_info(width=640, height=480))
    for index in range(4):
        stream.process((image_message(warped_pair.image0, 33 * index),))
    assert warnings == ["camera_info is for 640x480 images, the image is 320x240"]


def test_stereo_matches_left_with_right(stream: CameraStream, warped_pair: Any, types: MessageTypes) -> None:
    left = image_message(warped_pair.image0, 1000, "left")
    right = image_message(warped_pair.image1, 1001, "right")
    output = stream.process((left, right))
    assert output.header is right.header and output.cameras == (0, 1) and stream.frame_ids == ("left", "right")
    row = unpack_homography(output.homography(types))[0]
    assert (row["ref_cam"], row["cur_cam"], row["ref_nanosec"]) == (0, 1, 0)
    assert corner_error(row["H"].reshape(3, 3), warped_pair.matrix, (320, 240)) < 1.0


def test_black_image_gives_an_invalid_homography(stream: CameraStream, warped_pair: Any, types: MessageTypes) -> None:
    stream.process((image_message(warped_pair.image0, 0),))
    output = stream.process((image_message(np.zeros((240, 320), np.uint8), 33),))
    row = unpack_homography(output.homography(types))[0]
    assert row["valid"] == 0 and np.isnan(row["H"]).all() and len(unpack_matches(output.matches(types))) == 0


def test_undecodable_image_names_the_field_and_the_next_one_goes_on(stream: CameraStream, warped_pair: Any) -> None:
    stream.process((image_message(warped_pair.image0, 0),))
    broken = image_message(warped_pair.image1, 33)
    broken.encoding = "mono99"
    with pytest.raises(ImageError, match="mono99"):
        stream.process((broken,))
    assert stream.process((image_message(warped_pair.image1, 66),)).result.homography.valid


@pytest.mark.parametrize("command", [CameraStream.reset, CameraStream.set_reference])
def test_commands_make_the_next_image_the_reference(stream: CameraStream, warped_pair: Any,
                                                    command: Callable[[CameraStream], None]) -> None:
    stream.process((image_message(warped_pair.image0, 0),))
    command(stream)
    assert stream.process((image_message(warped_pair.image1, 33),)) is None
    assert stream.process((image_message(warped_pair.image1, 66),)).result.frame0.stamp_ns == 33_000_000


def test_stamp_going_back_is_counted_with_its_reason(stream: CameraStream, warped_pair: Any) -> None:
    stream.process((image_message(warped_pair.image0, 5000),))
    assert stream.process((image_message(warped_pair.image1, 1000),)) is None
    count, reason = stream.restarts
    assert count == 1 and "back" in reason


def test_debug_image_is_drawn_under_the_same_header(stream: CameraStream, warped_pair: Any,
                                                    types: MessageTypes) -> None:
    stream.process((image_message(warped_pair.image0, 0),))
    output = stream.process((image_message(warped_pair.image1, 33),))
    picture = output.debug_image(types, max_matches=20)
    assert picture.header is output.header and picture.encoding == "bgr8" and picture.width == 320
    assert np.unique(np.asarray(picture.data)).size > 10
