"""Stopping long work in good order."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from efficient_matcher.stopping import StopSignals, signals_deferred


def test_first_signal_asks_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
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
