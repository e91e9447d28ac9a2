"""The deployed path as `bench` runs it in a worker: one camera, several, or extraction ahead of matching."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import Config
from efficient_matcher.core import native, runtimes
from efficient_matcher.core.pipeline import Matcher, Tracker
from efficient_matcher.records import Features, Frame, PairResult

Timings = dict[str, float]  # ms per stage, and `total`
Image = NDArray[np.uint8]


class NetworkClock:
    """Time spent inside the runtimes, by whatever thread, once `install`ed in a process made for measuring."""

    def __init__(self) -> None:
        self._spent = 0.0

    def install(self) -> None:
        """Time every `run` of every runtime from now on."""
        for kind in (runtimes.OnnxRuntime, runtimes.OpenVino):
            kind.run = self._timed(kind.run)  # type: ignore[method-assign]

    def take_ms(self) -> float:
        """Milliseconds since the last call."""
        spent, self._spent = self._spent, 0.0
        return 1e3 * spent

    def _timed(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            start = perf_counter()
            try:
                return run(*args)
            finally:
                self._spent += perf_counter() - start

        return timed


class Collections:
    """Pauses of Python's garbage collector while among `gc.callbacks`, from `settle_memory` on, as in a live node."""

    def __init__(self) -> None:
        self._start = 0.0
        self.pauses_ms: list[float] = []

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        now = perf_counter()
        if phase == "start":
            self._start = now
        elif gc.get_freeze_count():
            self.pauses_ms.append(1e3 * (now - self._start))

    def facts(self) -> dict[str, float]:
        """How many there were, the longest and all together in ms."""
        return {"pauses": len(self.pauses_ms), "longest_ms": max(self.pauses_ms, default=0.0),
                "total_ms": sum(self.pauses_ms)}


class Deployed:
    """What the live node does with an image, as the job says: `process(image)` -> times, `facts()` -> the rest.

    job: settings; threads; cameras (1 unless given); overlap (False unless given).
    """

    def __init__(self, job: dict[str, Any]) -> None:
        cameras, threads = job.get("cameras", 1), job["threads"]
        # Whole networks side by side waste less than the threads of one network waiting for each other.
        self._share = min(cameras, threads) if cameras > 1 else 2 if job.get("overlap") else 1
        settings = {**job["settings"], "model.threads": max(1, threads // self._share)}
        config = Config().with_values(settings)
        self.matcher = Matcher.from_bundle(config.model.bundle, config)
        self._last: dict[str, Any] = {}
        self._collections = Collections()
        gc.callbacks.append(self._collections)
        self._clock = NetworkClock()
        self._clock.install()
        self.process: Callable[[Image], Timings | None]
        if cameras > 1:
            self.process = Cameras(self.matcher, cameras, self._share, self._note).process
        elif job.get("overlap"):
            self.process = Ahead(self.matcher, self._note).process
        else:
            self._tracker = Tracker(self.matcher)
            self.process = self._one

    def facts(self) -> dict[str, Any]:
        """Of the last result, of the garbage collector, and which runtimes are in use."""
        return {**self._last, "gc": self._collections.facts(), "runtimes": self.matcher.runtimes, "loops": native.kind(),
                "threads_per_network": self.matcher.config.model.threads}

    def _one(self, image: Image) -> Timings | None:
        self._clock.take_ms()
        start = perf_counter()
        result = self._tracker.process(image)
        total = 1e3 * (perf_counter() - start)
        if result is None:
            return None
        self._note(result)
        stages = {name: value for name, value in result.timings.items() if name != "total"}
        return {**stages, "other": max(0.0, total - sum(stages.values())), "networks": self._clock.take_ms(),
                "total": total}

    def _note(self, result: PairResult) -> None:
        self._last = {"keypoints": len(result.features1), "matches": len(result.matches)}


class Cameras:
    """Several cameras on one Matcher: `process` tracks one image of each; total is the time for all of them."""

    def __init__(self, matcher: Matcher, count: int, threads: int, note: Callable[[PairResult], None]) -> None:
        self._trackers = [Tracker(matcher) for _ in range(count)]
        self._images: deque[Image] = deque(maxlen=count)
        self._pool = ThreadPoolExecutor(threads)
        self._note = note

    def process(self, image: Image) -> Timings | None:
        """Each camera sees what the one before it saw a moment ago."""
        self._images.extend([image] * (1 if self._images else len(self._trackers)))
        start = perf_counter()
        results = list(self._pool.map(lambda pair: pair[0].process(pair[1]), zip(self._trackers, self._images)))
        total = 1e3 * (perf_counter() - start)
        if results[-1] is None:
            return None
        self._note(results[-1])
        return {"total": total}


class Ahead:
    """One camera, the next image extracted while one is matched; total is the time from result to result.

    latency: what an image takes from its extraction to its result, were it not to wait.
    """

    def __init__(self, matcher: Matcher, note: Callable[[PairResult], None]) -> None:
        self._matcher, self._tracker, self._note = matcher, Tracker(matcher), note
        self._pool = ThreadPoolExecutor(1)
        self._waiting: Future[tuple[Frame, Features, float]] | None = None

    def process(self, image: Image) -> Timings | None:
        """Hands the image over for extraction and matches the one before it."""
        start = perf_counter()
        before, self._waiting = self._waiting, self._pool.submit(self._extract, image)
        if before is None:
            return None
        frame, features, extract_ms = before.result()
        matching = perf_counter()
        result = self._tracker.process(frame, features)
        end = perf_counter()
        if result is None:
            return None
        self._note(result)
        match_ms = 1e3 * (end - matching)
        return {"extract": extract_ms, "rest": match_ms, "latency": extract_ms + match_ms,
                "total": 1e3 * (end - start)}

    def _extract(self, image: Image) -> tuple[Frame, Features, float]:
        start = perf_counter()
        frame = self._matcher.to_frame(image)
        return frame, self._matcher.extract(frame), 1e3 * (perf_counter() - start)
