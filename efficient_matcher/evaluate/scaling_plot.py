"""The scaling tables as one picture, drawn without a display. Needs matplotlib, which the extra `plots` brings."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

AXES = {"keypoints": "keypoints", "resolution": "pixels (axis in megapixels)", "threads": "threads", "cameras": "cameras"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # Okabe and Ito


def plot_scaling(figures: Mapping[str, Sequence[Mapping[str, Any]]], subject: str) -> bytes:
    """Median and p99 over each table's value, with the stages where they are known, as PNG. subject: in words."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    names = [name for name in AXES if name in figures]
    figure = Figure(figsize=(3.8 * len(names), 3.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names):
        _draw(axis, figures[name])
        axis.set_xlabel(AXES[name])
    figure.axes[0].legend(fontsize=8)
    figure.axes[0].set_ylabel("ms a frame" if "cameras" not in names else "ms a frame (of all cameras)")
    figure.suptitle(textwrap.fill(subject, 42 * len(names)), fontsize=10)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _draw(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    values = [row["value"] for row in rows]
    totals = [row["tracked_frame_ms"] for row in rows]
    axis.plot(values, [total["median"] for total in totals], "o-", color="black", label="frame, median")
    axis.plot(values, [total["p99"] for total in totals], ":", color="black", label="frame, p99")
    stages = dict.fromkeys(stage for row in rows[1:] for stage in row["stages_ms"] if stage != "other")
    for colour, stage in zip(COLOURS, stages):
        axis.plot(values, [row["stages_ms"].get(stage, {}).get("median", float("nan")) for row in rows], "-",
                  color=colour, label=stage)
    axis.set_xticks(values, [row["label"] for row in rows], fontsize=7, rotation=45 if len(values) > 4 else 0)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
