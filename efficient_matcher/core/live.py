"""The newest frame and the one thread that works on it; for any transport.

A camera outruns a slow machine: whatever queues grows old. So there is a single slot: a new item replaces the one
that still waits, and the worker always takes the newest. Where cores allow, the next item may be prepared while one is
in work: more items a second, each of them later.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")
R = TypeVar("R")
P = TypeVar("P")

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
        self._slot: tuple[Any, float] | None = None  # item and when it came
        self._busy = self._stopped = False
        self._received = self._processed = self._dropped = self._failed = 0
        self._latencies: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._last_error = ""
        self._threads: list[threading.Thread] = []
        self._start(self._loop, name)

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
        if threading.current_thread() in self._threads:
            return False
        end = monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end - monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def wait_idle(self, timeout_s: float = 10.0) -> bool:
        """Wait until nothing waits or is in work; whether that came within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(self._is_idle, timeout_s)

    def stats(self) -> WorkerStats:
        """Counters and latencies as they are now."""
        with self._changed:
            latencies = list(self._latencies)
            counts = self._received, self._processed, self._dropped, self._failed
            last_error = self._last_error
        values = np.percentile(latencies, _PERCENTILES) if latencies else ()
        return WorkerStats(*counts, {f"p{p}": float(value) for p, value in zip(_PERCENTILES, values)}, last_error)

    def _start(self, loop: Callable[[], None], name: str) -> None:
        self._threads.append(threading.Thread(target=loop, name=name, daemon=True))
        self._threads[-1].start()

    def _is_idle(self) -> bool:
        return self._slot is None and not self._busy

    def _next(self) -> tuple[Any, float] | None:
        """Wait for the next item to work on; None when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._slot is not None or self._stopped)
            slot, self._slot = self._slot, None
            self._busy = slot is not None
            return slot

    def _loop(self) -> None:
        while (slot := self._next()) is not None:
            error = self._work(slot[0])
            with self._changed:
                self._busy = False
                self._count(error, 1e3 * (monotonic() - slot[1]))
                self._changed.notify_all()
            del slot, error  # the last frame must not live on until the next one comes

    def _work(self, item: Any) -> BaseException | None:
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


class OverlappingWorker(LatestFrameWorker[T, R], Generic[T, P, R]):
    """Runs `publish(process(prepare(item)))` in two threads: the next item is prepared while one is in work.

    All else is as with LatestFrameWorker. No item is prepared before the one prepared last is taken, so at most two
    are under way and a third waits.
    """

    def __init__(self, prepare: Callable[[T], P], process: Callable[[P], R | None], publish: Callable[[R], None],
                 on_error: Callable[[Exception], None] | None = None, name: str = "matcher") -> None:
        self._prepare = prepare
        self._ready: tuple[P, float] | None = None
        self._preparing = False
        super().__init__(process, publish, on_error, name)
        self._start(self._prepare_loop, f"{name}-ahead")

    def _is_idle(self) -> bool:
        return super()._is_idle() and self._ready is None and not self._preparing

    def _next(self) -> tuple[Any, float] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._ready is not None or (self._stopped and not self._preparing))
            ready, self._ready = self._ready, None
            self._busy = ready is not None
            self._changed.notify_all()
            return ready

    def _prepare_loop(self) -> None:
        while (slot := self._next_to_prepare()) is not None:
            prepared, error = self._prepared(slot[0])
            with self._changed:
                self._preparing = False
                if error is None:
                    self._ready = prepared, slot[1]
                else:
                    self._count(error, 0.0)
                self._changed.notify_all()
            del slot, prepared, error

    def _next_to_prepare(self) -> tuple[Any, float] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or (self._slot is not None and self._ready is None))
            slot, self._slot = self._slot, None
            self._preparing = slot is not None
            return slot

    def _prepared(self, item: T) -> tuple[P | None, BaseException | None]:
        try:
            return self._prepare(item), None
        except BaseException as error:  # noqa: BLE001 - as in `_work`
            self._report(error)
            return None, error
