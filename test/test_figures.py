"""Figures in the README are those that the commands beside them wrote into docs/figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIGURES, README = ROOT / "docs" / "figures", (ROOT / "README.md").read_text()


def figures(name: str) -> dict:
    return json.loads((FIGURES / f"{name}.json").read_text())


@pytest.mark.parametrize(("method", "fit"), [
    *((bundle, fit) for bundle in ("default", "accurate") for fit in ("ransac", "robust", "refined_ransac")),
    ("sift", "ransac"), ("sift", "robust"), ("orb", "ransac")])
def test_accuracy(method: str, fit: str) -> None:
    clean, hard = (next(row for row in figures("evaluate")["results"]
                        if (row["method"], row["variant"]) == (method, variant)) for variant in ("clean", "hard"))
    cells = [" / ".join(f"{value:.1f}" for value in row["strict"]["auc"][fit].values()) for row in (clean, hard)]
    assert f"| {cells[0]} | {cells[1]} |" in README
    if fit == "ransac":
        assert f"| {clean['precision']:.1f} / {clean['recall']:.1f} (" in README


@pytest.mark.parametrize("name", ["bench", "bench-accurate"])
def test_speed(name: str) -> None:
    for report in (figures(name), figures(name)["refined"]):
        times = report["tracked_frame_ms"]
        told = f"{times['median']:.0f} / {times['p99']:.0f} ms, {report['ratio_to_dense_torch']:.1f} times"
        assert told in README, told


def test_every_file_of_figures_is_named_by_a_page() -> None:
    pages = README + "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    for path in FIGURES.glob("*.json"):
        assert path.name in pages, path.name
