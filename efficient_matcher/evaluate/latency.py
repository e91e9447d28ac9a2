"""Speed of a tracked frame: the deployed path and its rivals, taking turns in one run.

Each contestant lives in a process of its own from start to end, with the same number of threads; only
one works at a time, turn after turn, so that drifts of the machine hit all alike. No torch is ever in
this process nor in the one of the deployed path.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import Config
from efficient_matcher.core.backend import available_threads
from efficient_matcher.errors import MatcherError
from efficient_matcher.evaluate.xfeat import XFEAT, XFEAT_SESSION

OURS = "ours"
REFINED = "refined"
DENSE = "dense_torch"
RIVALS = (DENSE, "sift", "orb")
NEEDS = {DENSE: ("torch",), XFEAT: ("torch",), XFEAT_SESSION: ("torch", "onnx")}  # modules, of rivals
OVERALL = ("total", "networks", "latency")  # of a frame's times, those that are no stage of it
COUNTED = {"networks": "time inside the runtime, all runs of the networks",
           "outside": "conversion, peaks and their descriptors, optimal transport, mutual check, homography"}
DISTURBED = "disturbed"  # among a frame's times: 1 where somebody else had a core meanwhile, else 0
YARDSTICK = "yardstick"  # among a frame's times: what fixed work took beside it, ms
USUAL = 1.2  # medians of the yardstick; above, a core was slower than usual
SETTLE_S = 0.05  # idle threads of the contestant before spin for a while


@dataclass(frozen=True)
class BenchPlan:
    """How much is measured.

    rounds: turns of each contestant. frames, dense_frames: timed per turn, of the fast ones and of the
    dense networks; one more frame per turn, to warm the caches again, is not timed. starts: fresh
    processes of the deployed path, for the time to its first result. xfeat: weights; given, XFeat is a rival as well,
    in PyTorch and in onnxruntime.
    """

    rivals: tuple[str, ...] = RIVALS
    rounds: int = 10
    frames: int = 10
    dense_frames: int = 2
    starts: int = 3
    xfeat: Path | None = None


@dataclass
class Record:
    """What one contestant did. times: ms per stage, `total` and others of OVERALL, one entry per timed frame."""

    times: list[dict[str, float]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Median and p99 in ms, of the total and of each stage, and the facts; `yardstick_ms`: of the fixed work beside
        the frames; `undisturbed_ms`: of the total of those frames during which nobody else had a core and beside which
        that work took no longer than usual, so that what is ours can be told from the machine."""
        names = dict.fromkeys(name for entry in self.times for name in entry if name not in (DISTURBED, YARDSTICK))
        stages = {name: spread([entry.get(name, 0.0) for entry in self.times]) for name in names}
        total, *others = [stages.pop(name, None) for name in OVERALL]
        overall = {f"{name}_ms": value for name, value in zip(OVERALL[1:], others) if value is not None}
        shares = [1 - entry["networks"] / entry["total"] for entry in self.times if "networks" in entry]
        outside = {"outside_networks_share": float(np.median(shares))} if shares else {}
        return {"tracked_frame_ms": _over_median(total, len(self.times)), **self._of_the_machine(),
                "stages_ms": stages, **overall, **outside, **self.facts}

    def _of_the_machine(self) -> dict[str, Any]:
        work = [entry[YARDSTICK] for entry in self.times if YARDSTICK in entry]
        usual = USUAL * float(np.median(work)) if work else np.inf
        alone = [entry["total"] for entry in self.times
                 if not entry.get(DISTURBED) and entry.get(YARDSTICK, 0) <= usual]
        undisturbed = _over_median(spread(alone), len(alone)) if alone else {"frames": 0}
        yardstick = {"yardstick_ms": _over_median(spread(work), len(work))} if work else {}
        return {"undisturbed_ms": undisturbed, **yardstick}

    @property
    def median_ms(self) -> float:
        """Of the tracked frame."""
        return float(np.median([entry["total"] for entry in self.times]))


class Contestant:
    """A worker process; as a context manager it ends with the block.

    first_result_s: from the start of the process to its first matched pair of frames.
    Raises MatcherError when the process fails, with its reason.
    """

    def __init__(self, name: str, job: dict[str, Any]) -> None:
        job = {"contestant": name, **job}
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "efficient_matcher.evaluate.bench_worker"], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._errors, env=_environment(job["threads"]))
        try:
            self.facts = self._ask(job)
        except BaseException:
            self.close()
            raise
        self.first_result_s = time.perf_counter() - start

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def turn(self, frames: int) -> list[dict[str, float]]:
        """Track one frame untimed, then `frames` more; their times in ms per stage."""
        time.sleep(SETTLE_S)
        self._ask({"frames": 1})
        answer = self._ask({"frames": frames})
        times = answer.pop("times")
        self.facts = answer
        if len(times) != frames:
            raise MatcherError(f"bench: {self.name} lost track of the frames given; are they one camera's?")
        return times

    def close(self) -> None:
        """End the process."""
        if self._process.stdin and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; its answer, if any, says why
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            raise MatcherError(f"bench: {self.name}: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1] if lines else "its process ended without a word"


def bench(frames: Sequence[NDArray[np.uint8]], config: Config, plan: BenchPlan = BenchPlan(),
          on_turn: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """Measure on frames [H,W], neighbours in time; returns the figures, ready for a report.

    The tracked frame is extraction, matching and homography. `refined`: the same and refinement as configured, left
    out where that is off. `ratio_to_dense_torch` is median over median, None where torch is not installed. on_turn:
    called after each turn. Raises MatcherError when a contestant fails or fewer than two frames are given.
    """
    threads = config.model.threads or available_threads()
    rivals, skipped = _available(plan)
    with tempfile.TemporaryDirectory(prefix="efficient-matcher-bench-") as folder:
        job = make_job(frames, Path(folder), without_refinement(config), xfeat=plan.xfeat and str(plan.xfeat))
        refined = {REFINED: {**job, "settings": config.values(), "contestant": OURS}} if config.refine.enabled else {}
        starts = [_first_result_s(job) for _ in range(plan.starts - 1)]
        records, first_result_s = take_turns({OURS: job, **refined, **{name: job for name in rivals}}, plan, on_turn)
    starts.append(first_result_s)
    others = {name: records[name] for name in rivals}
    return {
        **_figures(records[OURS], others), **{name: _figures(records[name], others) for name in refined},
        "first_result_s": float(np.median(starts)), "first_results_s": starts, "threads": threads,
        "backend": config.model.backend, "counted": COUNTED,
        "rivals": {name: record.summary() for name, record in others.items()}, "skipped": skipped,
    }


def turns(plan: BenchPlan, config: Config) -> int:
    """How often `on_turn` is called."""
    return plan.rounds * (1 + config.refine.enabled + len(_available(plan)[0]))


def without_refinement(config: Config) -> Config:
    """The networks alone: what the protocol calls a tracked frame."""
    return config.with_values({"refine.enabled": False})


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and p99."""
    return {"median": float(np.median(values)), "p99": float(np.percentile(values, 99))}


def _over_median(figures: dict[str, float], frames: int) -> dict[str, float]:
    return {**figures, "p99_over_median": figures["p99"] / figures["median"], "frames": frames}


def make_job(frames: Sequence[NDArray[np.uint8]], folder: Path, config: Config, **other: Any) -> dict[str, Any]:
    """What a contestant is told; writes the frames into `folder`. Raises MatcherError for frames of no use."""
    return {"frames": _write_frames(frames, folder), "shape": (len(frames), *frames[0].shape),
            "threads": config.model.threads or available_threads(), "settings": config.values(), **other}


def take_turns(jobs: Mapping[str, dict[str, Any]], plan: BenchPlan,
               on_turn: Callable[[str], None] = lambda name: None) -> tuple[dict[str, Record], float]:
    """Contestants by name, each with its job, turn after turn; what each did, and when the first gave a result, in s.

    A job's `contestant` says what runs, where it is not the name.
    """
    contestants: list[Contestant] = []
    records = {name: Record() for name in jobs}
    try:
        for name, job in jobs.items():
            contestants.append(Contestant(name, job))
        for index in range(plan.rounds):
            shift = index % len(contestants)  # nobody always follows the same rival
            for contestant in contestants[shift:] + contestants[:shift]:
                count = plan.dense_frames if contestant.name == DENSE else plan.frames
                records[contestant.name].times += contestant.turn(count)
                records[contestant.name].facts = contestant.facts
                on_turn(contestant.name)
    finally:
        for contestant in contestants:
            contestant.close()
    return records, contestants[0].first_result_s


def _first_result_s(job: dict[str, Any]) -> float:
    with Contestant(OURS, job) as contestant:
        return contestant.first_result_s


def _available(plan: BenchPlan) -> tuple[list[str], dict[str, str]]:
    rivals = (*plan.rivals, *((XFEAT, XFEAT_SESSION) if plan.xfeat else ()))
    missing = {name: [module for module in NEEDS.get(name, ()) if importlib.util.find_spec(module) is None]
               for name in rivals}
    skipped = {name: f"{modules[0]} is not installed" for name, modules in missing.items() if modules}
    return [name for name in rivals if name not in skipped], skipped


def _figures(own: Record, others: Mapping[str, Record]) -> dict[str, Any]:
    """Of one way of running the bundle, beside its rivals; the ratio to one that is not there is None."""
    ratios = {f"ratio_to_{name}": others[name].median_ms / own.median_ms if name in others else None
              for name in dict.fromkeys((*RIVALS, *others))}
    return {**ratios, **own.summary()}


def _write_frames(frames: Sequence[NDArray[np.uint8]], folder: Path) -> str:
    if len(frames) < 2:
        raise MatcherError(f"bench: needs at least two frames, got {len(frames)}")
    if any(frame.shape != frames[0].shape for frame in frames):
        raise MatcherError("bench: the frames differ in size")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "frames.raw"
    np.stack(frames).astype(np.uint8).tofile(path)
    return str(path)


def _environment(threads: int) -> dict[str, str]:
    """The same threads for every library, and this very package."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    limits = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL")}
    return {**os.environ, **limits, "PYTHONPATH": paths}
