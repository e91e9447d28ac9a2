"""Curves of a sensitivity scan: a metric against the level, one line per layer, as in the paper's figures 4 to 6."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

METRICS = {"precision": "precision, %", "recall": "recall, %", "auc5": "strict AUC at 5 px, %"}
AXES = {"magnitude": "share of the layer's weights that are zero", "kmeans": "bits of the layer's codebook",
        "linear": "bits of the layer's weights"}
LEVEL_OF_DENSE = {"magnitude": 0.0}  # bits have none: float32 is drawn as a line across


def plot_layers(results: Sequence[Mapping[str, Any]], network: str, method: str, variant: str) -> bytes:
    """PNG of the results of one network and method, METRICS side by side; `results` as `measure_cell` gives them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(15, 5.5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    dense = next((row for row in results if row["cell"]["network"] == "dense"), None)
    own = [row for row in results if (row["cell"]["network"], row["cell"]["method"]) == (network, method)]
    layers = list(dict.fromkeys(row["cell"]["layer"] for row in own))
    for axis, (metric, label) in zip(figure.subplots(1, len(METRICS)), METRICS.items()):
        for index, layer in enumerate(layers):
            points = [(row["cell"]["level"], row["figures"][variant][metric]) for row in own
                      if row["cell"]["layer"] == layer]
            if dense is not None and method in LEVEL_OF_DENSE:
                points.append((LEVEL_OF_DENSE[method], dense["figures"][variant][metric]))
            x, y = zip(*sorted(points))
            axis.plot(x, [float("nan") if value is None else value for value in y], label=layer, linewidth=1.2,
                      color=_colour(index, len(layers)), marker="os^vD"[index % 5], markersize=3)
        if dense is not None and dense["figures"][variant][metric] is not None:
            axis.axhline(dense["figures"][variant][metric], color="black", linewidth=0.8, linestyle="--")
        axis.set(xlabel=AXES[method], ylabel=label)
        axis.grid(alpha=0.3)
    figure.suptitle(f"{network}, one layer at a time, {method}, {variant} (dashed: dense)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=6, ncols=1 + len(layers) // 28)
    content = io.BytesIO()
    canvas.print_png(content)
    return content.getvalue()


def _colour(index: int, count: int) -> Any:
    from matplotlib import colormaps
    return colormaps["viridis"](index / max(1, count - 1))
