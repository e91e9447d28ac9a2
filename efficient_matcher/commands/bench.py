"""`bench`: the speed of a tracked frame beside its rivals, as a table and a report."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import efficient_matcher
from efficient_matcher.commands.common import print_table
from efficient_matcher.config import Config
from efficient_matcher.core.bundle import file_sha256, load_bundle
from efficient_matcher.errors import ConfigError
from efficient_matcher.evaluate.latency import COUNTED, DENSE, RIVALS, BenchPlan, bench, turns
from efficient_matcher.evaluate.motion import moving_view
from efficient_matcher.evaluate.xfeat import XFEAT
from efficient_matcher.files import write_json
from efficient_matcher.records import Frame
from efficient_matcher.ros.messages import model_hash
from efficient_matcher.sources.image_sets import is_bag
from efficient_matcher.sources.images import read_frames

FRAME_COUNT = 40
BUSY_SHARE = 0.5  # of the threads kept busy by others: more makes figures worthless
LIBRARIES = ("numpy", "opencv-python-headless", "opencv-python", "onnxruntime", "openvino", "torch")


def run(
    *, config: Config = Config(), images: Path | None = None, topic: str | None = None, json: Path | None = None,
    rivals: tuple[str, ...] = RIVALS, rounds: int = 10, frames: int = 10, dense_frames: int = 2, starts: int = 3,
    xfeat: Path | None = None,
) -> dict[str, Any]:
    """Measure, print the table, write the report; returns the report.

    images: folder or bag of one camera's frames (the first 40 are used, `topic` of a bag), else a synthetic
    view. rivals: of RIVALS. rounds, frames, dense_frames, starts, xfeat: see `BenchPlan`. Raises MatcherError.
    """
    for name in rivals:
        if name not in RIVALS:
            raise ConfigError(f"unknown rival '{name}', known: {', '.join(RIVALS)}")
    bundle = load_bundle(config.model.bundle)
    plan = BenchPlan(tuple(dict.fromkeys(rivals)), rounds, frames, dense_frames, starts, xfeat)
    pictures = _frames(images, topic, config)
    machine = machine_facts()
    with progress(turns(plan, config)) as on_turn:
        figures = bench(pictures, config, plan, on_turn)
    height, width = pictures[0].shape
    report = {"command": "bench", "version": efficient_matcher.__version__, **figures,
              "bundle": {"name": bundle.card.name, "hash": model_hash(bundle.card)},
              "weights": {} if xfeat is None else {XFEAT: file_sha256(xfeat)},
              "frames": {"source": images or "synthetic", "count": len(pictures), "width": width, "height": height},
              "plan": vars(plan), "settings": config.values(), "machine": machine}
    print_table(f"bench, {width}x{height}, {report['keypoints']} keypoints, {report['threads']} threads", _rows(report))
    if json is not None:
        write_json(json, report)
    return report


def _frames(source: Path | None, topic: str | None, config: Config) -> list[NDArray[np.uint8]]:
    if source is None:
        return moving_view(FRAME_COUNT, config.input.width or 640, config.input.height or 480)
    return [frame.image for frame in islice(_read(source, topic, config), FRAME_COUNT)]


def _read(source: Path, topic: str | None, config: Config) -> Iterator[Frame]:
    if not is_bag(source):
        yield from read_frames(source, config.input)
        return
    from efficient_matcher.sources.bags import ImageBag
    with ImageBag(source, topic) as bag:
        yield from (entry.frame for entry in bag.frames(config.input))


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar over `total` turns; gives what is to be called with a name after each."""
    from rich.console import Console
    from rich.progress import Progress
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("bench", total=total)
        yield lambda name: progress.update(task, advance=1, description=f"bench {name}")


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "tracked frame ms", _spread(report["tracked_frame_ms"]) + _ratio_of_p99(report["tracked_frame_ms"])
    yield "  undisturbed", _undisturbed(report)
    yield "  fixed work beside it", f"p99 {report['yardstick_ms']['p99_over_median']:.2f} medians"
    for stage, value in report["stages_ms"].items():
        yield f"  {stage}", _spread(value)
    yield "in the networks", f"{_spread(report['networks_ms'])}   ({COUNTED['networks']})"
    yield "outside the networks", f"{100 * report['outside_networks_share']:.1f} % of the frame ({COUNTED['outside']})"
    if (refined := report.get("refined")) is not None:
        yield from _refined_rows(refined)
    yield "garbage collector", (f"{report['gc']['pauses']} pauses, longest {report['gc']['longest_ms']:.1f} ms, "
                                f"{report['gc']['total_ms']:.1f} ms in all")
    for name, rival in report["rivals"].items():
        yield name, f"{_spread(rival['tracked_frame_ms'])}   {report[f'ratio_to_{name}']:.2f} times ours"
        if name == DENSE:
            for stage, value in rival["stages_ms"].items():
                yield f"  {stage}", _spread(value)
    for name, reason in report["skipped"].items():
        yield name, f"skipped: {reason}"
    yield "peak RSS", f"{report['peak_rss_mib']:.0f} MiB, torch in the process: {report['torch_in_process']}"
    yield "first result", f"{report['first_result_s']:.2f} s after the start of the process"
    load = report["machine"]["load_average"]
    if load is not None and load > BUSY_SHARE * report["threads"]:
        yield "machine busy", f"load average was {load:.1f} before the start: times and ratios say little"
    yield "bundle", f"{report['bundle']['name']} {report['bundle']['hash'][:12]} on {_runtimes(report)}"
    yield "inner loops", report["loops"]


def _runtimes(report: dict[str, Any]) -> str:
    """The runtimes that compute the networks, and for how many each was chosen where they differ."""
    chosen = Counter(report["runtimes"])
    return ", ".join(chosen if len(chosen) == 1 else (f"{count} x {name}" for name, count in chosen.items()))


def _refined_rows(refined: dict[str, Any]) -> Iterator[tuple[str, str]]:
    ratio = refined[f"ratio_to_{DENSE}"]
    yield "with refinement ms", _spread(refined["tracked_frame_ms"]) + (
        "" if ratio is None else f"   {DENSE} takes {ratio:.2f} times as long")
    yield "  refine", _spread(refined["stages_ms"]["refine"])


def _undisturbed(report: dict[str, Any]) -> str:
    """Of the frames during which no other program, nor the host of a virtual machine, had a core or slowed it down."""
    alone, frames = report["undisturbed_ms"], report["tracked_frame_ms"]["frames"]
    found = f"{alone['frames']} of {frames} frames, during which nobody else had a core or slowed it down"
    return found if not alone["frames"] else f"{_spread(alone)}{_ratio_of_p99(alone)}   ({found})"


def _ratio_of_p99(value: dict[str, float]) -> str:
    return f" ({value['p99_over_median']:.2f} medians)"


def _spread(value: dict[str, float]) -> str:
    return f"median {value['median']:.1f}   p99 {value['p99']:.1f}"


def machine_facts() -> dict[str, Any]:
    """What the times depend on beside this program."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # of the last minute
    return {"cpu": _cpu(), "cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version(),
            "libraries": versions, "load_average": load}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
