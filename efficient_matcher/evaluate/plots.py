"""Plots of sweeps, drawn without a display. Needs matplotlib, which the extra `plots` brings."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from efficient_matcher.evaluate.sweep_cells import METRICS
from efficient_matcher.evaluate.sweeps import SWEEPS

Figures = Mapping[str, Sequence[Mapping[str, Any]]]  # by sweep: rows of value and figures by method

# Okabe and Ito's colours: told apart by colour-blind eyes; the markers tell them apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
OVERVIEW = ("repeatability", "repeated_error_px", "matched_error_px", "auc_10")
LOGARITHMIC = ("scale", "gamma")


def plot_sweep(name: str, rows: Sequence[Mapping[str, Any]], subject: str) -> bytes:
    """All metrics of one sweep over its values, a line a method, as PNG. subject: what was measured, in words."""
    figure, axes = _grid(2, 3)
    for axis, metric in zip(axes.flat, METRICS):
        _draw(axis, name, rows, metric)
    return _png(figure, axes.flat[0], f"{SWEEPS[name].title}: {subject}")


def plot_overview(figures: Figures, subject: str) -> bytes:
    """The most telling metrics of every sweep, a column a sweep, as PNG."""
    figure, axes = _grid(len(OVERVIEW), len(figures))
    for row, metric in enumerate(OVERVIEW):
        for column, (name, rows) in enumerate(figures.items()):
            _draw(axes[row, column], name, rows, metric)
            axes[row, column].set_title(SWEEPS[name].title if row == 0 else "", fontsize=10)
            axes[row, column].set_ylabel(METRICS[metric] if column == 0 else "", fontsize=9)
    return _png(figure, axes.flat[0], subject)


def _grid(rows: int, columns: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(3.7 * columns, 2.9 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _draw(axis: Any, name: str, rows: Sequence[Mapping[str, Any]], metric: str) -> None:
    sweep = SWEEPS[name]
    values = [row["value"] for row in rows]
    for index, method in enumerate(rows[0]["methods"]):
        heights = [row["methods"][method][metric] for row in rows]
        axis.plot(values, [float("nan") if height is None else height for height in heights], label=method,
                  color=COLOURS[index % len(COLOURS)],
                  marker=MARKERS[index % len(MARKERS)], markersize=4, linewidth=1.4)
    if name in LOGARITHMIC:
        axis.set_xscale("log")
        axis.set_xticks(values, [f"{value:g}" for value in values])
        axis.minorticks_off()
    if name == "jpeg":
        axis.invert_xaxis()  # as in the other sweeps, harder to the right
    axis.set_xlabel(f"{sweep.title}, {sweep.unit}", fontsize=9)
    axis.set_title(METRICS[metric], fontsize=10)
    axis.set_ylim(0, None if metric.endswith("px") else 102)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)


def _png(figure: Any, first: Any, title: str) -> bytes:
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 7), frameon=False)
    figure.suptitle(title, fontsize=11)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
