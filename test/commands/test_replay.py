"""Replaying a bag: results that are right, failures that are counted, and nothing lost on the way out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from efficient_matcher.stopping import StopSignals
from efficient_matcher.commands.replay import (HOMOGRAPHY_TOPIC, INFO_TOPIC, MATCHES_TOPIC, POSE_TOPIC, ReplayOptions,
                                               replay, run)
from efficient_matcher.config import Config
from efficient_matcher.core.geometry import corner_error
from efficient_matcher.errors import BundleError, MatcherError, SourceError
from efficient_matcher.ros.messages import (MessageTypes, make_header, reference_stamp_ns, stamp_ns,
                                            unpack_homography, unpack_matches)
from efficient_matcher.ros.pose_message import unpack_pose
from efficient_matcher.sources.bag_writer import output_typestore

pytest.importorskip("rosbags")
SIZE = (160, 120)
SHIFT = np.array([[1, 0, -3], [0, 1, -2], [0, 0, 1.0]])  # of the scene in the image, per frame


@pytest.fixture()
def config(tiny_bundle: Path) -> Config:
    return Config().with_values({"model.bundle": str(tiny_bundle), "input.width": 0, "input.height": 0,
                                 "extract.max_keypoints": 80, "geometry.min_inliers": 8, "model.threads": 1,
                                 "extract.score_threshold": 0.02})


@pytest.fixture()
def images(make_textured: Callable[..., np.ndarray]) -> list[np.ndarray]:
    """Six views of a window that moves 3 px right and 2 px down a frame."""
    scene = make_textured(200, 240, seed=3)
    return [np.ascontiguousarray(scene[2 * i:2 * i + SIZE[1], 3 * i:3 * i + SIZE[0]]) for i in range(6)]


def results(folder: Path) -> dict[str, list]:
    from rosbags.highlevel import AnyReader
    found: dict[str, list] = {MATCHES_TOPIC: [], HOMOGRAPHY_TOPIC: [], POSE_TOPIC: [], INFO_TOPIC: []}
    with AnyReader([folder / "bag"]) as reader:
        for connection, time_ns, raw in reader.messages():
            found[connection.topic].append((time_ns, reader.deserialize(raw, connection.msgtype)))
    return found


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_results_carry_the_motion_under_the_images_headers(
        tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list, storage: str) -> None:
    bag = write_bag(tmp_path / "run", images, storage=storage)
    report = replay(ReplayOptions(bag, out=tmp_path / "out", config=config))
    found = results(tmp_path / "out")
    assert (report["pairs"]["count"], report["pairs"]["valid_share"], report["storage"]) == (5, 1.0, storage)
    assert len(list((tmp_path / "out" / "bag").glob("*.db3"))) == (storage == "sqlite3")
    for index, (time_ns, message) in enumerate(found[HOMOGRAPHY_TOPIC]):
        row = unpack_homography(message)[0]
        assert stamp_ns(message.header) == time_ns == 10**18 + (index + 1) * 10**8
        assert message.header.frame_id == "camera"
        assert reference_stamp_ns(row) == 10**18 + index * 10**8
        assert corner_error(row["H"].reshape(3, 3), SHIFT, SIZE) < 0.5
    rows = unpack_matches(found[MATCHES_TOPIC][0][1])
    inliers = rows[rows["inlier"] == 1]
    assert len(inliers) == unpack_homography(found[HOMOGRAPHY_TOPIC][0][1])[0]["n_inliers"] >= 20
    np.testing.assert_allclose(np.median(inliers["u1"] - inliers["u0"]), -3, atol=0.2)
    assert json.loads(found[INFO_TOPIC][0][1].data)["cameras"] == {"0": "camera"}
    assert len(found[INFO_TOPIC]) == 1


def test_summary_is_on_disk_as_returned(
        tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list) -> None:
    bag = write_bag(tmp_path / "run", images)
    report = replay(ReplayOptions(bag, out=tmp_path / "out", config=config, json=tmp_path / "copy.json"))
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert stored == json.loads((tmp_path / "copy.json").read_text())
    assert stored["pairs"] == report["pairs"]
    assert stored["frames"] == {"received": 6, "processed": 6, "dropped": 0, "failed": 0, "failed_reasons": {}}
    assert set(stored["latency_ms"]) == {"read", "extract", "match", "refine", "homography", "total"}
    assert set(stored["latency_ms"]["total"]) == {"min", "p10", "median", "p90", "p99", "max"}
    assert stored["config"]["geometry.min_inliers"] == 8
    assert not stored["stopped"] and stored["error"] is None
    assert "no camera_info" in stored["rays_missing"]


def test_video_shows_every_pair(tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list) -> None:
    report = replay(ReplayOptions(write_bag(tmp_path / "run", images), out=tmp_path / "out", config=config))
    if report["outputs"]["picture"].name == "strip.png":
        pytest.skip("this OpenCV has no video encoder")
    video = cv2.VideoCapture(str(tmp_path / "out" / "video.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bag", "summary.json", "video.mp4"]


def test_strip_stands_in_where_no_video_can_be_encoded(
        tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list,
        monkeypatch: pytest.MonkeyPatch) -> None:
    class NoEncoder:
        def __init__(self, *_: object) -> None: ...

        def isOpened(self) -> bool:
            return False

    monkeypatch.setattr("efficient_matcher.commands.pictures.cv2.VideoWriter", NoEncoder)
    replay(ReplayOptions(write_bag(tmp_path / "run", images), out=tmp_path / "out", config=config))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bag", "strip.png", "summary.json"]
    assert cv2.imread(str(tmp_path / "out" / "strip.png")).shape[1] > 2 * SIZE[0]


def test_bad_message_in_a_bag_is_counted_and_skipped(
        tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list) -> None:
    bag = write_bag(tmp_path / "run", images, alter={2: {"encoding": "nv21"}, 4: {"step": 1}})
    report = replay(ReplayOptions(bag, out=tmp_path / "out", config=config, video=False))
    assert (report["frames"]["received"], report["frames"]["processed"], report["frames"]["failed"]) == (6, 4, 2)
    assert [reason.split()[0] for reason in sorted(report["frames"]["failed_reasons"])] == ["encoding", "step"]
    assert report["pairs"]["count"] == 3


def test_bag_of_bad_messages_alone_is_an_error_that_leaves_a_readable_bag(
        tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list) -> None:
    bag = write_bag(tmp_path / "run", images[:2], alter={0: {"height": 0}, 1: {"height": 0}})
    with pytest.raises(SourceError, match="run: no usable image on /camera/image_raw: 2 of 2 messages failed: height"):
        replay(ReplayOptions(bag, out=tmp_path / "out", config=config))
    assert results(tmp_path / "out")[MATCHES_TOPIC] == []
    assert "no usable image" in json.loads((tmp_path / "out" / "summary.json").read_text())["error"]


def test_stamp_that_is_none_is_a_bad_message(
        tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list) -> None:
    types = MessageTypes.from_typestore(output_typestore())
    header = replace(make_header(types, 0, "camera"), stamp=types.time(sec=2**31 - 1, nanosec=2**32 - 1))
    bag = write_bag(tmp_path / "run", images, alter={2: {"header": header}})
    report = replay(ReplayOptions(bag, out=tmp_path / "out", config=config, video=False))
    assert report["frames"]["failed_reasons"] == {"header.stamp.nanosec is 4294967295, must be below 1000000000": 1}
    assert report["pairs"]["count"] == 4


def test_damaged_camera_info_costs_the_rays_only(
        tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list,
        monkeypatch: pytest.MonkeyPatch) -> None:
    from efficient_matcher.sources.bags import ImageBag
    whole = ImageBag._messages

    def with_damaged_info(bag: ImageBag, topic: str) -> object:
        if topic == "/camera/camera_info":
            return iter([(SimpleNamespace(msgtype="sensor_msgs/msg/CameraInfo"), 0, b"\x00\x01\x00\x00\xff")])
        return whole(bag, topic)

    monkeypatch.setattr(ImageBag, "_messages", with_damaged_info)
    bag = write_bag(tmp_path / "run", images)
    report = replay(ReplayOptions(bag, out=tmp_path / "out", config=config, video=False))
    assert report["rays_missing"].startswith("camera_info: message cannot be parsed")
    assert report["pairs"]["valid"] == 5


def test_poses_are_written_for_who_asks(tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    options = ReplayOptions(write_bag(tmp_path / "run", images), out=tmp_path / "out", config=config, video=False)
    replay(options)
    assert not results(tmp_path / "out")[POSE_TOPIC]
    with pytest.raises(SourceError, match="--poses: the bag has no camera_info beside the images"):
        replay(replace(options, poses=True, overwrite=True))
    assert (tmp_path / "out" / "bag").exists()  # the earlier results are still there
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    info = SimpleNamespace(width=160, height=120, distortion_model="plumb_bob", d=[0.0] * 5, p=[0.0] * 12, roi=roi,
                           k=[150.0, 0, 80, 0, 150, 60, 0, 0, 1], binning_x=0, binning_y=0)
    monkeypatch.setattr("efficient_matcher.sources.bags.ImageBag.camera_info", lambda bag: info)
    replay(replace(options, poses=True, overwrite=True))
    for index, (time_ns, message) in enumerate(results(tmp_path / "out")[POSE_TOPIC]):
        row = unpack_pose(message)[0]
        assert stamp_ns(message.header) == time_ns == reference_stamp_ns(row) + 10**8 == 10**18 + (index + 1) * 10**8
        assert row["valid"] == 1 and row["n_inliers"] > 0.5 * row["n_matches"]
        turn = cv2.Rodrigues(row["R"].reshape(3, 3))[0]
        assert np.degrees(np.linalg.norm(turn)) < 5 and np.linalg.norm(row["t"]) == pytest.approx(1)


def test_poses_are_of_matches_as_they_were_measured(tmp_path: Path, write_bag: Callable[..., Path], config: Config,
                                                    images: list, monkeypatch: pytest.MonkeyPatch) -> None:
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    info = SimpleNamespace(width=160, height=120, distortion_model="plumb_bob", d=[0.0] * 5, p=[0.0] * 12, roi=roi,
                           k=[150.0, 0, 80, 0, 150, 60, 0, 0, 1], binning_x=0, binning_y=0)
    monkeypatch.setattr("efficient_matcher.sources.bags.ImageBag.camera_info", lambda bag: info)
    bag, found = write_bag(tmp_path / "run", images), []
    for settle in (True, False):
        own = config.with_values({"geometry.settle": settle})
        replay(ReplayOptions(bag, out=tmp_path / str(settle), config=own, video=False, poses=True))
        found.append(results(tmp_path / str(settle)))
    assert [bytes(message.data) for _, message in found[0][POSE_TOPIC]] == [
        bytes(message.data) for _, message in found[1][POSE_TOPIC]]
    settled, measured = (unpack_matches(messages[MATCHES_TOPIC][0][1]) for messages in found)
    assert len(settled) and not np.array_equal(settled, measured)


def test_a_camera_of_an_unknown_model_is_told(tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list,
                                              monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    info = SimpleNamespace(width=160, height=120, distortion_model="double_sphere", d=[0.1] * 2, p=[0.0] * 12, roi=roi,
                           k=[150.0, 0, 80, 0, 150, 60, 0, 0, 1], binning_x=0, binning_y=0)
    monkeypatch.setattr("efficient_matcher.sources.bags.ImageBag.camera_info", lambda bag: info)
    options = ReplayOptions(write_bag(tmp_path / "run", images), out=tmp_path / "out", config=config, video=False)
    with pytest.raises(SourceError, match="--poses: camera_info.*double_sphere"):
        replay(replace(options, poses=True))
    run(options)
    assert "no rays" in capsys.readouterr().out


def test_a_folder_with_dots_in_its_name_gives_its_results_the_whole_name(tmp_path: Path) -> None:
    (tmp_path / "run_2024.01.15").mkdir()
    (tmp_path / "run.one.mcap").touch()
    assert ReplayOptions(tmp_path / "run_2024.01.15").folder == Path("run_2024.01.15-matches")
    assert ReplayOptions(tmp_path / "run.one.mcap").folder == Path("run.one-matches")


def test_the_recording_itself_is_never_overwritten(
        tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list) -> None:
    bag = write_bag(tmp_path / "bag", images[:2])
    recorded = next(bag.glob("*.mcap")).read_bytes()
    with pytest.raises(MatcherError, match="is what the work begins with"):
        replay(ReplayOptions(bag, out=tmp_path / "out", config=config, json=next(bag.glob("*.mcap"))))
    assert next(bag.glob("*.mcap")).read_bytes() == recorded and not (tmp_path / "out").exists()
    with pytest.raises(MatcherError, match="bag: is what the results are made from"):
        replay(ReplayOptions(bag, out=tmp_path, config=config, overwrite=True))
    assert (bag / "metadata.yaml").exists()


def test_black_frame_is_an_invalid_pair_not_a_failure(
        tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list) -> None:
    images[2] = np.zeros_like(images[2])
    report = replay(ReplayOptions(write_bag(tmp_path / "run", images), out=tmp_path / "out", config=config))
    rows = [unpack_homography(message)[0] for _, message in results(tmp_path / "out")[HOMOGRAPHY_TOPIC]]
    assert report["frames"]["failed"] == 0
    assert [int(row["valid"]) for row in rows] == [1, 0, 1, 1, 1]
    assert rows[1]["n_matches"] == 0


def test_change_of_resolution_starts_afresh(
        tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list) -> None:
    images[3:] = [np.ascontiguousarray(image[:96, :128]) for image in images[3:]]
    report = replay(ReplayOptions(write_bag(tmp_path / "run", images), out=tmp_path / "out", config=config))
    assert report["restarts"] == {"count": 1, "reasons": {"resolution changed from 160x120 to 128x96": 1}}
    assert (report["pairs"]["count"], report["frames"]["failed"]) == (4, 0)


def test_stamp_going_back_starts_afresh(
        tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list) -> None:
    stamps = [10**18 + index * 10**8 for index in (0, 1, 2, 0, 1, 2)]
    bag = write_bag(tmp_path / "run", images, stamps=stamps)
    report = replay(ReplayOptions(bag, out=tmp_path / "out", config=config, video=False))
    assert report["restarts"] == {"count": 1, "reasons": {"stamp went back by 0.200 s": 1}}
    assert report["pairs"]["count"] == 4


def test_limit_and_keyframe_mode(tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list) -> None:
    keyframe = config.with_values({"track.mode": "keyframe", "track.keyframe_min_inliers": 4})
    bag = write_bag(tmp_path / "run", images)
    report = replay(ReplayOptions(bag, out=tmp_path / "out", config=keyframe, limit=4, video=False))
    rows = [unpack_homography(message)[0] for _, message in results(tmp_path / "out")[HOMOGRAPHY_TOPIC]]
    assert report["frames"]["received"] == 4
    assert {reference_stamp_ns(row) for row in rows} == {10**18}


def test_results_are_not_overwritten_unasked(
        tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list) -> None:
    options = ReplayOptions(write_bag(tmp_path / "run", images[:2]), out=tmp_path / "out", config=config, video=False)
    replay(options)
    with pytest.raises(MatcherError, match="exists already"):
        replay(options)
    again = ReplayOptions(options.bag, out=options.out, config=config, video=False, overwrite=True)
    assert replay(again)["pairs"]["count"] == 1


def test_wrong_bundle_leaves_no_folder(tmp_path: Path, write_bag: Callable[..., Path], images: list) -> None:
    config = Config().with_values({"model.bundle": str(tmp_path / "none")})
    with pytest.raises(BundleError, match="none"):
        replay(ReplayOptions(write_bag(tmp_path / "run", images[:2]), out=tmp_path / "out", config=config))
    assert not (tmp_path / "out").exists()


def test_bag_that_breaks_off_leaves_what_was_written(
        tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list,
        monkeypatch: pytest.MonkeyPatch) -> None:
    from efficient_matcher.sources.bags import ImageBag
    whole = ImageBag._messages

    def breaking(bag: ImageBag, topic: str) -> object:
        for count, item in enumerate(whole(bag, topic)):
            if count == 3:
                raise SourceError(f"{bag.path}: topic {topic} breaks off: damaged")
            yield item

    monkeypatch.setattr(ImageBag, "_messages", breaking)
    with pytest.raises(SourceError, match="breaks off"):
        replay(ReplayOptions(write_bag(tmp_path / "run", images), out=tmp_path / "out", config=config, video=False))
    assert len(results(tmp_path / "out")[HOMOGRAPHY_TOPIC]) == 2
    assert "breaks off" in json.loads((tmp_path / "out" / "summary.json").read_text())["error"]


def test_of_two_failures_the_first_is_told(
        tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list,
        monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(what: str) -> Callable[..., None]:
        def raising(*_: object) -> None:
            raise MatcherError(f"{what}: cannot be written")
        return raising

    monkeypatch.setattr("efficient_matcher.commands.replay.Pictures.close", fail("video.mp4"))
    bag = write_bag(tmp_path / "run", images)
    with pytest.raises(MatcherError, match="video.mp4: cannot be written"):
        replay(ReplayOptions(bag, out=tmp_path / "out", config=config))
    monkeypatch.setattr("efficient_matcher.commands.replay._Output.write", fail("bag"))
    with pytest.raises(MatcherError, match="bag: cannot be written"):
        replay(ReplayOptions(bag, out=tmp_path / "two", config=config))


def test_stop_request_finishes_everything(
        tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list,
        stopped_after: Callable[[int], StopSignals]) -> None:
    options = ReplayOptions(write_bag(tmp_path / "run", images), out=tmp_path / "out", config=config)
    report = replay(options, stopped_after(3))
    assert report["stopped"]
    assert (report["frames"]["processed"], len(results(tmp_path / "out")[MATCHES_TOPIC])) == (3, 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_leaves_a_valid_bag_and_exit_130(
        tmp_path: Path, write_bag: Callable[..., Path], tiny_bundle: Path, images: list, number: int) -> None:
    pytest.importorskip("typer")
    bag = write_bag(tmp_path / "run", images * 60)
    command = [sys.executable, "-m", "efficient_matcher.cli", "replay", str(bag), "--out", str(tmp_path / "out"),
               "--bundle", str(tiny_bundle), "--no-video", "--set", "input.width=0", "--set", "input.height=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / ".bag.partial").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "interrupted; what was written is complete\n")
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert stored["stopped"] and stored["frames"]["received"] < 360
    assert len(results(tmp_path / "out")[HOMOGRAPHY_TOPIC]) == stored["pairs"]["count"]
    assert "replay (stopped)" in output


def test_run_prints_the_table(
        tmp_path: Path, write_bag: Callable[..., Path], config: Config, images: list,
        capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    assert run(ReplayOptions(write_bag(tmp_path / "run", images[:3]), out=tmp_path / "out", config=config, video=False))
    output = capsys.readouterr().out
    assert "3 received, 3 processed, 0 dropped, 0 failed" in output
    assert "2, of them valid 2 (100.0 %)" in output
    assert "inlier share %" in output
