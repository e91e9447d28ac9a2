"""How wide each layer should be for a budget: of multiply-accumulates, or of milliseconds on this machine.

From the full network on, the units whose importance is least for what they cost leave one block after another. That
gives one row of networks, each contained in the one before; the budget chooses the first that is small enough.
Latency is measured on the exported network through `core/backend.py`, on a few networks of that row.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from efficient_matcher.core.backend import open_model
from efficient_matcher.learn.channels import (
    PAIRS, Criterion, Network, PruneError, importances, narrow, sizes)
from efficient_matcher.learn.macs import IMAGE_SIZE, KEYPOINTS, superglue_macs, superpoint_macs
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig
from efficient_matcher.learn.superpoint import ENCODER, SuperPoint, SuperPointConfig

TIMED_RUNS = 15
TINY = 1e-12


@dataclass(frozen=True)
class Budget:
    """What the network may cost: exactly one of the two."""

    macs: float | None = None
    latency_ms: float | None = None
    threads: int = 0  # of the measurement; 0 takes the process's CPU affinity


def search_widths(
    network: Network, budget: Budget, multiple: int = 16, criterion: Criterion = "frobenius", seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, int]:
    """Sizes for `narrow` that meet the budget. multiple: of which channel counts are to be; heads leave one by one.

    Raises PruneError when even the smallest network is over the budget.
    """
    row = shrinking_row(network, multiple, criterion, seed)
    if budget.macs is not None:
        return _first(row, lambda entry: macs_of(network, entry), budget.macs, "MACs", progress)

    def latency(entry: Mapping[str, int]) -> float:
        return latency_ms(narrow(network, entry, criterion, seed), budget.threads)
    return _first(row, latency, budget.latency_ms, "ms", progress)


def shrinking_row(network: Network, multiple: int, criterion: Criterion, seed: int) -> list[dict[str, int]]:
    """Sizes from the full network down to the smallest, one block less each time."""
    scores = importances(network, criterion, seed)
    left = {name: sorted(values.tolist(), reverse=True) for name, values in scores.items()}
    current = {name: size for name, size in sizes(network).items() if name != PAIRS}
    row = [dict(current)]
    while True:
        options = [(name, _next(size, 1 if name.endswith(".heads") else multiple)) for name, size in current.items()]
        options = [(name, size) for name, size in options if size]
        if not options:
            return row
        now = macs_of(network, current)

        def price(option: tuple[str, int]) -> float:
            name, size = option
            # in proportion to what the layer still has, or a cheap layer would be emptied before others are touched
            lost = math.log(max(sum(left[name][:current[name]]), TINY) / max(sum(left[name][:size]), TINY))
            return lost / max(1, now - macs_of(network, {**current, name: size}))
        name, size = min(options, key=price)
        current[name] = size
        row.append(dict(current))


def macs_of(network: Network, entry: Mapping[str, int]) -> int:
    """Multiply-accumulates the network would take with these sizes: 640x480 pixels, or twice 512 keypoints."""
    if isinstance(network, SuperPoint):
        return superpoint_macs(_superpoint_config(network.config, entry))
    return superglue_macs(_superglue_config(network.config, entry))


def latency_ms(network: Network, threads: int = 0, runs: int = TIMED_RUNS) -> float:
    """Median time in ms of the exported network on this machine, on an image or pair of the usual size."""
    import onnx

    from efficient_matcher.learn.extractor_graph import extractor_model
    from efficient_matcher.learn.matcher_graph import matcher_model
    graph = extractor_model(network) if isinstance(network, SuperPoint) else matcher_model(network)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        onnx.save(graph, str(path))
        model = open_model(path, threads)
    inputs, times = _inputs(network), []
    for _ in range(runs + 2):
        started = time.perf_counter()
        model.run(inputs)
        times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times[2:]))


def _first(row: list[dict[str, int]], cost: Callable[[Mapping[str, int]], float], limit: float | None, unit: str,
           progress: Callable[[str], None]) -> dict[str, int]:
    """The first entry that costs no more than `limit`, by bisection: costs fall along the row."""
    smallest = cost(row[-1])
    if limit is None or not smallest <= limit:
        raise PruneError(f"the budget of {limit:g} {unit} cannot be met: the smallest network takes {smallest:g}")
    low, high = -1, len(row) - 1  # row[high] is small enough, row[low] is not
    while high - low > 1:
        middle = (low + high) // 2
        found = cost(row[middle])
        progress(f"{found:.4g} {unit} with {', '.join(f'{name}={size}' for name, size in row[middle].items())}")
        low, high = (low, middle) if found <= limit else (middle, high)
    return row[high]


def _next(size: int, multiple: int) -> int:
    """The next smaller multiple; 0 when there is none."""
    return (size - 1) // multiple * multiple


def _superpoint_config(config: SuperPointConfig, entry: Mapping[str, int]) -> SuperPointConfig:
    widths = tuple(entry.get(name, width) for name, width in zip(ENCODER, config.widths))
    return replace(config, widths=widths, detector_width=entry.get("Pa", config.detector_width),
                   descriptor_width=entry.get("Da", config.descriptor_width),
                   location_width=entry.get("location", config.location_width))


def _superglue_config(config: SuperGlueConfig, entry: Mapping[str, int]) -> SuperGlueConfig:
    layers = config.layer_sizes()
    return replace(
        config, head_dim=layers[0][1],
        keypoint_encoder=tuple(entry.get(f"kenc.{i}", width) for i, width in enumerate(config.keypoint_encoder)),
        layer_heads=tuple(entry.get(f"gnn.{i}.heads", heads) for i, (heads, _, _) in enumerate(layers)),
        layer_hidden=tuple(entry.get(f"gnn.{i}.hidden", hidden) for i, (_, _, hidden) in enumerate(layers)))


def _inputs(network: SuperPoint | SuperGlue) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    if isinstance(network, SuperPoint):
        return {"image": rng.integers(0, 256, (1, 1, IMAGE_SIZE[1], IMAGE_SIZE[0]), np.uint8)}
    dim = network.config.descriptor_dim
    shapes = {"keypoints": (KEYPOINTS, 2), "scores": (KEYPOINTS,), "descriptors": (KEYPOINTS, dim)}
    return {f"{name}{image}": rng.random(shape, np.float32) for image in "01" for name, shape in shapes.items()}
