"""Pairs with known motion from bags, scenes and lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from efficient_matcher.errors import MatcherError, SourceError
from efficient_matcher.evaluate.pose_pairs import BagPairs, listed_pairs, scene_pairs
from efficient_matcher.ros.messages import image_message, make_header
from efficient_matcher.sources.bag_writer import BagWriter
from efficient_matcher.sources.bags import ImageBag
from efficient_matcher.sources.poses import ListedPose, encode_depth

pytest.importorskip("rosbags")
SECOND = 10**9
SIZE = (64, 48)
MOUNT = (0.1, -0.2, 0.3)  # of the camera in the body, which looks the way the camera does, turned by a quarter about z
HALF = np.sqrt(0.5)


def body_pose(step: float) -> tuple[np.ndarray, np.ndarray]:
    """Position, and quaternion (x, y, z, w) of a turn about y."""
    angle = 0.1 * step
    return np.array([0.3 * step, 0.0, 0.1]), np.array([0, np.sin(angle / 2), 0, np.cos(angle / 2)])


def write_bag(path: Path, *, poses: str = "nav_msgs/msg/Odometry", static: bool = True, frames: int = 5,
              distortion: float = 0.0, still: bool = False, info: bool = True, model: str = "plumb_bob",
              rectified: bool = False) -> Path:
    """A frame a second, a pose every tenth of one: an odometry of `base` with the camera mounted on it."""
    with BagWriter(path) as writer:
        kinds = writer._typestore.types
        point, quaternion = kinds["geometry_msgs/msg/Point"], kinds["geometry_msgs/msg/Quaternion"]
        vector = kinds["geometry_msgs/msg/Vector3"]
        writer.add_topic("/cam/image_raw", "sensor_msgs/msg/Image")
        for index in range(frames):
            pixels = np.full(SIZE[::-1], 10 * index, np.uint8)
            stamp = SECOND * (1 + index)
            writer.write("/cam/image_raw", stamp, image_message(writer.types, make_header(writer.types, stamp, "cam"),
                                                                pixels))
        if info:
            writer.add_topic("/cam/camera_info", "sensor_msgs/msg/CameraInfo")
            roi = kinds["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
            writer.write("/cam/camera_info", 1, kinds["sensor_msgs/msg/CameraInfo"](
                header=make_header(writer.types, 1, "cam"), height=SIZE[1], width=SIZE[0],
                distortion_model=model, d=np.array([distortion, 0, 0, 0, 0]), r=np.zeros(9),
                p=np.array([40.0, 0, 30, 0, 0, 40, 20, 0, 0, 0, 1, 0]) * rectified,
                k=np.array([50.0, 0, 31.5, 0, 50, 23.5, 0, 0, 1]), binning_x=0, binning_y=0, roi=roi))
        writer.add_topic("/truth", poses)
        for tenth in range(10 * (frames - 1) + 1):
            stamp = SECOND + tenth * SECOND // 10
            position, turn = body_pose(0.0 if still else tenth / 10)
            pose = kinds["geometry_msgs/msg/Pose"](position=point(*position), orientation=quaternion(*turn))
            header = make_header(writer.types, stamp, "world")
            if poses == "nav_msgs/msg/Odometry":
                twist = kinds["geometry_msgs/msg/TwistWithCovariance"](
                    twist=kinds["geometry_msgs/msg/Twist"](linear=vector(0, 0, 0), angular=vector(0, 0, 0)),
                    covariance=np.zeros(36))
                message = kinds[poses](
                    header=header, child_frame_id="base", twist=twist,
                    pose=kinds["geometry_msgs/msg/PoseWithCovariance"](pose=pose, covariance=np.zeros(36)))
            else:
                message = kinds[poses](header=header, pose=pose)
            writer.write("/truth", stamp, message)
        if static:
            writer.add_topic("/tf_static", "tf2_msgs/msg/TFMessage")
            transform = kinds["geometry_msgs/msg/Transform"](translation=vector(*MOUNT),
                                                             rotation=quaternion(0, 0, HALF, HALF))
            writer.write("/tf_static", 1, kinds["tf2_msgs/msg/TFMessage"](transforms=[
                kinds["geometry_msgs/msg/TransformStamped"](header=make_header(writer.types, 1, "base"),
                                                            child_frame_id="cam", transform=transform)]))
    return path


def read(path: Path, gap: int = 2, **options: Any) -> tuple[list[Any], dict[str, int]]:
    with ImageBag(path) as bag:
        pairs = BagPairs(bag, gap, **options)
        return list(pairs), dict(pairs.skipped)


def test_the_depth_of_16_bit_images_is_the_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = ImageBag.frames
    monkeypatch.setattr(ImageBag, "frames", lambda bag, config: seen.append(config.depth_bits) or real(bag, config))
    read(write_bag(tmp_path / "bag"), depth_bits=12)
    assert seen == [12]


def matrix(position: np.ndarray, rotation_vector: tuple[float, float, float]) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3] = cv2.Rodrigues(np.array(rotation_vector, np.float64))[0]
    result[:3, 3] = position
    return result


def test_poses_of_the_body_become_those_of_the_camera(tmp_path: Path) -> None:
    pairs, skipped = read(write_bag(tmp_path / "bag"))
    assert len(pairs) == 2 and skipped == {}
    mount = matrix(np.array(MOUNT), (0, 0, np.pi / 2))
    for pair, step in zip(pairs, (0, 2)):
        camera0, camera1 = (matrix(body_pose(s)[0], (0, 0.1 * s, 0)) @ mount for s in (step, step + 2))
        assert pair.T_0to1 == pytest.approx(np.linalg.inv(camera1) @ camera0)
        assert (pair.image0[0, 0], pair.image1[0, 0]) == (10 * step, 10 * step + 20)
        assert pair.K0[0, 2] == 31.5


def test_a_pose_without_a_body_is_the_camera_s(tmp_path: Path) -> None:
    notes: list[str] = []
    pairs, _ = read(write_bag(tmp_path / "bag", poses="geometry_msgs/msg/PoseStamped", static=False), notes=notes)
    assert notes == ["the poses name no child_frame_id, so they are taken as those of the camera's optical frame"]
    camera0, camera1 = (matrix(body_pose(s)[0], (0, 0.1 * s, 0)) for s in (0, 2))
    assert pairs[0].T_0to1 == pytest.approx(np.linalg.inv(camera1) @ camera0)


def test_a_distorted_image_is_straightened(tmp_path: Path) -> None:
    pairs, _ = read(write_bag(tmp_path / "bag", distortion=-0.3))
    assert pairs[0].image1[24, 32] == 20 and pairs[0].image1[0, 0] in (0, 20)


def test_a_rectified_image_is_taken_as_it_is(tmp_path: Path) -> None:
    pairs, _ = read(write_bag(tmp_path / "bag", distortion=-0.3, rectified=True), undistort=False)
    assert (pairs[0].image1 == 20).all() and pairs[0].K0.tolist() == [[40, 0, 30], [0, 40, 20], [0, 0, 1]]
    with pytest.raises(SourceError, match="p is zero, so rays of rectified images are unknown"):
        read(write_bag(tmp_path / "raw"), undistort=False)


def test_a_distortion_that_is_not_known_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="bag: camera_info.*double_sphere"):
        read(write_bag(tmp_path / "bag", model="double_sphere", distortion=0.1))


def test_pairs_without_motion_are_left_out_and_counted(tmp_path: Path) -> None:
    pairs, skipped = read(write_bag(tmp_path / "bag", still=True))
    assert pairs == [] and skipped == {"baseline below 0.02 m": 2}


def test_what_a_bag_lacks_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="'base', images those of 'cam', and /tf_static does not connect them"):
        read(write_bag(tmp_path / "loose", static=False))
    with pytest.raises(SourceError, match="no camera_info beside /cam/image_raw"):
        read(write_bag(tmp_path / "blind", info=False))
    with pytest.raises(SourceError, match="'/odom' is not a pose topic with messages; it has /truth"):
        read(write_bag(tmp_path / "odd"), pose_topic="/odom")


def test_scenes_come_level_by_level_with_depth(make_textured: Callable[..., np.ndarray]) -> None:
    (pair,) = scene_pairs([make_textured(120, 160, seed) for seed in range(2)], ["easy"], 1, 3)
    assert pair.group == "easy" and pair.image0.shape == (480, 640)
    assert pair.depths is not None and pair.depths[1].shape == (480, 640)


def test_depth_beside_a_list_is_used_and_must_be_of_the_image_s_size(tmp_path: Path) -> None:
    for folder in ("images", "depth"):
        (tmp_path / folder).mkdir()
    K, T = np.array([[50.0, 0, 31.5], [0, 50, 23.5], [0, 0, 1]]), matrix(np.array([0.1, 0, 0]), (0, 0, 0))
    for name in "ab":
        cv2.imwrite(str(tmp_path / "images" / f"{name}.jpg"), np.zeros(SIZE[::-1], np.uint8))
        (tmp_path / "depth" / f"{name}.png").write_bytes(encode_depth(np.full(SIZE[::-1], 2, np.float32)))
    listed = [ListedPose("a.jpg", "b.jpg", 1, 0, K, K, T)]
    (pair,) = listed_pairs(listed, tmp_path / "images", tmp_path / "depth")
    assert pair.depths is not None and pair.depths[0].shape == pair.image0.shape == (64, 48)
    # image 0 was turned: what is right in the file's camera is up in the upright one
    assert pair.T_0to1[:3, 3] == pytest.approx([0.1, 0, 0]) and abs(pair.T_0to1[0, 0]) < 1e-9
    (tmp_path / "depth" / "b.png").write_bytes(encode_depth(np.ones((4, 4), np.float32)))
    with pytest.raises(MatcherError, match="b.png: is not of the size"):
        list(listed_pairs(listed, tmp_path / "images", tmp_path / "depth"))
