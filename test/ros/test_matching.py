"""The node without a transport: publishers that remember, inputs that only know whether they are open."""

from __future__ import annotations

import json
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from efficient_matcher.config import Config
from efficient_matcher.core.geometry import corner_error
from efficient_matcher.errors import ConfigError
from efficient_matcher.ros.matching import Listeners, Matching, Publishers
from efficient_matcher.ros.messages import MessageTypes, image_message, make_header, reference_stamp_ns, unpack_homography
from efficient_matcher.ros.pose_message import unpack_pose


class Recorder:
    """A publisher."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.subscribers = 0

    def publish(self, message: Any) -> None:
        self.sent.append(message)

    def get_subscription_count(self) -> int:
        return self.subscribers


class Bench:
    """A Matching, its publishers and what its listeners heard."""

    def __init__(self, config: Config, types: MessageTypes) -> None:
        self.out = Publishers(*(Recorder() for _ in range(7)))
        self.failures: list[str] = []
        self.warnings: list[str] = []
        self.results: list[Any] = []
        self.up = True
        self.types = types
        self.matching = Matching(config, types, self.out, self.make_inputs, Listeners(
            self.warnings.append, self.failures.append, self.results.append, lambda: self.up))

    def make_inputs(self, on_images: Any, on_info: Any) -> Any:
        def switch(is_open: bool) -> None:
            self.inputs.is_open = is_open

        self.submit = on_images
        self.inputs = SimpleNamespace(is_open=False, topics=["/image"], info_topics=["/camera_info"], unpublished=[],
                                      unpaired=0, arrived=(0,),
                                      open=lambda: switch(True), close=lambda: switch(False))
        return self.inputs

    def show(self, image: np.ndarray, milliseconds: int, **changes: Any) -> None:
        message = image_message(self.types, make_header(self.types, milliseconds * 1_000_000, "camera"), image)
        message.__dict__.update(changes)
        self.submit((message,))
        assert self.matching.worker.wait_idle(30)


@pytest.fixture()
def bench(tiny_bundle: Path) -> Any:
    typesys = pytest.importorskip("rosbags.typesys")
    types = MessageTypes.from_typestore(typesys.get_typestore(typesys.Stores.ROS2_HUMBLE))
    config = Config().with_values({"model.bundle": str(tiny_bundle), "input.width": 320, "input.height": 240,
                                   "model.threads": 1})
    made = Bench(config, types)
    yield made
    made.matching.stop()


def test_inputs_are_tried_at_the_start_though_nobody_listens(bench: Bench) -> None:
    """So that quality of service that is none stops the node then, and not when somebody subscribes."""
    def refuse() -> None:
        raise ConfigError("qos_overrides./image.subscription: no such policy")

    bench.inputs.open = refuse
    with pytest.raises(ConfigError, match="no such policy"):
        bench.matching.start()


def test_inputs_follow_subscribers_and_the_switch(bench: Bench) -> None:
    bench.matching.start()
    assert not bench.inputs.is_open
    bench.out.homography.subscribers = 1
    bench.matching.update_inputs()
    assert bench.inputs.is_open
    bench.matching.enable(False)
    assert not bench.inputs.is_open
    bench.matching.enable(True)
    assert bench.inputs.is_open
    bench.out.homography.subscribers = 0
    bench.matching.update_inputs()
    assert not bench.inputs.is_open
    bench.matching.reconfigure(bench.matching.config.with_values({"node.lazy": False}))
    bench.matching.update_inputs()
    assert bench.inputs.is_open


def test_a_result_goes_to_its_topics_and_a_picture_only_to_who_asks(bench: Bench, warped_pair: Any) -> None:
    bench.matching.start()
    bench.show(warped_pair.image0, 0)
    bench.show(warped_pair.image1, 33)
    assert [len(publisher.sent) for publisher in (bench.out.matches, bench.out.homography, bench.out.debug_image)] == [
        1, 1, 0]
    row = unpack_homography(bench.out.homography.sent[0])[0]
    assert corner_error(row["H"].reshape(3, 3), warped_pair.matrix, (320, 240)) < 1.0 and len(bench.results) == 1
    # announced at the start, and again when the camera's frame_id became known
    assert [json.loads(message.data)["cameras"] for message in bench.out.info.sent] == [{}, {"0": "camera"}]
    bench.out.debug_image.subscribers = 1
    bench.show(warped_pair.image0, 66)
    assert bench.out.debug_image.sent[0].encoding == "bgr8"


def test_a_pose_is_fitted_for_who_asks(bench: Bench, warped_pair: Any) -> None:
    bench.matching.start()
    bench.show(warped_pair.image0, 0)
    bench.show(warped_pair.image1, 33)
    assert not bench.inputs.is_open and not bench.out.relative_pose.sent
    bench.out.relative_pose.subscribers = 1
    bench.matching.update_inputs()  # which starts afresh
    assert bench.inputs.is_open
    bench.show(warped_pair.image0, 66)
    bench.show(warped_pair.image1, 99)
    row = unpack_pose(bench.out.relative_pose.sent[0])[0]
    assert row["valid"] == 0 and row["n_matches"] > 0  # no CameraInfo has come
    assert not bench.out.vins_features.sent
    bench.out.relative_pose.subscribers, bench.out.vins_features.subscribers = 0, 1
    bench.show(warped_pair.image0, 133)
    assert len(bench.out.relative_pose.sent) == 1 and bench.out.vins_features.sent[0].points == []


def test_a_reference_outlives_a_pause(bench: Bench, warped_pair: Any) -> None:
    bench.matching.reconfigure(bench.matching.config.with_values({"track.mode": "reference"}))
    bench.out.homography.subscribers = 1
    bench.matching.update_inputs()
    bench.show(warped_pair.image0, 0)
    bench.matching.enable(False)
    bench.matching.enable(True)
    bench.show(warped_pair.image1, 33)
    row = unpack_homography(bench.out.homography.sent[0])[0]
    assert reference_stamp_ns(row) == 0 and row["valid"] == 1


def test_vins_features_are_of_successive_images_alone(bench: Bench, warped_pair: Any) -> None:
    bench.matching.reconfigure(bench.matching.config.with_values({"track.mode": "keyframe"}))
    bench.out.vins_features.subscribers = 1
    bench.matching.update_inputs()
    for number, image in enumerate((warped_pair.image0, warped_pair.image1, warped_pair.image0)):
        bench.show(image, 33 * number)
    assert not bench.out.vins_features.sent
    assert sum("track.mode must be sequential" in line for line in bench.warnings) == 1


def test_a_failure_is_told_in_one_line_and_diagnosed(bench: Bench, warped_pair: Any) -> None:
    bench.matching.enable(True)
    bench.show(warped_pair.image0, 0, encoding="mono99")
    assert len(bench.failures) == 1 and "mono99" in bench.failures[0]
    status = bench.matching.publish_diagnostics("front", bench.types.time(sec=1, nanosec=2))
    entry, = bench.out.diagnostics.sent[0].status
    assert entry.name == "front: matching" and status.values["failed"] == "1"


@pytest.mark.parametrize(("unpublished", "reason"), [(["/image"], ": nobody publishes there"),
                                                     ([], ", though somebody publishes there")])
def test_a_camera_that_stays_silent_is_told_of_once(bench: Bench, monkeypatch: pytest.MonkeyPatch,
                                                    unpublished: list[str], reason: str) -> None:
    now = [begin := monotonic()]
    for module in ("matching", "diagnostics"):
        monkeypatch.setattr(f"efficient_matcher.ros.{module}.monotonic", lambda: now[0])
    bench.inputs.is_open, bench.inputs.unpublished = True, unpublished
    for now[0] in (begin, begin + 2, begin + 6, begin + 8, begin + 20):
        bench.matching.publish_diagnostics("front", bench.types.time(sec=1, nanosec=2))
    warning, = bench.warnings
    assert warning.startswith(f"no images arrive on /image{reason}")


def test_nothing_is_published_once_the_transport_is_down(bench: Bench, warped_pair: Any) -> None:
    bench.up = False
    bench.show(warped_pair.image0, 0)
    bench.show(warped_pair.image1, 33)
    assert bench.out.matches.sent == [] and bench.failures == []


def test_a_camera_info_that_does_not_come_is_told_of_to_who_wants_poses(
        bench: Bench, warped_pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("efficient_matcher.ros.matching.monotonic", lambda: now[0])
    bench.out.relative_pose.subscribers = 1
    for second in range(5):
        now[0] = 100.0 + 3 * second
        bench.show(warped_pair.image0, 3000 * second)
    assert bench.warnings == ["no camera_info arrives on /camera_info: no rays and no poses"]


def test_listeners_that_come_and_go_leave_the_count_of_restarts(bench: Bench) -> None:
    bench.matching.stream.start_afresh("time jumped back")
    for count in (1, 0, 1):
        bench.out.matches.subscribers = count
        bench.matching.update_inputs()
    assert bench.inputs.is_open and bench.matching.stream.restarts == (1, "time jumped back")


def test_threads_are_shared_out_once(tiny_bundle: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a running model cannot change, however many cores there are later."""
    config = bench.matching.config.with_values({"model.threads": 0, "node.overlap": True})
    monkeypatch.setattr("efficient_matcher.ros.matching.available_threads", lambda: 8)
    other = Matching(config, bench.types, bench.out, bench.make_inputs, Listeners(print, print))
    monkeypatch.setattr("efficient_matcher.ros.matching.available_threads", lambda: 2)
    other.reconfigure(config.with_values({"extract.max_keypoints": 64}))
    assert other.matcher.config.model.threads == 4 and other.matcher.config.extract.max_keypoints == 64
    other.stop()
