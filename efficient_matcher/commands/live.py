"""`live`: the matcher node on a machine without ROS, over plain DDS; ends with the table of a replay."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficient_matcher.commands.common import print_table
from efficient_matcher.commands.summary import COLUMNS, Summary, counts, distributions
from efficient_matcher.config import Config
from efficient_matcher.core.memory import settle_memory
from efficient_matcher.errors import SourceError
from efficient_matcher.files import write_json
from efficient_matcher.ros import messages
from efficient_matcher.ros.dds_node import DdsMatcherNode
from efficient_matcher.ros.diagnostics import Status
from efficient_matcher.ros.discovery import discovery_range
from efficient_matcher.ros.matching import NAME, Listeners
from efficient_matcher.stopping import StopSignals

PAIRS_KEPT = 10_000  # the distributions are over these: a node may run for months
REASONS_KEPT = 50  # different failures counted apart; a damaged camera may have one per image
_SHOWN = ("images_per_s", "results_per_s", "latency_p50_ms", "inliers_median", "dropped")


@dataclass(frozen=True)
class LiveOptions:
    """What to listen to. image: topic; camera_info: topic, beside the image if None; name: the node's, its namespace
    included; domain: ROS_DOMAIN_ID if None; seconds: when to stop by itself."""

    image: str
    camera_info: str | None = None
    name: str = NAME
    domain: int | None = None
    config: Config = Config()
    json: Path | None = None
    seconds: float | None = None


def run(options: LiveOptions) -> None:
    """Match until Ctrl-C, SIGTERM or the end of `seconds`, then print the table and write the JSON.

    Raises MatcherError, also when no image came during `seconds`.
    """
    with StopSignals() as stop:
        live = _Live(options)
        settle_memory()
        try:
            live.run(stop)
            problem = live.problem() if not stop.requested else None
        finally:
            live.node.close()
    report = live.report(problem)
    if options.json is not None:
        write_json(options.json, report)
    print_table("live", _facts(report))
    if summary_rows := distributions(report):
        print_table("", summary_rows, COLUMNS)
    if problem is not None:
        raise SourceError(problem)


class _Live:
    """One run of the node."""

    def __init__(self, options: LiveOptions) -> None:
        self._options = options
        self._summary = Summary(PAIRS_KEPT)
        self._seconds = 0.0
        self._was_open = False
        self.node = DdsMatcherNode(options.config, options.image, options.camera_info, options.name, options.domain,
                                   Listeners(_say, self._on_failure, self._summary.add))

    def run(self, stop: StopSignals) -> None:
        """Until stopped or out of time."""
        _say(self._greeting())
        with _status_line() as show:
            def on_status(status: Status) -> None:
                self._was_open |= self.node.matching.inputs.is_open
                show(status)

            start = time.monotonic()
            end = start + (float("inf") if self._options.seconds is None else self._options.seconds)
            self.node.spin(lambda: not stop.requested and time.monotonic() < end, on_status)
        self._seconds = time.monotonic() - start

    def problem(self) -> str | None:
        """Why a run that came to its end saw no image, in one line; None if it did."""
        if self.node.matching.stats().received:
            return None
        if not (self._was_open or self.node.matching.inputs.is_open):
            return ("nobody subscribed to the results, so no image was taken; "
                    "--set node.lazy=false matches all the same")
        kinds = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
        seen = [name for name, kind in self.node.node.published_topics().items() if kind in kinds]
        others = [name for name in seen if not name.startswith(self.node.node.full_name + "/")]
        return (f"no image came on {self.node.topics.image} in domain {self.node.node.domain}; "
                + (f"there are {', '.join(others)}" if others else "no other image topic was seen either"))

    def report(self, error: str | None) -> dict[str, Any]:
        """All numbers of the run, which is over."""
        matching, summary = self.node.matching, self._summary
        stats, restarts = matching.stats(), matching.stream.restarts
        summary.received, summary.processed, summary.dropped = stats.received, stats.processed, stats.dropped
        if restarts[0]:
            summary.restarts[f"last: {restarts[1]}"] = restarts[0]
        card = matching.matcher.card
        return {
            "command": "live", "node": self.node.node.full_name, "domain": self.node.node.domain,
            "discovery": discovery_range(), "topic": self.node.topics.image,
            "camera_info": self.node.topics.camera_info, "seconds": self._seconds, "error": error,
            "bundle": {"name": card.name, "hash": messages.model_hash(card)},
            **summary.as_dict(), "received_to_published_ms": stats.latency_ms,
            "config": self._options.config.values(),
        }

    def _greeting(self) -> str:
        node, topics = self.node.node, self.node.topics
        waiting = "" if self.node.matching.inputs.is_open else "; waits for a subscriber (node.lazy)"
        return (f"model '{self.node.matching.matcher.card.name}', images from {topics.image}, "
                f"results on {node.full_name}/matches, domain {node.domain} ({discovery_range()}){waiting}")

    def _on_failure(self, text: str) -> None:
        """Each reason is shown once."""
        failures = self._summary.failures
        if text not in failures:
            if len(failures) >= REASONS_KEPT:
                text = "other reasons"
            else:
                _say(f"image skipped: {text}")
        failures[text] += 1


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("node", f"{report['node']}  domain {report['domain']}  {report['seconds']:.1f} s"),
            ("images", report["topic"]), *counts(report)]
    if report["received_to_published_ms"]:
        latency = "  ".join(f"{name} {value:.1f}" for name, value in report["received_to_published_ms"].items())
        rows.append(("received to published ms", latency))
    return rows


@contextmanager
def _status_line() -> Iterator[Callable[[Status], None]]:
    """The newest diagnosis in one line of a terminal's standard error; nothing elsewhere."""
    from rich.console import Console
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda status: None
        return
    with console.status("starting", refresh_per_second=4) as line:
        yield lambda status: line.update(_status_text(status))


def _status_text(status: Status) -> str:
    shown = [f"{name} {status.values[name]}" for name in _SHOWN if name in status.values]
    return "  ".join([status.message, *shown]).replace("[", r"\[")  # brackets are no markup here


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
