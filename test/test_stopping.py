"""Stopping long work in good order."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from efficient_matcher import stopping
from efficient_matcher.stopping import StopSignals, signals_deferred


def test_first_signal_asks_and_the_second_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    before, clock = signal.getsignal(signal.SIGTERM), iter([100.0, 100.2, 101.5])
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with StopSignals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)  # of the same wish, as when a parent of many threads is killed
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_deferred_signal_comes_after_the_block() -> None:
    finished, before = False, signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            with signals_deferred():
                os.kill(os.getpid(), signal.SIGINT)
                finished = True
    finally:
        signal.signal(signal.SIGINT, before)
    assert finished


def test_nothing_is_deferred_outside_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGINT)

    def work() -> object:
        with signals_deferred():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() is before
