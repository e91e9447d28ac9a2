"""The newest frame and the one thread that works on it; for any transport.

A camera outruns a slow machine: whatever queues grows old. So there is a single slot: a new item replaces the one
that still waits, and the worker always takes the newest.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")
R = TypeVar("R")

_LATENCIES_KEPT = 1024
_PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class WorkerStats:
    """Counts since the start, and latencies over the latest results.

    received = processed + dropped + failed + those waiting or in work. latency_ms: "p50", "p90", "p99" from submit
    to published, empty before the first result. last_error: one line, "" if none.
    """

    received: int
    processed: int
    dropped: int
    failed: int
    latency_ms: dict[str, float]
    last_error: str


class LatestFrameWorker(Generic[T, R]):
    """Runs `publish(process(item))` for the newest submitted item in its own thread.

    A result of None is not published. Whatever `process` or `publish` raises is counted and handed to `on_error`;
    nothing that either of the three raises ends the thread.
    """

    def __init__(self, process: Callable[[T], R | None], publish: Callable[[R], None],
                 on_error: Callable[[Exception], None] | None = None, name: str = "matcher") -> None:
        self._process, self._publish, self._on_error = process, publish, on_error
        self._changed = threading.Condition()
        self._slot: tuple[T, float] | None = None  # item and when it came
        self._busy = self._stopped = False
        self._received = self._processed = self._dropped = self._failed = 0
        self._latencies: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._last_error = ""
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: T) -> None:
        """Hand over an item without waiting; one that still waits is dropped for it. After `stop` it is dropped."""
        with self._changed:
            self._received += 1
            if self._stopped:
                self._dropped += 1
                return
            if self._slot is not None:
                self._dropped += 1
            self._slot = item, monotonic()
            self._changed.notify_all()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """End the thread after the item in work, dropping one that waits; whether it ended within `timeout_s`.

        May be called again, and from within the callbacks (then without waiting, returning False).
        """
        with self._changed:
            self._stopped = True
            if self._slot is not None:
                self._slot = None
                self._dropped += 1
            self._changed.notify_all()
        if threading.current_thread() is self._thread:
            return False
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def wait_idle(self, timeout_s: float = 10.0) -> bool:
        """Wait until nothing waits or is in work; whether that came within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._slot is None and not self._busy, timeout_s)

    def stats(self) -> WorkerStats:
        """Counters and latencies as they are now."""
        with self._changed:
            latencies = list(self._latencies)
            counts = self._received, self._processed, self._dropped, self._failed
            last_error = self._last_error
        values = np.percentile(latencies, _PERCENTILES) if latencies else ()
        return WorkerStats(*counts, {f"p{p}": float(value) for p, value in zip(_PERCENTILES, values)}, last_error)

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._slot is not None or self._stopped)
                if self._slot is None:
                    return
                slot, self._slot, self._busy = self._slot, None, True
            error = self._work(slot[0])
            with self._changed:
                self._busy = False
                self._count(error, 1e3 * (monotonic() - slot[1]))
                self._changed.notify_all()
            del slot, error  # the last frame must not live on until the next one comes

    def _work(self, item: T) -> BaseException | None:
        # BaseException: a library calling sys.exit must not end the thread silently while the camera goes on.
        try:
            result = self._process(item)
            if result is not None:
                self._publish(result)
            return None
        except BaseException as error:  # noqa: BLE001
            self._report(error)
            return error

    def _report(self, error: BaseException) -> None:
        if self._on_error is None:
            return
        try:
            self._on_error(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        except BaseException:  # noqa: BLE001 - nobody is left to tell; the count and last_error remain
            pass

    def _count(self, error: BaseException | None, latency_ms: float) -> None:
        if error is None:
            self._processed += 1
            self._latencies.append(latency_ms)
        else:
            self._failed += 1
            self._last_error = " ".join((str(error) or repr(error)).split())[:500]
