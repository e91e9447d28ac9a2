"""`bench roofline`: what each network has to do, what this machine could do, and what it reaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import efficient_matcher
from efficient_matcher.commands.bench import machine_facts
from efficient_matcher.commands.common import print_table
from efficient_matcher.config import Config
from efficient_matcher.core.backend import available_threads
from efficient_matcher.core.bundle import Bundle, load_bundle
from efficient_matcher.core.image import network_side
from efficient_matcher.evaluate.machine import measure_machine, profile
from efficient_matcher.evaluate.roofline import Cost, Machine, by_kind, network_costs, total
from efficient_matcher.files import write_json
from efficient_matcher.ros.messages import model_hash

COLUMNS = ("Mop", "MB", "least ms", "reached ms", "of peak")
KINDS_SHOWN = 5


def run(*, config: Config = Config(), json: Path | None = None) -> dict[str, Any]:
    """Measure the machine and the networks of the bundle on onnxruntime, print the table, write the report.

    Needs onnx. Raises MatcherError when the bundle is not whole.
    """
    bundle = load_bundle(config.model.bundle)
    threads = config.model.threads or available_threads()
    facts, machine = machine_facts(), measure_machine(threads)
    networks = [_measured(path, free, machine, threads) for path, free in _networks(bundle, config)]
    report = {"command": "bench roofline", "version": efficient_matcher.__version__, "threads": threads,
              "peaks": asdict(machine), "networks": networks, "machine": facts, "settings": config.values(),
              "bundle": {"name": bundle.card.name, "hash": model_hash(bundle.card)}}
    print_table(f"roofline, {threads} threads: {machine.float_gops:.0f} GFLOP/s float32, {machine.int8_gops:.0f} GOP/s "
                f"int8, {machine.memory_gbs:.1f} GB/s", _rows(networks), COLUMNS)
    if json is not None:
        write_json(json, report)
    return report


def _networks(bundle: Bundle, config: Config) -> Iterator[tuple[Path, tuple[int, ...]]]:
    width, height = bundle.card.input_size
    yield bundle.extractor, (network_side(config.input.height or height), network_side(config.input.width or width))
    for path in (*([bundle.locator] if bundle.locator else []), *bundle.matcher):
        yield path, (config.extract.max_keypoints,)


def _measured(path: Path, free: tuple[int, ...], machine: Machine, threads: int) -> dict[str, Any]:
    costs, measured = network_costs(path, free), profile(path, free, threads)
    least_ms = sum(cost.least_ms(machine) for cost in costs)  # node by node: a sum of all would hide who waits for whom
    return {**_figures(total(path.stem, costs), least_ms), **measured, "share_of_peak": least_ms / measured["best_ms"],
            "kinds": [_figures(cost, sum(entry.least_ms(machine) for entry in costs if entry.kind == kind), kind)
                      for kind, cost in by_kind(costs).items()]}


def _figures(cost: Cost, least_ms: float, name: str = "") -> dict[str, Any]:
    return {"name": name or cost.name, "operations": cost.operations, "bytes": cost.bytes, "int8": cost.int8,
            "least_ms": least_ms}


def _rows(networks: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for network in networks:
        share = f"{100 * network['share_of_peak']:.0f} %"
        yield (*_cells(network["name"], network), f"{network['best_ms']:.2f}", share)
        for kind in sorted(network["kinds"], key=lambda entry: -entry["least_ms"])[:KINDS_SHOWN]:
            if kind["least_ms"]:
                spent = network["by_kind"].get(kind["name"])  # fused operators go by other names
                yield (*_cells(f"  {kind['name']}", kind), "" if spent is None else f"{spent:.2f}", "")
        for name, spent in list(network["by_kind"].items())[:KINDS_SHOWN]:
            if name not in {kind["name"] for kind in network["kinds"] if kind["least_ms"]}:
                yield f"  {name} (as run)", "", "", "", f"{spent:.2f}", ""


def _cells(name: str, figures: dict[str, Any]) -> tuple[str, str, str, str]:
    return (name, f"{figures['operations'] / 1e6:.0f}", f"{figures['bytes'] / 1e6:.1f}", f"{figures['least_ms']:.2f}")
