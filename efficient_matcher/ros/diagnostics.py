"""What /diagnostics says of the node: rates, latency, drops, inliers, model."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np

from efficient_matcher.core.live import WorkerStats
from efficient_matcher.records import ModelCard, PairResult
from efficient_matcher.ros.messages import MessageTypes, model_hash

OK, WARN, ERROR = 0, 1, 2  # levels of diagnostic_msgs/DiagnosticStatus
UNPAIRED = ("left and right images arrive but do not pair: their stamps differ by more than node.stereo_slop_s, or one "
            "comes more than 10 images late")
ONE_SIDED = "images of one camera alone arrive"
AFRESH = "tracking starts afresh with most images"
QUIET, USELESS = "no images arrive", "no homography for most images"
QUIET_S = 5.0  # without an image; a camera may be slower than the reports
RESULTS_KEPT = 100  # results the medians are taken over


@dataclass(frozen=True)
class Status:
    """One diagnostic_msgs/DiagnosticStatus without its name."""

    level: int
    message: str
    values: dict[str, str]


class Trouble:
    """Which diagnoses are worth a line in a log: those that last for QUIET_S, once until they are over, and not those
    of failures, as each image that could not be used has had a line of its own."""

    def __init__(self) -> None:
        self._message, self._since, self._told = "", 0.0, False

    def lasting(self, status: Status, now: float) -> str | None:
        """The message to log now, at time `now` in s, if there is one."""
        message = status.message if status.message in (QUIET, ONE_SIDED, UNPAIRED, AFRESH, USELESS) else ""
        if message != self._message:
            self._message, self._since, self._told = message, now, False
        if not message or self._told or now - self._since < QUIET_S:
            return None
        self._told = True
        return message


@dataclass(frozen=True)
class _Report:
    """What the last report was made of."""

    time: float
    stats: WorkerStats
    unpaired: int = 0
    restarts: int = 0
    results: int = 0


class Health:
    """Collects results, and reports what happened since the last report. Callable from any thread."""

    def __init__(self, card: ModelCard | None) -> None:
        self._model = {} if card is None else {"model": card.name, "model_hash": model_hash(card)}
        self._lock = threading.Lock()
        self._recent: deque[tuple[int, int, bool, int]] = deque(maxlen=RESULTS_KEPT)  # _medians
        self._results = 0
        self._last = _Report(monotonic(), WorkerStats(0, 0, 0, 0, {}, ""))
        self._heard: list[tuple[int, float]] = []  # of each camera: how many images came, and when there were more
        self.silent: list[int] = []  # the cameras that sent no image for QUIET_S

    def add(self, result: PairResult) -> None:
        """Takes a result that was published."""
        with self._lock:
            self._results += 1
            self._recent.append((len(result.matches), int(result.homography.inliers.sum()), result.homography.valid,
                                 result.depth))

    def status(self, stats: WorkerStats, restarts: tuple[int, str], is_open: bool, unpaired: int = 0,
               arrived: tuple[int, ...] | None = None) -> Status:
        """Level and numbers since the last call. restarts: count, last reason; is_open: subscribed to the cameras;
        unpaired: images of a stereo camera that found no partner, in all; arrived: images of each camera, in all."""
        with self._lock:
            now, before = _Report(monotonic(), stats, unpaired, restarts[0], self._results), self._last
            self._last = now
            recent = np.array(self._recent, np.float64).reshape(-1, 4)
            are_both_heard = self._listen(arrived or (stats.received,), is_open, before.time, now.time)
        seconds = max(now.time - before.time, 1e-6)
        values = {
            "images_per_s": f"{(stats.received - before.stats.received) / seconds:.1f}",
            "results_per_s": f"{(now.results - before.results) / seconds:.1f}",
            **{f"latency_{name}_ms": f"{value:.1f}" for name, value in stats.latency_ms.items()},
            "received": str(stats.received), "processed": str(stats.processed),
            "dropped": str(stats.dropped), "failed": str(stats.failed), "unpaired": str(unpaired),
            "restarts": str(restarts[0]), "last_restart": restarts[1], "last_error": stats.last_error,
            **_medians(recent), **self._model,
        }
        if is_open and stats.received == before.stats.received and 0 < len(self.silent) < len(self._heard):
            return Status(WARN, ONE_SIDED, values)
        if is_open and stats.received == before.stats.received and unpaired > before.unpaired and are_both_heard:
            return Status(WARN, UNPAIRED, values)
        return Status(*_judged(now, before, recent, is_open, len(self.silent) == len(self._heard)), values)

    def _listen(self, arrived: tuple[int, ...], is_open: bool, then: float, now: float) -> bool:
        """Takes how many images each camera has sent; whether all of them sent some since the last report."""
        heard = self._heard or [(0, then)] * len(arrived)
        more = [count > before for count, (before, _) in zip(arrived, heard)]
        # while closed, nothing is waited for
        self._heard = [(count, now if grown or not is_open else since)
                       for count, grown, (_, since) in zip(arrived, more, heard)]
        self.silent = [camera for camera, (_, since) in enumerate(self._heard) if now - since >= QUIET_S]
        return all(more)


def diagnostics_message(types: MessageTypes, status: Status, name: str, stamp: Any) -> Any:
    """The status as a diagnostic_msgs/DiagnosticArray of one entry; stamp: a builtin_interfaces/Time."""
    entry = types.diagnostic_status(
        level=types.to_byte(status.level), name=f"{name}: matching", message=status.message, hardware_id=name,
        values=[types.key_value(key=key, value=value) for key, value in status.values.items()])
    return types.diagnostic_array(header=types.header(stamp=stamp, frame_id=""), status=[entry])


def _medians(recent: np.ndarray) -> dict[str, str]:
    if not len(recent):
        return {}
    matches, inliers, valid, depth = recent.T
    return {"matches_median": f"{np.median(matches):.0f}", "inliers_median": f"{np.median(inliers):.0f}",
            "valid_share": f"{valid.mean():.2f}", "matcher_depth_median": f"{np.median(depth):.0f}"}


def _judged(now: _Report, before: _Report, recent: np.ndarray, is_open: bool, is_quiet: bool) -> tuple[int, str]:
    processed, failed = now.stats.processed - before.stats.processed, now.stats.failed - before.stats.failed
    if not is_open:
        return OK, "idle: disabled, or nobody subscribes to results"
    if failed > 0:
        return WARN if processed > 0 else ERROR, f"{failed} images could not be used: {now.stats.last_error}"
    if is_quiet or not now.stats.received:
        return WARN, QUIET
    if 2 * (now.restarts - before.restarts) > processed:
        return WARN, AFRESH
    if len(recent) and recent[:, 2].mean() < 0.5:
        return WARN, USELESS
    return OK, "matching"
