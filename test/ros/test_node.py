"""The node from end to end: published images in, results and services out; needs rclpy."""

from __future__ import annotations

import array
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from rcl_interfaces.msg import Log  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud, PointCloud2  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

from efficient_matcher.core.geometry import corner_error  # noqa: E402
from efficient_matcher.ros.messages import unpack_homography, unpack_matches  # noqa: E402
from efficient_matcher.ros.node import MatcherNode, run  # noqa: E402
from efficient_matcher.ros.pose_message import unpack_pose  # noqa: E402

PATIENCE_S = 30.0  # only reached by a failure
QUIET_S = 0.6  # long enough to see what should not come
WARN = 30  # Log.WARN, which is a byte string for some generators


class Bench:
    """The node under test and a peer that plays camera and consumer, on one executor."""

    def __init__(self, node: MatcherNode) -> None:
        self.node, self.peer = node, Node("peer")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.executor.add_node(self.peer)
        self.seen: dict[str, list[Any]] = {}

    def listen(self, kind: Any, topic: str, qos: Any = 10) -> list[Any]:
        """All messages of a topic from now on."""
        messages = self.seen.setdefault(topic, [])
        self.peer.create_subscription(kind, topic, messages.append, qos)
        return messages

    def camera(self, kind: Any = Image, topic: str = "image") -> Any:
        return self.peer.create_publisher(kind, topic, qos_profile_sensor_data)

    def spin_until(self, condition: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
        end = monotonic() + seconds
        while not condition() and monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)
        return condition()

    def connect(self, *publishers: Any) -> None:
        assert self.spin_until(lambda: all(p.get_subscription_count() for p in publishers)), "no subscription"

    def show(self, publisher: Any, *messages: Any) -> None:
        """Publishes one message after the other, each after the node has worked on the last."""
        worker = self.node.matching.worker
        for message in messages:
            before = worker.stats()
            publisher.publish(message)
            assert self.spin_until(lambda: worker.stats().received > before.received), "image did not arrive"
            assert worker.wait_idle(PATIENCE_S)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        future = self.peer.create_client(kind, name).call_async(request)
        assert self.spin_until(future.done), f"no answer from {name}"
        return future.result()

    def close(self) -> None:
        self.executor.shutdown()
        self.peer.destroy_node()
        self.node.destroy_node()


@pytest.fixture()
def make_bench(tiny_bundle: Path) -> Iterator[Callable[..., Bench]]:
    rclpy.init()
    made: list[Bench] = []

    def make(cli_args: list[str] | None = None, **overrides: Any) -> Bench:
        values = {"model.bundle": str(tiny_bundle), "model.threads": 1, "input.width": 320, "input.height": 240,
                  "node.diagnostics_period_s": 0.2, **{name.replace("__", "."): v for name, v in overrides.items()}}
        made.append(Bench(MatcherNode(
            cli_args=cli_args, parameter_overrides=[Parameter(n, value=v) for n, v in values.items()])))
        return made[-1]

    yield make
    for bench in made:
        bench.close()
    if rclpy.ok():
        rclpy.shutdown()


def stamped(message: Any, milliseconds: int, frame_id: str = "camera_optical") -> Any:
    message.header.frame_id = frame_id
    message.header.stamp.sec, rest = divmod(milliseconds, 1000)
    message.header.stamp.nanosec = rest * 1_000_000
    return message


def raw(image: np.ndarray, milliseconds: int, **changes: Any) -> Image:
    height, width = image.shape
    message = Image(height=height, width=width, encoding="mono8", step=width, data=array.array("B", image.tobytes()))
    for name, value in changes.items():
        setattr(message, name, value)
    return stamped(message, milliseconds)


def check_homography(message: Any, truth: np.ndarray) -> None:
    row = unpack_homography(message)[0]
    assert row["valid"] == 1
    assert corner_error(row["H"].reshape(3, 3), truth, (320, 240)) < 1.0


def show_calibrated(bench: Bench, pair: Any) -> Image:
    """A CameraInfo and the pair; returns the message of the second image."""
    camera, infos = bench.camera(), bench.camera(CameraInfo, "camera_info")
    bench.connect(camera, infos)
    infos.publish(stamped(CameraInfo(width=320, height=240, distortion_model="plumb_bob", d=[0.0] * 5,
                                     k=[300.0, 0, 160, 0, 300, 120, 0, 0, 1]), 1000))
    second = raw(pair.image1, 1033)
    bench.show(camera, raw(pair.image0, 1000), second)
    return second


def test_image_pair_gives_matches_and_homography_under_the_images_header(make_bench: Any, warped_pair: Any) -> None:
    bench = make_bench()
    matches = bench.listen(PointCloud2, "/efficient_matcher/matches")
    homographies = bench.listen(PointCloud2, "/efficient_matcher/homography")
    second = show_calibrated(bench, warped_pair)
    assert bench.spin_until(lambda: bool(matches and homographies))
    assert matches[0].header == homographies[0].header == second.header
    check_homography(homographies[0], warped_pair.matrix)
    rows = unpack_matches(matches[0])
    assert len(rows) >= 50 and rows["inlier"].sum() >= 40
    np.testing.assert_allclose(rows["x"], (rows["u1"] - 160) / 300, atol=1e-6)


def test_poses_and_features_for_who_asks(make_bench: Any, warped_pair: Any) -> None:
    bench = make_bench()
    poses = bench.listen(PointCloud2, "/efficient_matcher/relative_pose")
    features = bench.listen(PointCloud, "/efficient_matcher/vins_features")
    second = show_calibrated(bench, warped_pair)
    assert bench.spin_until(lambda: bool(poses and features))
    row = unpack_pose(poses[0])[0]
    assert row["valid"] == 1 and poses[0].header == features[0].header == second.header
    assert len(features[0].points) == row["n_inliers"] > 40 and len(features[0].channels) == 9


def test_compressed_images(make_bench: Any, warped_pair: Any) -> None:
    bench = make_bench(node__image_transport="compressed")
    homographies = bench.listen(PointCloud2, "/efficient_matcher/homography")
    camera = bench.camera(CompressedImage, "image/compressed")
    bench.connect(camera)
    for index, image in enumerate((warped_pair.image0, warped_pair.image1)):
        data = cv2.imencode(".png", image)[1].tobytes()
        bench.show(camera, stamped(CompressedImage(format="png", data=array.array("B", data)), 33 * index))
    assert bench.spin_until(lambda: bool(homographies))
    check_homography(homographies[0], warped_pair.matrix)


def show_stereo(bench: Bench, on_left: np.ndarray, on_right: np.ndarray) -> PointCloud2:
    """One image on each topic of the cameras; returns the homography that comes of it."""
    homographies = bench.listen(PointCloud2, "/efficient_matcher/homography")
    left, right = bench.camera(topic="/left/image"), bench.camera(topic="/right/image")
    bench.connect(left, right)
    left.publish(raw(on_left, 1000))
    right.publish(raw(on_right, 1002))
    assert bench.spin_until(lambda: bool(homographies))
    return homographies[0]


def test_stereo_pair(make_bench: Any, warped_pair: Any) -> None:
    homography = show_stereo(make_bench(node__stereo=True), warped_pair.image0, warped_pair.image1)
    check_homography(homography, warped_pair.matrix)
    assert homography.header.stamp.nanosec == 2_000_000
    assert unpack_homography(homography)[0]["cur_cam"] == 1


def test_cameras_are_left_alone_until_somebody_listens(make_bench: Any) -> None:
    bench = make_bench()
    camera = bench.camera()
    assert not bench.spin_until(lambda: camera.get_subscription_count() > 0, QUIET_S)
    bench.listen(PointCloud2, "/efficient_matcher/homography")
    bench.connect(camera)
    bench.peer.destroy_subscription(list(bench.peer.subscriptions)[-1])
    assert bench.spin_until(lambda: camera.get_subscription_count() == 0)


def test_not_lazy_subscribes_at_once_and_latches_info(make_bench: Any, warped_pair: Any) -> None:
    bench = make_bench(node__lazy=False)
    camera = bench.camera()
    bench.connect(camera)
    bench.show(camera, raw(warped_pair.image0, 0), raw(warped_pair.image1, 33))
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    infos = bench.listen(String, "/efficient_matcher/info", latched)  # only now, and still it comes
    assert bench.spin_until(lambda: bool(infos))
    info = json.loads(infos[-1].data)
    assert info["cameras"] == {"0": "camera_optical"} and info["model"]["name"] == "tiny"


def test_debug_image_comes_only_to_who_listens(make_bench: Any, warped_pair: Any) -> None:
    bench = make_bench()
    pictures = bench.listen(Image, "/efficient_matcher/debug_image")
    camera = bench.camera()
    bench.connect(camera)
    bench.show(camera, raw(warped_pair.image0, 0), raw(warped_pair.image1, 33))
    assert bench.spin_until(lambda: bool(pictures))
    assert pictures[0].encoding == "bgr8" and pictures[0].header.frame_id == "camera_optical"


def test_bad_image_is_counted_and_skipped(make_bench: Any, warped_pair: Any) -> None:
    bench = make_bench(node__lazy=False)
    diagnostics = bench.listen(DiagnosticArray, "/diagnostics")
    camera = bench.camera()
    bench.connect(camera)
    bench.show(camera, raw(warped_pair.image0, 0), raw(warped_pair.image1, 33, encoding="mono99"),
               raw(warped_pair.image1, 66))

    def values() -> dict[str, str]:
        return {pair.key: pair.value for pair in diagnostics[-1].status[0].values} if diagnostics else {}

    assert bench.spin_until(lambda: values().get("failed") == "1" and values().get("processed") == "2")
    assert "mono99" in values()["last_error"] and values()["model"] == "tiny" and len(values()["model_hash"]) == 64
    assert values()["valid_share"] == "1.00"


def test_reset_and_set_reference_start_afresh(make_bench: Any, warped_pair: Any) -> None:
    bench = make_bench(track__mode="reference")
    homographies = bench.listen(PointCloud2, "/efficient_matcher/homography")
    camera = bench.camera()
    bench.connect(camera)
    for stamp, service in ((0, "reset"), (1000, "set_reference")):
        bench.show(camera, raw(warped_pair.image0, stamp))
        assert bench.call(Trigger, f"/efficient_matcher/{service}", Trigger.Request()).success
        count = len(homographies)
        bench.show(camera, raw(warped_pair.image0, stamp + 33), raw(warped_pair.image1, stamp + 66))
        assert bench.spin_until(lambda: len(homographies) > count)
        row = unpack_homography(homographies[-1])[0]
        assert row["ref_sec"] * 1000 + row["ref_nanosec"] // 1_000_000 == stamp + 33


def test_cameras_swapped_by_remapping_are_swapped_once(make_bench: Any, warped_pair: Any) -> None:
    bench = make_bench(node__stereo=True, cli_args=["--ros-args", "-r", "left/image:=/right/image",
                                                    "-r", "right/image:=/left/image"])
    homography = show_stereo(bench, on_left=warped_pair.image1, on_right=warped_pair.image0)
    check_homography(homography, warped_pair.matrix)  # from what came as right to what came as left


def test_two_cameras_have_no_reference_to_set(make_bench: Any) -> None:
    answer = make_bench(node__stereo=True).call(Trigger, "/efficient_matcher/set_reference", Trigger.Request())
    assert not answer.success and "two cameras" in answer.message


def test_a_camera_nobody_publishes_is_a_warning_in_the_log(make_bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("efficient_matcher.ros.diagnostics.QUIET_S", QUIET_S)
    bench = make_bench(node__lazy=False)
    log = bench.listen(Log, "/rosout")
    expected = "no images arrive on /image: nobody publishes there"
    assert bench.spin_until(lambda: any(entry.msg == expected and entry.level == WARN for entry in log))


def test_enable_switches_the_cameras_off_and_on(make_bench: Any) -> None:
    bench = make_bench(node__lazy=False)
    camera = bench.camera()
    bench.connect(camera)
    assert bench.call(SetBool, "/efficient_matcher/enable", SetBool.Request(data=False)).success
    assert bench.spin_until(lambda: camera.get_subscription_count() == 0)
    assert bench.call(SetBool, "/efficient_matcher/enable", SetBool.Request(data=True)).success
    bench.connect(camera)


def test_threshold_changes_while_running(make_bench: Any, warped_pair: Any) -> None:
    bench = make_bench()
    matches = bench.listen(PointCloud2, "/efficient_matcher/matches")
    camera = bench.camera()
    bench.connect(camera)
    bench.show(camera, raw(warped_pair.image0, 0), raw(warped_pair.image1, 33))
    assert bench.spin_until(lambda: len(matches) == 1)
    result, = bench.node.set_parameters([Parameter("extract.max_keypoints", value=16)])
    assert result.successful
    bench.show(camera, raw(warped_pair.image0, 66), raw(warped_pair.image1, 99))
    assert bench.spin_until(lambda: len(matches) == 3)
    assert len(unpack_matches(matches[-1])) <= 16 < len(unpack_matches(matches[0]))


def test_quality_of_service_is_overridable(make_bench: Any) -> None:
    bench = make_bench(node__lazy=False)
    names = bench.node.get_parameters_by_prefix("qos_overrides")
    assert "/image.subscription.reliability" in names and "/efficient_matcher/matches.publisher.depth" in names


@pytest.mark.parametrize(("arguments", "word"), [
    (["-p", "extract.max_keypoint:=3"], "extract.max_keypoint"),
    (["-p", "model.bundle:=/no/such/bundle"], "/no/such/bundle"),
    (["-p", "match.score_threshold:=7.0"], "match.score_threshold"),
    (["-p", "qos_overrides./image.subscription.reliability:=sometimes"], "qos_overrides./image.subscription"),
    (["-p", "qos_overrides./efficient_matcher/matches.publisher.reliability:=sometimes"], "matches.publisher"),
    (["--params-file", "/no/such.yaml"], "/no/such.yaml")])
def test_bad_start_is_one_line_and_exit_1(arguments: list[str], word: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["matcher_node", "--ros-args", *arguments]) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and word in lines[0]


def test_a_second_interrupt_does_not_cut_the_end_short() -> None:
    # A terminal's Ctrl-C comes twice under launch.
    program = """
import os, signal, sys, time
import rclpy
from efficient_matcher.ros import node

def interrupted(*_):
    raise KeyboardInterrupt

def destroy(self, real=node.MatcherNode.destroy_node):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)
    real(self)
    print("destroyed")

rclpy.spin, node.MatcherNode.destroy_node = interrupted, destroy
sys.exit(node.run(["matcher_node"]))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (ended.returncode, ended.stdout.split()[-1:]) == (0, ["destroyed"]), ended.stderr
