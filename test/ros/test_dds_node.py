"""The node over plain DDS from end to end: published images in, results out."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("cyclonedds")
pytest.importorskip("rosbags")

from efficient_matcher.config import Config  # noqa: E402
from efficient_matcher.core.geometry import corner_error  # noqa: E402
from efficient_matcher.errors import BundleError, ConfigError  # noqa: E402
from efficient_matcher.ros import messages  # noqa: E402
from efficient_matcher.ros.dds import DdsNode, latched_qos, reliable_qos, sensor_qos  # noqa: E402
from efficient_matcher.ros.dds_node import CameraTopics, DdsMatcherNode  # noqa: E402
from efficient_matcher.ros.matching import Listeners  # noqa: E402
from efficient_matcher.ros.pose_message import unpack_pose  # noqa: E402

IMAGE, COMPRESSED, CLOUD = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/PointCloud2"
PATIENCE_S = 20.0  # only reached by a failure


class Bench:
    """The node under test, spun by a thread, and a peer that plays camera and consumer."""

    def __init__(self, config: Config, image: str) -> None:
        self.failures: list[str] = []
        self.warnings: list[str] = []
        self.peer = DdsNode("/peer")
        self.types = self.peer.types
        self.matcher = DdsMatcherNode(config, image, None, "/robot/front", None,
                                      Listeners(self.warnings.append, self.failures.append))
        self._going = True
        self._thread = threading.Thread(target=self.matcher.spin, args=[lambda: self._going])
        self._thread.start()

    def listen(self, kind: str, topic: str, qos: list[Any] | None = None) -> list[Any]:
        heard: list[Any] = []
        self.peer.create_subscription(kind, topic, qos or reliable_qos(10), heard.append)
        return heard

    def camera(self, kind: str = IMAGE, topic: str = "/camera/image_raw") -> Any:
        publisher = self.peer.create_publisher(kind, topic, sensor_qos())
        assert self.spin_until(publisher.get_subscription_count), "no subscription"
        return publisher

    def spin_until(self, condition: Callable[[], Any]) -> bool:
        end = monotonic() + PATIENCE_S
        while not condition() and monotonic() < end:
            self.peer.spin_once(0.02)
        return bool(condition())

    def show(self, publisher: Any, *images: Any) -> None:
        """Publishes one message after the other, each after the node has worked on the last."""
        worker = self.matcher.matching.worker
        for image in images:
            before = worker.stats().received
            publisher.publish(image)
            assert self.spin_until(lambda: worker.stats().received > before), "the image did not arrive"
            assert worker.wait_idle(PATIENCE_S)

    def header(self, milliseconds: int) -> Any:
        return messages.make_header(self.types, milliseconds * 1_000_000, "camera_optical")

    def raw(self, image: np.ndarray, milliseconds: int) -> Any:
        return messages.image_message(self.types, self.header(milliseconds), image)

    def close(self) -> None:
        self._going = False
        self._thread.join()
        self.matcher.close()
        self.peer.close()


@pytest.fixture()
def make_bench(loopback: int, tiny_bundle: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(image: str = "/camera/image_raw", **settings: Any) -> Bench:
        values = {"model.bundle": str(tiny_bundle), "model.threads": 1, "input.width": 320, "input.height": 240,
                  "node.diagnostics_period_s": 0.2, **{name.replace("__", "."): v for name, v in settings.items()}}
        made.append(Bench(Config().with_values(values), image))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


def check_homography(message: Any, truth: np.ndarray) -> None:
    row = messages.unpack_homography(message)[0]
    assert row["valid"] == 1 and corner_error(row["H"].reshape(3, 3), truth, (320, 240)) < 1.0


def test_results_carry_the_true_motion_and_the_images_header(make_bench: Callable[..., Bench],
                                                             warped_pair: Any) -> None:
    bench = make_bench()
    matches, homographies = bench.listen(CLOUD, "/robot/front/matches"), bench.listen(CLOUD, "/robot/front/homography")
    infos = bench.listen("std_msgs/msg/String", "/robot/front/info", latched_qos())
    camera = bench.camera()
    bench.show(camera, bench.raw(warped_pair.image0, 1000), bench.raw(warped_pair.image1, 1033))
    assert bench.spin_until(lambda: matches and homographies and len(infos) == 2)
    check_homography(homographies[0], warped_pair.matrix)
    row, rows = messages.unpack_homography(homographies[0])[0], messages.unpack_matches(matches[0])
    assert messages.reference_stamp_ns(row) == 1_000_000_000 and len(rows) == row["n_matches"] >= 50
    for message in (matches[0], homographies[0]):
        assert messages.stamp_ns(message.header) == 1_033_000_000 and message.header.frame_id == "camera_optical"
    moved = cv2.perspectiveTransform(np.stack([rows["u0"], rows["v0"]], 1)[None], warped_pair.matrix)[0]
    errors = np.linalg.norm(moved - np.stack([rows["u1"], rows["v1"]], 1), axis=1)[rows["inlier"] == 1]
    assert np.median(errors) < 1.0 and np.isnan(rows["x"]).all()
    assert json.loads(infos[-1].data)["cameras"] == {"0": "camera_optical"}


def test_rays_poses_and_features_come_from_the_camera_info(make_bench: Callable[..., Bench], warped_pair: Any) -> None:
    bench = make_bench(node__lazy=False)
    matches, poses = bench.listen(CLOUD, "/robot/front/matches"), bench.listen(CLOUD, "/robot/front/relative_pose")
    features = bench.listen("sensor_msgs/msg/PointCloud", "/robot/front/vins_features")
    kind = "sensor_msgs/msg/CameraInfo"
    infos, camera = bench.camera(kind, "/camera/camera_info"), bench.camera()
    roi = bench.peer._typestore.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    intrinsics = np.array([300.0, 0, 160, 0, 300, 120, 0, 0, 1])
    infos.publish(bench.peer._typestore.types[kind](
        header=bench.header(0), height=240, width=320, distortion_model="plumb_bob", d=np.zeros(5), k=intrinsics,
        r=np.eye(3).ravel(), p=np.zeros(12), binning_x=0, binning_y=0, roi=roi))
    assert bench.spin_until(lambda: bench.matcher.matching.stream._cameras)
    bench.show(camera, bench.raw(warped_pair.image0, 0), bench.raw(warped_pair.image1, 33))
    assert bench.spin_until(lambda: matches)
    rows = messages.unpack_matches(matches[0])
    np.testing.assert_allclose(rows["x"], (rows["u1"] - 160) / 300, atol=1e-6)
    assert bench.spin_until(lambda: poses and features)
    row = unpack_pose(poses[0])[0]
    assert row["valid"] == 1 and row["n_matches"] == len(rows) and np.linalg.norm(row["t"]) == pytest.approx(1)
    assert len(features[0].points) == row["n_inliers"] and len(features[0].channels) == 9
    tracked = dict(zip(features[0].channels[0].values.astype(int), features[0].channels[2].values))
    assert tracked and all(tracked.get(row["track_id"], row["u1"]) == row["u1"] for row in rows)


def test_compressed_images(make_bench: Callable[..., Bench], warped_pair: Any) -> None:
    bench = make_bench(node__image_transport="compressed")
    homographies = bench.listen(CLOUD, "/robot/front/homography")
    camera = bench.camera(COMPRESSED, "/camera/image_raw/compressed")
    bench.show(camera, *(bench.types.compressed_image(header=bench.header(33 * index), format="png",
                                                      data=cv2.imencode(".png", image)[1].ravel())
                         for index, image in enumerate((warped_pair.image0, warped_pair.image1))))
    assert bench.spin_until(lambda: homographies)
    check_homography(homographies[0], warped_pair.matrix)


def test_subscribed_only_while_somebody_listens_and_drawn_only_when_asked(make_bench: Callable[..., Bench],
                                                                         warped_pair: Any) -> None:
    bench = make_bench()
    inputs = bench.matcher.matching.inputs
    assert not inputs.is_open
    pictures: list[Any] = []
    subscription = bench.peer.create_subscription(IMAGE, "/robot/front/debug_image", reliable_qos(1), pictures.append)
    bench.show(bench.camera(), bench.raw(warped_pair.image0, 0), bench.raw(warped_pair.image1, 33))
    assert bench.spin_until(lambda: pictures) and (pictures[0].encoding, pictures[0].width) == ("bgr8", 320)
    bench.peer.destroy_subscription(subscription)
    assert bench.spin_until(lambda: not inputs.is_open)


def test_bad_images_are_counted_in_the_diagnostics(make_bench: Callable[..., Bench], warped_pair: Any) -> None:
    bench = make_bench(node__lazy=False)
    heard = bench.listen("diagnostic_msgs/msg/DiagnosticArray", "/diagnostics")
    homographies = bench.listen(CLOUD, "/robot/front/homography")
    camera, broken = bench.camera(), bench.raw(warped_pair.image0, 16)
    broken.encoding = "mono99"
    bench.show(camera, bench.raw(warped_pair.image0, 0), broken, bench.raw(warped_pair.image1, 33))
    assert len(bench.failures) == 1 and "mono99" in bench.failures[0]
    assert bench.spin_until(lambda: homographies)
    check_homography(homographies[0], warped_pair.matrix)
    values: dict[str, str] = {}

    def reported() -> bool:
        values.update({entry.key: entry.value for message in heard for entry in message.status[0].values})
        return values.get("failed") == "1" and values.get("received") == "3"

    assert bench.spin_until(reported) and heard[-1].status[0].name == "robot/front: matching"


def test_topics_of_a_camera(loopback: int) -> None:
    node = DdsNode("/robot/front")
    raw = CameraTopics.of(node, "camera/image_raw", None, "raw")
    assert raw == CameraTopics("/robot/camera/image_raw", "/robot/camera/camera_info", False)
    named = CameraTopics("/camera/image_raw/compressed", "/camera/camera_info", True)
    assert CameraTopics.of(node, "/camera/image_raw", None, "compressed") == named
    assert CameraTopics.of(node, "/camera/image_raw/compressed", None, "raw") == named
    assert CameraTopics.of(node, "/camera/image_raw", "/calibration", "raw").camera_info == "/calibration"
    node.close()


@pytest.mark.parametrize("setting, error", [({"node.stereo": True}, ConfigError),
                                            ({"model.bundle": "no-such-bundle"}, BundleError)])
def test_what_cannot_run_is_refused(loopback: int, setting: dict[str, Any], error: type[Exception]) -> None:
    listeners = Listeners(print, print)
    with pytest.raises(error):
        DdsMatcherNode(Config().with_values(setting), "/image", None, "front", None, listeners)
