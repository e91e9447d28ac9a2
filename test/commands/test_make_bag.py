"""`make-bag`: what a folder, a video and a calibration become, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags")

from efficient_matcher.commands import make_bag  # noqa: E402
from efficient_matcher.errors import MatcherError  # noqa: E402
from efficient_matcher.ros.camera import CameraModel  # noqa: E402
from efficient_matcher.ros.messages import decode_message  # noqa: E402

SIZE = 64, 48
CALIBRATION = """
image_width: 64
image_height: 48
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [50, 0, 31.5, 0, 52, 23.5, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.1, 0.01, 0, 0, 0]}
"""


@pytest.fixture()
def images(tmp_path: Path, make_textured: Callable) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        cv2.imwrite(str(folder / f"{name}.png"), make_textured(*SIZE[::-1]))
    return folder


@pytest.fixture()
def video(tmp_path: Path) -> Path:
    """Five images of a grey that grows, 25 a second."""
    path = tmp_path / "flight.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25.0, SIZE)
    for level in range(40, 90, 10):
        writer.write(np.full((*SIZE[::-1], 3), level, np.uint8))
    writer.release()
    return path


def made(source: Path, out: Path, **options: Any) -> int:
    return make_bag.run(source, out, **{"topic": "/cam/image_raw", "frame_id": "optical", "storage": "mcap",
                                        "compressed": False, **options})


def messages(bag: Path) -> dict[str, list[tuple[int, Any]]]:
    from rosbags.highlevel import AnyReader
    found: dict[str, list[tuple[int, Any]]] = {}
    with AnyReader([bag]) as reader:
        for connection, time, raw in reader.messages():
            found.setdefault(connection.topic, []).append((time, reader.deserialize(raw, connection.msgtype)))
    return found


def test_a_video_becomes_its_images_at_its_rate(video: Path, tmp_path: Path) -> None:
    assert made(video, tmp_path / "bag") == 5
    found = messages(tmp_path / "bag")["/cam/image_raw"]
    assert [time for time, _ in found] == [0, 40_000_000, 80_000_000, 120_000_000, 160_000_000]
    levels = [message.data.mean() for _, message in found]
    np.testing.assert_allclose(levels, [40, 50, 60, 70, 80], atol=2)
    assert (found[0][1].width, found[0][1].height, found[0][1].header.frame_id) == (*SIZE, "optical")


def test_hz_goes_before_what_names_or_the_video_say(video: Path, images: Path, tmp_path: Path) -> None:
    (images / "a.png").rename(images / "1700000000.5.png")
    for source in (video, images):
        made(source, tmp_path / source.name / "bag" if source.is_dir() else tmp_path / "bag", hz=50.0)
    for bag in (tmp_path / "bag", images / "bag"):
        assert [time for time, _ in messages(bag)["/cam/image_raw"]][:3] == [0, 20_000_000, 40_000_000]


@pytest.mark.parametrize("compressed", [False, True])
def test_16_bits_stay_16_bits_and_grey_stays_grey(tmp_path: Path, compressed: bool) -> None:
    deep = (np.arange(48 * 64, dtype=np.uint16) * 5).reshape(48, 64)  # 14 bits, as of a thermal camera
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "1.png"), deep)
    cv2.imwrite(str(tmp_path / "in" / "2.png"), (deep >> 6).astype(np.uint8))
    made(tmp_path / "in", tmp_path / "bag", compressed=compressed)
    (_, first), (_, second) = next(iter(messages(tmp_path / "bag").values()))
    if not compressed:
        assert [(m.encoding, m.step) for m in (first, second)] == [("mono16", 128), ("mono8", 64)]
    np.testing.assert_array_equal(decode_message(first, 14), deep >> 6)
    np.testing.assert_allclose(decode_message(second).astype(int), deep >> 6, atol=6 if compressed else 0)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_calibration_is_beside_each_image(images: Path, tmp_path: Path, compressed: bool) -> None:
    (tmp_path / "front.yaml").write_text(CALIBRATION)
    made(images, tmp_path / "bag", camera_info=tmp_path / "front.yaml", compressed=compressed)
    found = messages(tmp_path / "bag")
    infos = found["/cam/camera_info"]
    assert [time for time, _ in infos] == [time for name in found if "image_raw" in name for time, _ in found[name]]
    info = infos[1][1]
    assert info.header.frame_id == "optical" and info.header.stamp.nanosec == 100_000_000
    model = CameraModel.from_message(info)
    np.testing.assert_array_equal(model.matrix, [[50, 0, 31.5], [0, 52, 23.5], [0, 0, 1]])
    np.testing.assert_array_equal(model.rectified, model.matrix)  # of a single camera
    np.testing.assert_allclose(model.rays(np.array([[31.5, 23.5]], np.float32), SIZE), [[0, 0, 1]], atol=1e-6)


def refused(text: str, path: Path) -> str:
    path.write_text(text)
    with pytest.raises(MatcherError) as caught:
        made(path.parent / "in", path.parent / "bag", camera_info=path)
    assert not (path.parent / "bag").exists()
    return str(caught.value)


def test_a_calibration_that_is_none_is_named(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "front.yaml"
    assert refused("T_BS: 1\n", path) == f"{path}: is no calibration of ROS: it has no camera_matrix"
    with pytest.raises(MatcherError, match="none.yaml: cannot be read: No such file"):
        made(images, tmp_path / "bag", camera_info=tmp_path / "none.yaml")
    assert refused("a: [\n", path).startswith(f"{path}: is not YAML: ")
    assert refused(CALIBRATION.replace("52,", ""), path) == f"{path}: camera_matrix: needs 9 finite numbers, got 8"
    assert refused(CALIBRATION.replace("52", "x"), path) == f"{path}: camera_matrix: data must be numbers"
    assert refused(CALIBRATION.replace("image_width: 64", ""), path) == (
        f"{path}: image_width must be a whole number of pixels, got None")
    assert "the calibration is of 640 x 48 images, one is 64 x 48" in refused(
        CALIBRATION.replace("image_width: 64", "image_width: 640"), path)


def test_a_video_without_a_rate_asks_for_one(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = cv2.VideoCapture

    def rateless(path: str) -> SimpleNamespace:
        real = capture(path)
        return SimpleNamespace(isOpened=real.isOpened, read=real.read, release=real.release, get=lambda _: 0.0)

    monkeypatch.setattr("cv2.VideoCapture", rateless)
    with pytest.raises(MatcherError, match="flight.avi: does not say how many images a second it has; give --hz"):
        made(video, tmp_path / "bag")
    assert made(video, tmp_path / "bag", hz=10.0) == 5


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(MatcherError, match="notes.txt: is neither a folder of images nor a video"):
        made(tmp_path / "notes.txt", tmp_path / "bag")
    assert not (tmp_path / "bag").exists()
