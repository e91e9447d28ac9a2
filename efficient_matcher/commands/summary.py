"""The numbers of a run: collected pair by pair, written as JSON and shown as a table."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import MutableSequence
from typing import Any

from efficient_matcher.commands.common import distribution
from efficient_matcher.records import PairResult

REASONS_KEPT = 20  # different reasons listed; a damaged bag may have one per message

COLUMNS = ("min", "p10", "median", "p90", "p99", "max")
_PAIR_ROWS = (("matches", "matches", 1, 0), ("inliers", "inliers", 1, 0), ("inlier_share", "inlier share %", 100, 1),
              ("rmse_px", "rmse px", 1, 2), ("depth", "matcher depth", 1, 0))  # key, label, factor, digits


class Summary:
    """Counts over a run, and distributions over all of it or over the latest `kept` pairs."""

    def __init__(self, kept: int | None = None) -> None:
        self._kept = kept
        self.received = 0
        self.processed = 0
        self.dropped = 0  # only where frames come by themselves; offline, each waits for the one before
        self.failures: Counter[str] = Counter()
        self.restarts: Counter[str] = Counter()
        self.pairs = 0  # added so far
        self._valid = 0
        self._values: dict[str, MutableSequence[float]] = {name: deque(maxlen=kept) for name, *_ in _PAIR_ROWS}
        self._timings: dict[str, MutableSequence[float]] = {}

    def add(self, result: PairResult) -> None:
        """Count one pair."""
        self.pairs += 1
        matches, inliers = len(result.matches), int(result.homography.inliers.sum())
        self._valid += result.homography.valid
        self._values["matches"].append(matches)
        self._values["inliers"].append(inliers)
        self._values["inlier_share"].append(inliers / matches if matches else 0.0)
        if result.homography.valid:
            self._values["rmse_px"].append(result.homography.rmse)
        if result.depth:
            self._values["depth"].append(result.depth)
        for stage, milliseconds in result.timings.items():
            self.add_timing(stage, milliseconds)

    def add_timing(self, stage: str, milliseconds: float) -> None:
        """Count the time of a stage that is not part of a pair."""
        self._timings.setdefault(stage, deque(maxlen=self._kept)).append(milliseconds)

    def as_dict(self) -> dict[str, Any]:
        """Frames, restarts, pairs and latencies, ready for JSON."""
        return {
            "frames": {"received": self.received, "processed": self.processed,
                       "dropped": self.dropped, "failed": sum(self.failures.values()),
                       "failed_reasons": _listed(self.failures)},
            "restarts": {"count": sum(self.restarts.values()), "reasons": _listed(self.restarts)},
            "pairs": {"count": self.pairs, "valid": self._valid,
                      "valid_share": self._valid / self.pairs if self.pairs else None,
                      **{name: distribution(values) for name, values in self._values.items()}},
            "latency_ms": {stage: distribution(values) for stage, values in self._timings.items()},
        }


def facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    """What was replayed and how it went, as rows of a table."""
    rows = [("bag", f"{report['bag']}  {report['topic']}"), *counts(report)]
    rows += [("no rays", report["rays_missing"])] if report["rays_missing"] else []
    return rows + [(f"-> {name}", str(path)) for name, path in report["outputs"].items() if path]


def counts(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Model, frames, restarts and pairs as rows of a table."""
    frames, pairs, restarts = report["frames"], report["pairs"], report["restarts"]
    numbers = ", ".join(f"{frames[name]} {name}" for name in ("received", "processed", "dropped", "failed"))
    share = "" if pairs["valid_share"] is None else f" ({100 * pairs['valid_share']:.1f} %)"
    rows = [("model", report["bundle"]["name"]), ("frames", numbers)]
    rows += [("  failed", f"{count} x {reason}") for reason, count in frames["failed_reasons"].items()]
    rows += [("restarts", str(restarts["count"]))]
    rows += [("  restarted", f"{count} x {reason}") for reason, count in restarts["reasons"].items()]
    return rows + [("pairs", f"{pairs['count']}, of them valid {pairs['valid']}{share}")]


def distributions(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """The distributions of a report as rows under `COLUMNS`; those without values are left out."""
    pairs, latencies = report["pairs"], report["latency_ms"]
    rows = [(label, pairs[name], scale, digits) for name, label, scale, digits in _PAIR_ROWS]
    rows += [(f"{stage} ms", values, 1, 1) for stage, values in latencies.items()]
    return [(label, *(f"{values[column] * scale:.{digits}f}" for column in COLUMNS))
            for label, values, scale, digits in rows if values is not None]


def _listed(counts: Counter[str]) -> dict[str, int]:
    common = counts.most_common(REASONS_KEPT)
    rest = sum(counts.values()) - sum(count for _, count in common)
    return {**dict(common), **({"other reasons": rest} if rest else {})}
