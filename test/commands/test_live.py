"""`efficient-matcher live` in a process of its own, fed and heard over the loopback interface."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cyclonedds")
pytest.importorskip("rosbags")
pytest.importorskip("typer")

from efficient_matcher.commands.live import LiveOptions, run  # noqa: E402
from efficient_matcher.config import Config  # noqa: E402
from efficient_matcher.core.geometry import corner_error  # noqa: E402
from efficient_matcher.errors import SourceError  # noqa: E402
from efficient_matcher.ros import messages  # noqa: E402
from efficient_matcher.ros.dds import DdsNode, reliable_qos, sensor_qos  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0  # only reached by a failure
PERIOD_NS = 33_000_000


@pytest.fixture()
def peer(loopback: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[DdsNode]:
    """A node that plays camera and consumer for the commands that are started."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    node = DdsNode("/peer")
    yield node
    node.close()


def live(bundle: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "efficient_matcher.cli", "live", "--image", "/camera/image_raw", "--threads", "1",
               "--bundle", str(bundle), "--set", "input.width=320", "--set", "input.height=240", *arguments]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def spin_until(peer: DdsNode, condition: Callable[[], Any]) -> bool:
    end = monotonic() + PATIENCE_S
    while not condition() and monotonic() < end:
        peer.spin_once(0.02)
    return bool(condition())


def truth(pair: Any, row: Any, header: Any) -> np.ndarray:
    """[3,3] between the images of a homography, which its stamps tell: even frames show image0, odd ones image1."""
    views = np.eye(3), pair.matrix
    frames = [stamp // PERIOD_NS % 2 for stamp in (messages.reference_stamp_ns(row), messages.stamp_ns(header))]
    return views[frames[1]] @ np.linalg.inv(views[frames[0]])


def test_two_processes_meet_and_ctrl_c_ends_with_the_table(peer: DdsNode, tiny_bundle: Path, warped_pair: Any,
                                                          tmp_path: Path) -> None:
    heard: dict[str, list[Any]] = {"matches": [], "homography": []}
    for topic, received in heard.items():
        peer.create_subscription("sensor_msgs/msg/PointCloud2", f"/robot/front/{topic}", reliable_qos(10),
                                 received.append)
    camera = peer.create_publisher("sensor_msgs/msg/Image", "/camera/image_raw", sensor_qos())
    process = live(tiny_bundle, "--name", "/robot/front", "--json", str(tmp_path / "live.json"))
    try:
        assert spin_until(peer, camera.get_subscription_count), "no subscription"
        for frame in range(300):  # best effort: some may be lost
            header = messages.make_header(peer.types, frame * PERIOD_NS, "camera")
            image = (warped_pair.image0, warped_pair.image1)[frame % 2]
            camera.publish(messages.image_message(peer.types, header, image))
            peer.spin_once(0.1)
            if len(heard["homography"]) >= 3:
                break
        assert spin_until(peer, lambda: len(heard["matches"]) == len(heard["homography"]) >= 3)
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    for matches, homography in zip(heard["matches"], heard["homography"]):
        row = messages.unpack_homography(homography)[0]
        expected = truth(warped_pair, row, homography.header)
        assert row["valid"] == 1 and corner_error(row["H"].reshape(3, 3), expected, (320, 240)) < 1.0
        assert len(messages.unpack_matches(matches)) == row["n_matches"] >= 50
    report = json.loads((tmp_path / "live.json").read_text())
    assert report["node"] == "/robot/front" and report["camera_info"] == "/camera/camera_info"
    assert report["pairs"]["count"] >= report["pairs"]["valid"] >= 3 and report["error"] is None
    assert report["frames"]["received"] >= report["frames"]["processed"] >= 4
    assert "inliers" in out and "received to published ms" in out and "results on /robot/front/matches" in err


def test_a_camera_that_is_not_there_is_one_line_that_names_those_that_are(peer: DdsNode, tiny_bundle: Path,
                                                                          tmp_path: Path) -> None:
    peer.create_publisher("sensor_msgs/msg/Image", "/other/image", sensor_qos())
    config = Config().with_values({"model.bundle": str(tiny_bundle), "model.threads": 1, "node.lazy": False})
    options = LiveOptions("/camera/image", config=config, seconds=0.3, json=tmp_path / "live.json")
    with pytest.raises(SourceError, match="no image came on /camera/image in .*; there are /other/image$") as error:
        run(options)
    report = json.loads((tmp_path / "live.json").read_text())
    assert report["error"] == str(error.value) and report["frames"]["received"] == 0


def test_lazy_without_a_subscriber_says_so(peer: DdsNode, tiny_bundle: Path) -> None:
    config = Config().with_values({"model.bundle": str(tiny_bundle), "model.threads": 1})
    with pytest.raises(SourceError, match="nobody subscribed"):
        run(LiveOptions("/camera/image", config=config, seconds=0.1))


def test_wrong_names_and_domains_are_refused(tiny_bundle: Path, peer: DdsNode) -> None:
    from typer.testing import CliRunner

    from efficient_matcher.commands.app import app
    result = CliRunner().invoke(app, ["live", "--image", "/camera//image", "--bundle", str(tiny_bundle)])
    assert result.exit_code == 1 and "is not a name in ROS" in result.output
    assert CliRunner().invoke(app, ["live", "--image", "/image", "--domain", "300"]).exit_code == 2
    assert CliRunner().invoke(app, ["live"]).exit_code == 2
