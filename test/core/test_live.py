"""The latest-frame worker: what is dropped, counted and survived. Threads are met by events, never by sleeping."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from efficient_matcher import Matcher
from efficient_matcher.config import Config
from efficient_matcher.core import live
from efficient_matcher.core.live import LatestFrameWorker
from efficient_matcher.core.pipeline import Tracker

PATIENCE_S = 20.0


class Gate:
    """A process function that stops at each item until let through."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.may_leave = threading.Semaphore(0)

    def __call__(self, item: int) -> int:
        self.entered.release()
        assert self.may_leave.acquire(timeout=PATIENCE_S)
        return item


@pytest.fixture()
def start() -> Iterator[Callable[..., LatestFrameWorker]]:
    workers: list[LatestFrameWorker] = []

    def make(*args: object) -> LatestFrameWorker:
        workers.append(LatestFrameWorker(*args))
        return workers[-1]

    yield make
    assert all(worker.stop(PATIENCE_S) for worker in workers)


def test_results_are_published_in_order(start: Callable) -> None:
    published: list[int] = []
    worker = start(lambda item: item * item, published.append)
    for item in range(5):
        worker.submit(item)
        assert worker.wait_idle(PATIENCE_S)
    assert published == [0, 1, 4, 9, 16]
    stats = worker.stats()
    assert (stats.received, stats.processed, stats.dropped, stats.failed) == (5, 5, 0, 0)
    assert list(stats.latency_ms) == ["p50", "p90", "p99"]
    assert 0 <= stats.latency_ms["p50"] <= stats.latency_ms["p99"]


def test_only_the_newest_waits(start: Callable) -> None:
    gate, published = Gate(), []
    worker = start(gate, published.append)
    worker.submit(0)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    for item in range(1, 100):
        worker.submit(item)
    assert (worker.stats().received, worker.stats().dropped) == (100, 98)
    gate.may_leave.release(2)
    assert worker.wait_idle(PATIENCE_S)
    assert published == [0, 99]
    assert worker.stats().processed == 2


def test_no_result_is_not_published(start: Callable) -> None:
    published: list[int] = []
    worker = start(lambda item: None, published.append)
    worker.submit(1)
    assert worker.wait_idle(PATIENCE_S)
    assert published == [] and worker.stats().processed == 1


@pytest.mark.parametrize("error", [ValueError("broken\nframe"), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["process", "publish"])
def test_whatever_is_raised_the_worker_goes_on(start: Callable, where: str, error: BaseException) -> None:
    def fails_on_one(item: int) -> int:
        if item == 1:
            raise error
        return item

    reported: list[Exception] = []
    published: list[int] = []
    steps = {"process": (fails_on_one, published.append),
             "publish": (lambda item: item, lambda item: published.append(fails_on_one(item)))}[where]
    worker = start(*steps, reported.append)
    for item in (1, 2):
        worker.submit(item)
        assert worker.wait_idle(PATIENCE_S)
    assert published == [2]
    assert (worker.stats().processed, worker.stats().failed) == (1, 1)
    assert len(reported) == 1 and isinstance(reported[0], Exception)
    assert worker.stats().last_error and "\n" not in worker.stats().last_error


def test_an_error_while_reporting_an_error_is_survived(start: Callable) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("again")

    worker = start(fail, fail, fail)
    for count in (1, 2):
        worker.submit(count)
        assert worker.wait_idle(PATIENCE_S)
        assert worker.stats().failed == count
    assert worker.stats().last_error == "again"


def test_stop_ends_the_thread_and_drops_what_waits() -> None:
    gate, published = Gate(), []
    worker = LatestFrameWorker(gate, published.append)
    worker.submit(1)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    worker.submit(2)
    assert worker.stop(timeout_s=0.01) is False  # still in work
    gate.may_leave.release()
    assert worker.stop(PATIENCE_S) and worker.stop(PATIENCE_S)
    worker.submit(3)
    assert published == [1]
    assert (worker.stats().received, worker.stats().processed, worker.stats().dropped) == (3, 1, 2)


def test_stop_before_any_item() -> None:
    worker = LatestFrameWorker(lambda item: item, lambda item: None)
    assert worker.stop(PATIENCE_S)
    assert worker.stats().latency_ms == {} and worker.stats().last_error == ""


def test_stop_from_within_a_callback() -> None:
    worker = LatestFrameWorker(lambda item: item, lambda item: answers.append(worker.stop()))
    answers: list[bool] = []
    worker.submit(1)
    assert worker.wait_idle(PATIENCE_S) and answers == [False]
    assert worker.stop(PATIENCE_S)


def test_memory_is_bounded(start: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_LATENCIES_KEPT", 8)
    worker = start(lambda item: item.sum(), lambda item: None)
    frames = [np.ones(4) for _ in range(20)]
    alive = [weakref.ref(frame) for frame in frames]
    while frames:
        worker.submit(frames.pop())
        assert worker.wait_idle(PATIENCE_S)
    assert worker.stop(PATIENCE_S)
    gc.collect()
    assert len(worker._latencies) == 8
    assert not any(ref() is not None for ref in alive)


def test_the_last_frame_is_let_go_while_the_worker_waits(start: Callable) -> None:
    gate = Gate()
    worker = start(lambda item: gate(0), lambda result: None)
    frame = np.ones(4)
    alive = weakref.ref(frame)
    worker.submit(frame)
    del frame
    gate.may_leave.release()
    assert worker.wait_idle(PATIENCE_S)
    # The worker takes and lets go under the same lock as wait_idle; a second item proves it has looped.
    gate.may_leave.release()
    worker.submit(np.zeros(1))
    assert worker.wait_idle(PATIENCE_S)
    assert alive() is None


def test_bad_frames_between_good_ones(start: Callable, tiny_bundle: Path, make_textured: Callable) -> None:
    values = {"input.width": 0, "input.height": 0, "model.threads": 1}
    tracker = Tracker(Matcher.from_bundle(tiny_bundle, Config().with_values(values)))
    published: list = []
    worker = start(tracker.process, published.append)
    good = make_textured(96, 128)
    bad = [np.full((96, 128), np.nan), np.zeros((0, 0), np.uint8), None, np.zeros((96, 128, 7), np.uint8)]
    for image in (good, bad[0], good, bad[1], np.zeros_like(good), bad[2], bad[3], good):
        worker.submit(image)
        assert worker.wait_idle(PATIENCE_S)
    assert worker.stats().failed == len(bad)
    # The first is the reference; then a good one, a black one, and a good one that picks up the tracks again.
    assert [len(result.matches) > 20 for result in published] == [True, False, True]
    assert set(published[2].track_ids) == set(published[0].track_ids)
