"""What /diagnostics would say."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from efficient_matcher.core.live import WorkerStats
from efficient_matcher.ros.diagnostics import (AFRESH, ERROR, OK, ONE_SIDED, QUIET_S, WARN, Health, Status, Trouble,
                                               diagnostics_message)
from efficient_matcher.ros.messages import MessageTypes

NO_RESTARTS = (0, "")


def stats(received: int = 0, processed: int = 0, dropped: int = 0, failed: int = 0, error: str = "") -> WorkerStats:
    return WorkerStats(received, processed, dropped, failed, {"p50": 12.34}, error)


def result(matches: int, inliers: int, depth: int = 1) -> SimpleNamespace:
    mask = np.arange(matches) < inliers
    return SimpleNamespace(matches=range(matches), depth=depth,
                           homography=SimpleNamespace(inliers=mask, valid=inliers > 0))


def test_matching_reports_medians_and_latency() -> None:
    health = Health(None)
    for inliers in (10, 20, 30):
        health.add(result(40, inliers, depth=inliers // 10))
    status = health.status(stats(received=9, processed=9), (2, "gap"), is_open=True)
    assert (status.level, status.message) == (OK, "matching")
    assert status.values["inliers_median"] == "20" and status.values["matches_median"] == "40"
    assert status.values["latency_p50_ms"] == "12.3" and status.values["valid_share"] == "1.00"
    assert status.values["matcher_depth_median"] == "2"
    assert status.values["restarts"] == "2" and status.values["last_restart"] == "gap"


def test_idle_is_no_warning() -> None:
    assert Health(None).status(stats(), NO_RESTARTS, is_open=False).level == OK


def test_no_new_images_for_some_seconds_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera of one image in two seconds is looked at every second."""
    now = [100.0]
    monkeypatch.setattr("efficient_matcher.ros.diagnostics.monotonic", lambda: now[0])
    health = Health(None)
    assert health.status(stats(), NO_RESTARTS, is_open=True).message == "no images arrive"  # none ever
    for received in (1, 1, 2, 2, 2):
        now[0] += 1
        status = health.status(stats(received=received, processed=received), NO_RESTARTS, is_open=True)
        assert (status.level, status.message) == (OK, "matching")
    now[0] += 5
    again = health.status(stats(received=2, processed=2), NO_RESTARTS, is_open=True)
    assert (again.level, again.message) == (WARN, "no images arrive")
    assert health.status(stats(received=2, processed=2), NO_RESTARTS, is_open=False).level == OK
    again = health.status(stats(received=2, processed=2), NO_RESTARTS, is_open=True)  # enabled once more, and waiting
    assert (again.level, again.message) == (OK, "matching")


def test_images_that_do_not_pair_are_told_from_none() -> None:
    health = Health(None)
    health.status(stats(), NO_RESTARTS, is_open=True)
    status = health.status(stats(), NO_RESTARTS, is_open=True, unpaired=12, arrived=(6, 6))
    assert status.level == WARN and "node.stereo_slop_s" in status.message and status.values["unpaired"] == "12"
    assert health.status(stats(), NO_RESTARTS, is_open=True, unpaired=12, arrived=(6, 6)).message == "no images arrive"


def test_some_bad_images_warn_and_only_bad_ones_are_an_error() -> None:
    health = Health(None)
    some = health.status(stats(received=2, processed=1, failed=1, error="unknown encoding"), NO_RESTARTS, is_open=True)
    assert some.level == WARN and "unknown encoding" in some.message
    assert health.status(stats(received=3, processed=1, failed=2), NO_RESTARTS, is_open=True).level == ERROR


def test_mostly_invalid_homographies_warn() -> None:
    health = Health(None)
    for inliers in (0, 0, 20):
        health.add(result(30, inliers))
    assert health.status(stats(received=3, processed=3), NO_RESTARTS, is_open=True).level == WARN


def test_message_survives_serialisation() -> None:
    typesys = pytest.importorskip("rosbags.typesys")
    typestore = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    types = MessageTypes.from_typestore(typestore)
    message = diagnostics_message(types, Status(WARN, "slow", {"dropped": "7"}), "front", types.time(sec=3, nanosec=4))
    kind = "diagnostic_msgs/msg/DiagnosticArray"
    back = typestore.deserialize_cdr(typestore.serialize_cdr(message, kind), kind)
    entry, = back.status
    assert (entry.level, entry.name, entry.hardware_id, entry.message) == (WARN, "front: matching", "front", "slow")
    assert [(value.key, value.value) for value in entry.values] == [("dropped", "7")]
    assert (back.header.stamp.sec, back.header.stamp.nanosec) == (3, 4)


def test_a_warning_that_lasts_is_logged_once_until_it_is_over() -> None:
    trouble, quiet, good = Trouble(), Status(WARN, "no images arrive", {}), Status(OK, "matching", {})
    told = [trouble.lasting(quiet, second) for second in (0.0, 1.0, QUIET_S, QUIET_S + 1)]
    assert told == [None, None, "no images arrive", None]
    assert trouble.lasting(good, 20.0) is None and trouble.lasting(quiet, 21.0) is None
    assert trouble.lasting(quiet, 21.0 + QUIET_S) == "no images arrive"
    another = Status(WARN, "no homography for most images", {})
    assert trouble.lasting(another, 40.0) is None and trouble.lasting(another, 46.0) == another.message


def test_failures_of_images_are_not_logged_again() -> None:
    """Each image that could not be used had a line of its own."""
    trouble = Trouble()
    for level in (WARN, ERROR):
        status = Health(None).status(stats(received=3, processed=3 * (level == WARN), failed=2, error="broken"),
                                     NO_RESTARTS, is_open=True)
        assert status.level == level
        assert trouble.lasting(status, 0.0) is None and trouble.lasting(status, 60.0) is None


def test_a_stereo_camera_of_which_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its images find no partner either, but not for their stamps."""
    now = [100.0]
    monkeypatch.setattr("efficient_matcher.ros.diagnostics.monotonic", lambda: now[0])
    health, messages = Health(None), []
    for second in range(8):
        now[0] = 100.0 + second
        messages.append(health.status(stats(), NO_RESTARTS, True, unpaired=5 * second, arrived=(8 * second, 0)).message)
    assert set(messages[:5]) == {"no images arrive"} and set(messages[5:]) == {ONE_SIDED}
    assert health.silent == [1]


def test_tracking_that_never_lasts_is_a_warning() -> None:
    health = Health(None)
    status = health.status(stats(received=9, processed=9), (0, ""), is_open=True)
    assert (status.level, status.values["results_per_s"]) == (OK, "0.0")  # the images gave none
    status = health.status(stats(received=19, processed=19), (9, "gap of 6.000 s between stamps"), is_open=True)
    assert (status.level, status.message) == (WARN, AFRESH)
    assert health.status(stats(received=29, processed=29), (10, "gap"), is_open=True).level == OK
