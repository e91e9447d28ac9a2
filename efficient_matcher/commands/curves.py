"""`train curves`: the log of a run as a picture, for a model card or a look at how it goes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.errors import MatcherError
from efficient_matcher.files import write_bytes_atomic
from efficient_matcher.learn.log import NAME

COLUMNS = 4
FEW = 3
SMOOTHED_OVER = 15  # entries; single steps are noise
FAINT, CLEAR = "#b8c4d0", "#0072B2"
Curves = dict[str, NDArray[np.float64]]


def run(folder: Path, out: Path | None = None) -> Path:
    """Draw every part of a run's log over its steps; returns the picture's path, by default `curves.png` in the run.

    Raises MatcherError: no log, or nothing in it.
    """
    import matplotlib  # noqa: F401  # missing, it should be told before anything else
    curves = read_log(folder / NAME)
    steps, hours = int(curves["step"][-1]), curves["seconds"][-1] / 3600
    out = out or folder / "curves.png"
    write_bytes_atomic(out, plot_curves(curves, f"{folder.resolve().name}: {steps:,} steps, {hours:.1f} hours"))
    print(f"wrote {out}")
    return out


def read_log(path: Path) -> Curves:
    """Columns of a log, NaN where an entry lacks one; lines cut off by a crash are left out. Raises MatcherError."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise MatcherError(f"{path}: cannot be read: {error.strerror}") from None
    entries = [entry for line in lines if (entry := _entry(line))]
    if not entries:
        raise MatcherError(f"{path}: holds no entry of a training run")
    names = dict.fromkeys(name for entry in entries for name in entry)
    return {name: np.array([entry.get(name, np.nan) for entry in entries], np.float64) for name in names}


def _entry(line: str) -> Mapping[str, float]:
    try:
        entry = json.loads(line)
        return {name: float(value) for name, value in entry.items()} if {"step", "seconds"} <= set(entry) else {}
    except (ValueError, TypeError, AttributeError):
        return {}


def plot_curves(curves: Curves, title: str) -> bytes:
    """PNG with a panel for each part: what was logged, and its running mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    names = [name for name in curves if name not in ("step", "seconds")]
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(3.0 * COLUMNS, 2.1 * rows + 0.4), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    marker = "o" if len(curves["step"]) < FEW else None  # one point makes no line
    for panel, name in zip(panels, names):
        panel.plot(curves["step"], curves[name], color=FAINT, linewidth=0.8, marker=marker, markersize=3)
        panel.plot(curves["step"], running_mean(curves[name]), color=CLEAR)
        panel.set_title(name.replace("_", " "), fontsize=9)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
    for panel in panels[len(names):]:
        panel.axis("off")
    figure.suptitle(title, fontsize=10)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def running_mean(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each value and those up to half of SMOOTHED_OVER before and after it, but for NaN; fewer at both ends."""
    values = np.asarray(values, np.float64)
    reach, known = SMOOTHED_OVER // 2, ~np.isnan(values)
    around = [slice(max(0, i - reach), i + reach + 1) for i in range(len(values))]
    return np.array([values[near][known[near]].mean() if known[near].any() else np.nan for near in around])
