"""Stopping long work in good order."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


# The kernel tells a child of every thread of its parent that ends, and `timeout` tells a group and its leader: one wish,
# several signals.
ONE_WISH_S = 1.0


class StopSignals:
    """While active, Ctrl-C and SIGTERM set `requested` instead of interrupting; a second one interrupts after all, unless
    it follows so closely that it belongs to the first."""

    def __init__(self) -> None:
        self.requested = False
        self._requested_at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._previous = _handled_by(self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        _restore(self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self._requested_at = True, time.monotonic()
        elif time.monotonic() - self._requested_at > ONE_WISH_S:
            raise KeyboardInterrupt


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Ctrl-C and SIGTERM take effect only after the block, which must be short: it finishes a file."""
    received: list[int] = []
    previous = _handled_by(lambda number, frame: received.append(number))
    try:
        yield
    finally:
        _restore(previous)
        for number in received:
            signal.raise_signal(number)


def _handled_by(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Set the handler of both signals; returns those before."""
    if threading.current_thread() is not threading.main_thread():  # there Python allows no handlers
        return {}
    return {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
