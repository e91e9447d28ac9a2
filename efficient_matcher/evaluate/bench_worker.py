"""The process that one contestant of `bench` runs in, alone: `python -m efficient_matcher.evaluate.bench_worker`.

Speaks JSON lines on standard input and output. First line in: the job (contestant, frames, settings).
First line out, as soon as one pair of frames is done: `ready`. Then each `{"frames": n}` is answered
with the times of n tracked frames; the end of input ends the process. Between turns it sleeps in a
read, so contestants never share the cores.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core.memory import settle_memory
from efficient_matcher.errors import MatcherError
from efficient_matcher.evaluate.disturbance import Yardstick, taken

FIRST_FRAMES = 4  # until the first result, at most
Timings = dict[str, float]  # ms per stage, and `total`
Process = Callable[[NDArray[np.uint8]], Timings | None]


class FrameFile:
    """Frames in a raw file, walked to and fro so that neighbours stay neighbours; read when needed, so that
    they do not count in the peak memory."""

    def __init__(self, path: str, shape: tuple[int, int, int]) -> None:
        self._path, self._shape, self._next = path, shape, 0

    def read(self) -> NDArray[np.uint8]:
        """The next frame [H,W]."""
        count, height, width = self._shape
        step = self._next % (2 * count - 2)
        index = step if step < count else 2 * count - 2 - step
        self._next += 1
        size = height * width
        return np.fromfile(self._path, np.uint8, size, offset=index * size).reshape(height, width)


def main() -> int:
    """Serve the job on standard input; an expected failure is answered as `error`."""
    answers = _private_stdout()
    try:
        _serve(sys.stdin, answers)
    except (MatcherError, ImportError) as error:
        _answer(answers, {"error": " ".join(str(error).split())})
        return 1
    except (BrokenPipeError, KeyboardInterrupt):  # the parent is gone, or stops us with itself
        return 1
    return 0


def _serve(requests: TextIO, answers: TextIO) -> None:
    job = json.loads(requests.readline())
    frames = FrameFile(job["frames"], tuple(job["shape"]))
    process, facts = CONTESTANTS[job["contestant"]](job)
    for _ in range(FIRST_FRAMES):
        if process(frames.read()) is not None:
            break
    _answer(answers, {"ready": True, **facts()})
    # While the next frame is being extracted there is no moment at which other work would not be in its way.
    yardstick = None if job.get("overlap") else Yardstick()
    settle_memory()
    for line in requests:
        count = json.loads(line)["frames"]
        watched = (_watched(process, frames.read(), yardstick) for _ in range(count))
        _answer(answers, {"times": [times for times in watched if times is not None], **facts()})


def _watched(process: Process, image: NDArray[np.uint8], yardstick: Yardstick | None) -> Timings | None:
    """The frame's times, and how the processors were: `disturbed` is 1 if somebody else had one, else 0; `yardstick`
    what fixed work took right after it, ms."""
    before = taken()
    times = process(image)
    after = taken()
    if times is None:
        return None
    work = {"yardstick": yardstick.ms()} if yardstick else {}
    return {**times, "disturbed": float(after != before), **work}


def _ours(job: dict[str, Any]) -> tuple[Process, Callable[[], dict[str, Any]]]:
    from efficient_matcher.evaluate.bench_deployed import Deployed
    _limit_opencv(job["threads"])
    deployed = Deployed(job)
    return deployed.process, lambda: {**deployed.facts(), **_process_facts()}


def _dense(job: dict[str, Any]) -> tuple[Process, Callable[[], dict[str, Any]]]:
    from efficient_matcher.learn.reference import DenseTracker
    extract = {name.split(".")[1]: value for name, value in job["settings"].items() if name.startswith("extract.")}
    tracker = DenseTracker(extract["max_keypoints"], job["threads"], extract["nms_radius_px"], extract["border_px"])
    return tracker.process, lambda: {"keypoints": tracker.keypoints_found, "matches": tracker.matches,
                                     **_process_facts()}


def _baseline(job: dict[str, Any]) -> tuple[Process, Callable[[], dict[str, Any]]]:
    from efficient_matcher.evaluate.baselines import Baseline
    return _tracking(Baseline(job["contestant"], job["settings"]["extract.max_keypoints"]), job)


def _xfeat(job: dict[str, Any]) -> tuple[Process, Callable[[], dict[str, Any]]]:
    from efficient_matcher.evaluate.xfeat import XFEAT_SESSION, XFeat
    keypoints = job["settings"]["extract.max_keypoints"]
    return _tracking(XFeat(Path(job["xfeat"]), keypoints, threads=job["threads"],
                           session=job["contestant"] == XFEAT_SESSION), job)


def _tracking(matcher: Any, job: dict[str, Any]) -> tuple[Process, Callable[[], dict[str, Any]]]:
    """Each frame extracted once and matched with the one before, by what has `extract` and `match`."""
    _limit_opencv(job["threads"])
    previous: list[Any] = []
    last: dict[str, int] = {}

    def process(image: NDArray[np.uint8]) -> Timings | None:
        start = perf_counter()
        features = matcher.extract(image)
        extracted = perf_counter()
        before = previous[0] if previous else None
        previous[:] = [features]
        if before is None:
            return None
        result = matcher.match(before, features)
        end = perf_counter()
        last.update(keypoints=len(features), matches=len(result.matches))
        return {"extract": 1e3 * (extracted - start), **result.timings, "total": 1e3 * (end - start)}

    return process, lambda: {**last, **_process_facts()}


CONTESTANTS = {"ours": _ours, "dense_torch": _dense, "sift": _baseline, "orb": _baseline,
               "xfeat": _xfeat, "xfeat_onnxruntime": _xfeat}


def peak_rss_mib() -> float:
    """Most memory this process ever held, MiB.

    From the kernel's mark of this address space: `getrusage` would hand down the parent's.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):  # not on Linux
        import resource
        unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _process_facts() -> dict[str, Any]:
    return {"peak_rss_mib": peak_rss_mib(), "torch_in_process": "torch" in sys.modules}


def _limit_opencv(threads: int) -> None:
    import cv2
    cv2.setNumThreads(threads)


def _private_stdout() -> TextIO:
    """Standard output for answers only: what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _answer(answers: TextIO, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
