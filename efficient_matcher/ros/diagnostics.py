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
UNPAIRED = "left and right images arrive but do not pair: their stamps differ by more than node.stereo_slop_s"
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
        message = status.message if status.message in (QUIET, USELESS, UNPAIRED) else ""
        if message != self._message:
            self._message, self._since, self._told = message, now, False
        if not message or self._told or now - self._since < QUIET_S:
            return None
        self._told = True
        return message


class Health:
    """Collects results, and reports what happened since the last report. Callable from any thread."""

    def __init__(self, card: ModelCard | None) -> None:
        self._model = {} if card is None else {"model": card.name, "model_hash": model_hash(card)}
        self._lock = threading.Lock()
        self._recent: deque[tuple[int, int, bool, int]] = deque(maxlen=RESULTS_KEPT)  # _medians
        self._last = (monotonic(), WorkerStats(0, 0, 0, 0, {}, ""), 0)
        self._last_image = monotonic()  # or, before the first one, when it began to be waited for

    def add(self, result: PairResult) -> None:
        """Takes a result that was published."""
        with self._lock:
            self._recent.append((len(result.matches), int(result.homography.inliers.sum()), result.homography.valid,
                                 result.depth))

    def status(self, stats: WorkerStats, restarts: tuple[int, str], is_open: bool, unpaired: int = 0) -> Status:
        """Level and numbers since the last call. restarts: count, last reason; is_open: subscribed to the cameras;
        unpaired: images of a stereo camera that found no partner, in all."""
        now = monotonic()
        with self._lock:
            (then, before, unpaired_before), self._last = self._last, (now, stats, unpaired)
            recent = np.array(self._recent, np.float64).reshape(-1, 4)
            if stats.received != before.received or not is_open:
                self._last_image = now
            is_quiet = now - self._last_image >= QUIET_S
        seconds = max(now - then, 1e-6)
        values = {
            "images_per_s": f"{(stats.received - before.received) / seconds:.1f}",
            "results_per_s": f"{(stats.processed - before.processed) / seconds:.1f}",
            **{f"latency_{name}_ms": f"{value:.1f}" for name, value in stats.latency_ms.items()},
            "received": str(stats.received), "processed": str(stats.processed),
            "dropped": str(stats.dropped), "failed": str(stats.failed), "unpaired": str(unpaired),
            "restarts": str(restarts[0]), "last_restart": restarts[1], "last_error": stats.last_error,
            **_medians(recent), **self._model,
        }
        if is_open and stats.received == before.received and unpaired > unpaired_before:
            return Status(WARN, UNPAIRED, values)
        return Status(*_judged(stats, before, recent, is_open, is_quiet), values)


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


def _judged(stats: WorkerStats, before: WorkerStats, recent: np.ndarray, is_open: bool,
            is_quiet: bool) -> tuple[int, str]:
    if not is_open:
        return OK, "idle: disabled, or nobody subscribes to results"
    if stats.failed > before.failed:
        level = WARN if stats.processed > before.processed else ERROR
        return level, f"{stats.failed - before.failed} images could not be used: {stats.last_error}"
    if is_quiet or not stats.received:
        return WARN, QUIET
    if len(recent) and recent[:, 2].mean() < 0.5:
        return WARN, USELESS
    return OK, "matching"
