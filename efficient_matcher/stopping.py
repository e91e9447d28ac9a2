"""Stopping long work in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """While active, Ctrl-C and SIGTERM set `requested` instead of interrupting; a second one interrupts after all."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._previous = _handled_by(self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        _restore(self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


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
