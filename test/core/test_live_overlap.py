"""The worker that prepares the next item while one is in work. Threads are met by events, never by sleeping."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from efficient_matcher import Matcher
from efficient_matcher.config import Config
from efficient_matcher.core.backend import Arrays
from efficient_matcher.core.live import OverlappingWorker
from efficient_matcher.core.pipeline import Tracker

PATIENCE_S = 20.0


@pytest.fixture()
def start() -> Iterator[Callable[..., OverlappingWorker]]:
    workers: list[OverlappingWorker] = []

    def make(*args: object) -> OverlappingWorker:
        workers.append(OverlappingWorker(*args))
        return workers[-1]

    yield make
    assert all(worker.stop(PATIENCE_S) for worker in workers)


def test_items_are_prepared_processed_and_published_in_order(start: Callable) -> None:
    published: list[int] = []
    worker = start(lambda item: item + 1, lambda item: 10 * item, published.append)
    for item in range(4):
        worker.submit(item)
        assert worker.wait_idle(PATIENCE_S)
    assert published == [10, 20, 30, 40]
    assert worker.stats().processed == 4 and worker.stats().latency_ms["p50"] > 0


def test_the_next_item_is_prepared_while_one_is_in_work_and_no_further(start: Callable) -> None:
    prepared, may_leave = threading.Semaphore(0), threading.Semaphore(0)
    seen: list[int] = []

    def prepare(item: int) -> int:
        seen.append(item)
        prepared.release()
        return item

    def process(item: int) -> int:
        assert may_leave.acquire(timeout=PATIENCE_S)
        return item

    published: list[int] = []
    worker = start(prepare, process, published.append)
    for item in (0, 1):
        worker.submit(item)
        assert prepared.acquire(timeout=PATIENCE_S)  # 1 while 0 cannot have left
    for item in (2, 3, 4):
        worker.submit(item)
    assert seen == [0, 1] and worker.stats().dropped == 2
    may_leave.release(3)
    assert worker.wait_idle(PATIENCE_S)
    assert published == [0, 1, 4]


@pytest.mark.parametrize("error", [ValueError("broken\nframe"), SystemExit(3)])
@pytest.mark.parametrize("where", ["prepare", "process"])
def test_whatever_is_raised_the_worker_goes_on(start: Callable, where: str, error: BaseException) -> None:
    def fails_on_one(item: int) -> int:
        if item == 1:
            raise error
        return item

    steps = [fails_on_one, lambda item: item] if where == "prepare" else [lambda item: item, fails_on_one]
    reported: list[Exception] = []
    published: list[int] = []
    worker = start(*steps, published.append, reported.append)
    for item in (1, 2):
        worker.submit(item)
        assert worker.wait_idle(PATIENCE_S)
    stats = worker.stats()
    assert published == [2] and len(reported) == 1 and (stats.processed, stats.failed) == (1, 1)
    assert stats.last_error and "\n" not in stats.last_error


def test_stop_finishes_what_is_under_way_and_drops_what_waits() -> None:
    entered, may_leave = threading.Semaphore(0), threading.Semaphore(0)

    def prepare(item: int) -> int:
        entered.release()
        assert may_leave.acquire(timeout=PATIENCE_S)
        return item

    published: list[int] = []
    worker = OverlappingWorker(prepare, lambda item: item, published.append)
    worker.submit(1)
    assert entered.acquire(timeout=PATIENCE_S)
    worker.submit(2)
    assert worker.stop(timeout_s=0.01) is False
    may_leave.release()
    assert worker.stop(PATIENCE_S) and published == [1]
    stats = worker.stats()
    assert (stats.received, stats.processed, stats.dropped) == (2, 1, 1)


def test_stop_before_any_item() -> None:
    assert OverlappingWorker(lambda item: item, lambda item: item, lambda item: None).stop(PATIENCE_S)


def test_stop_from_within_either_thread() -> None:
    for steps in ([lambda item: answers.append(worker.stop()), lambda item: item],
                  [lambda item: item, lambda item: answers.append(worker.stop())]):
        answers: list[bool] = []
        worker = OverlappingWorker(*steps, lambda item: None)
        worker.submit(1)
        assert worker.stop(PATIENCE_S) and answers in ([False], [])


def test_overlapping_gives_what_one_after_the_other_gives(start: Callable, tiny_bundle: Path,
                                                          make_textured: Callable) -> None:
    values = {"input.width": 0, "input.height": 0, "model.threads": 1}
    matcher = Matcher.from_bundle(tiny_bundle, Config().with_values(values))
    canvas = make_textured(120, 200)
    frames = [matcher.to_frame(canvas[:, x:x + 160].copy()) for x in (0, 6, 12, 18)]
    frames.insert(2, matcher.to_frame(np.zeros((120, 160), np.uint8)))  # no keypoints at all
    wanted = list(matcher.track(frames))
    tracker, found = Tracker(matcher), []
    worker = start(lambda frame: (frame, matcher.extract(frame)), lambda pair: tracker.process(*pair), found.append)
    for frame in frames:
        worker.submit(frame)
        assert worker.wait_idle(PATIENCE_S)
    assert len(found) == len(wanted) == 4
    for result, other in zip(found, wanted):
        np.testing.assert_array_equal(result.matches.indices, other.matches.indices)
        np.testing.assert_array_equal(result.track_ids, other.track_ids)
        assert result.frame0 is other.frame0 and result.frame1 is other.frame1


class FakeExtractor:
    """Scores and descriptors of the image's own grey values, without a runtime."""

    name = "fake"

    def run(self, inputs: Arrays) -> Arrays:
        grey = inputs["image"][:, 0].astype(np.float32) / 255
        cells = grey[:, ::8, ::8]
        return {"scores": grey, "descriptors": np.stack([cells, 1 - cells], axis=-1)}


class FakeMatcher:
    """Similarity by descriptor."""

    name = "fake"

    def run(self, inputs: Arrays) -> Arrays:
        return {"similarity": 20 * inputs["descriptors0"] @ inputs["descriptors1"].T, "dustbin": np.float32(1)}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the kernel's own figures")
@pytest.mark.parametrize("overlapping", [False, True])
def test_memory_does_not_grow_over_hundreds_of_frames(start: Callable, overlapping: bool) -> None:
    config = Config().with_values({"extract.max_keypoints": 16, "input.width": 0, "input.height": 0})
    matcher = Matcher(FakeExtractor(), FakeMatcher(), config)
    tracker, rng = Tracker(matcher), np.random.default_rng(0)
    ahead = (lambda image: (matcher.to_frame(image), matcher.extract(image))) if overlapping else lambda image: (image,)
    worker = start(ahead, lambda given: tracker.process(*given), lambda result: None)

    def run_many(count: int) -> int:
        for _ in range(count):
            worker.submit(rng.integers(0, 256, (32, 32), np.uint8))
            assert worker.wait_idle(PATIENCE_S)
        gc.collect()
        return len(gc.get_objects())

    objects, before = run_many(60), _held_mib()
    assert run_many(240) - objects < 500  # two a frame would be 480
    assert worker.stats().failed == 0, worker.stats().last_error
    assert _held_mib() - before < 4


@pytest.mark.skipif("EFFICIENT_MATCHER_SOAK" not in os.environ, reason="minutes; set EFFICIENT_MATCHER_SOAK to frames")
def test_soak_on_the_bundle_that_ships() -> None:
    matcher, rng = Matcher.from_bundle("default"), np.random.default_rng(0)
    tracker = Tracker(matcher)
    worker = OverlappingWorker(lambda image: (matcher.to_frame(image), matcher.extract(image)),
                               lambda pair: tracker.process(*pair), lambda result: None)
    held = []
    for index in range(int(os.environ["EFFICIENT_MATCHER_SOAK"])):
        image = rng.integers(0, 256, (480, 640), np.uint8) // (1 + index % 5)  # the number of keypoints changes
        worker.submit(image)
        assert worker.wait_idle(PATIENCE_S)
        held.append(_held_mib())
    assert worker.stop(PATIENCE_S) and worker.stats().failed == 0
    assert held[-1] - held[len(held) // 4] < 8


def _held_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
