"""Figures in the README are those that the commands beside them wrote into docs/figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIGURES, README = ROOT / "docs" / "figures", (ROOT / "README.md").read_text()
DOCS = {path.stem: path.read_text() for path in (ROOT / "docs").glob("*.md")}


def figures(name: str) -> dict:
    return json.loads((FIGURES / f"{name}.json").read_text())


def accuracy_of(method: str) -> list[dict]:
    """Of the clean and the hard pairs; `fast` had a run of its own, in which it is the only bundle."""
    rows = figures("evaluate-fast" if method == "fast" else "evaluate")["results"]
    named = {(row["method"], row["variant"]): row for row in rows}
    return [named["bundle" if method == "fast" else method, variant] for variant in ("clean", "hard")]


def slashed(auc: dict[str, float]) -> str:
    return " / ".join(f"{value:.1f}" for value in auc.values())


@pytest.mark.parametrize(("method", "fit"), [
    *((bundle, fit) for bundle in ("default", "fast", "accurate")
      for fit in ("ransac", "robust", "refined_ransac", "refined_robust")),
    ("sift", "ransac"), ("sift", "robust"), ("xfeat", "ransac"), ("xfeat", "robust"), ("orb", "ransac")])
def test_accuracy(method: str, fit: str) -> None:
    clean, hard = accuracy_of(method)
    cells = [slashed(row["strict"]["auc"][fit]) for row in (clean, hard)]
    assert f"| {cells[0]} | {cells[1]} |" in DOCS["evaluation"]
    if fit == "ransac":
        assert f"| {clean['precision']:.1f} / {clean['recall']:.1f} (" in DOCS["evaluation"]


@pytest.mark.parametrize(("title", "method", "fit", "poses", "bench"), [
    ("`default`, as it runs", "default", "refined_robust", "pose-refined", figures("bench")["refined"]),
    ("`default`, networks alone", "default", "robust", "pose", figures("bench")),
    ("`fast`, as it runs", "fast", "refined_robust", "pose-refined-fast", figures("bench-fast")["refined"]),
    ("`fast`, networks alone", "fast", "robust", "pose-fast", figures("bench-fast")),
    ("`accurate`, networks alone", "accurate", "robust", "pose", figures("bench-accurate")),
    *((name.upper() if name != "xfeat" else "XFeat", name, "robust", "pose", figures("bench")["rivals"][name])
      for name in ("sift", "xfeat", "orb"))])
def test_the_first_table(title: str, method: str, fit: str, poses: str, bench: dict) -> None:
    clean, hard = accuracy_of(method)
    method = "bundle" if method == "fast" else method
    poses = " / ".join(f"{row['fit_auc']['5']:.1f}" for row in figures(poses)["results"] if row["method"] == method)
    assert (f"| {title} | {slashed(clean['strict']['auc'][fit])} | {slashed(hard['strict']['auc'][fit])} | "
            f"{clean['precision']:.1f} / {clean['recall']:.1f} | {poses} | {bench['tracked_frame_ms']['median']:.0f} ms") in README


@pytest.mark.parametrize("method", ["default", "sift", "xfeat"])
def test_the_first_table_by_ransac(method: str) -> None:
    assert all(slashed(row["strict"]["auc"]["ransac"]) in README
               for row in figures("evaluate")["results"] if row["method"] == method)


@pytest.mark.parametrize("method", ["default", "accurate"])
@pytest.mark.parametrize("name", ["evaluate", "evaluate-by-score"])
def test_which_keypoints_are_kept(name: str, method: str) -> None:
    cells = [slashed({threshold: row["strict"]["auc"][fit][threshold] for threshold in ("5", "10", "25")})
             for row in figures(name)["results"] if row["method"] == method for fit in ("ransac", "robust")]
    assert len(cells) == 4 and f"| {' | '.join(cells)} |" in DOCS["evaluation"]


@pytest.mark.parametrize("name", ["bench", "bench-fast", "bench-accurate"])
def test_speed(name: str) -> None:
    for report in (figures(name), figures(name)["refined"]):
        times = report["tracked_frame_ms"]
        told = f"{times['median']:.0f} / {times['p99']:.0f} ms, {report['ratio_to_dense_torch']:.1f} times"
        assert told in README, told


def test_speed_of_rivals() -> None:
    report = figures("bench")
    told = [f"{report['rivals'][name]['tracked_frame_ms']['median']:.0f} ms ({report[f'ratio_to_{name}']:.1f} times"
            for name in ("xfeat", "xfeat_onnxruntime", "sift", "orb")]
    assert all(part in README for part in told), told


def test_speed_on_openvino() -> None:
    report = figures("bench-openvino")
    times = report["tracked_frame_ms"]
    assert f"{times['median']:.0f} / {times['p99']:.0f} ms, {report['ratio_to_dense_torch']:.1f} times" in README


def test_eight_times_the_keypoints() -> None:
    rows = {(row["method"], row["variant"]): row for row in figures("evaluate-4096")["results"]}
    for method in ("sift", "xfeat"):
        cells = [f"{slashed(row['strict']['auc']['ransac'])} | {slashed(row['strict']['auc']['robust'])} | "
                 f"{row['precision']:.1f} / {row['recall']:.1f}" for row in (rows[method, "clean"], rows[method, "hard"])]
        assert f"| {' | '.join(cells)} |" in DOCS["evaluation"]


def test_twice_the_keypoints() -> None:
    bundle, sift = figures("evaluate-1024")["results"]
    cells = [slashed(row["strict"]["auc"][fit]) for row in (bundle, sift) for fit in ("ransac", "robust")]
    assert f"an AUC of {cells[0]} (robust fit {cells[1]}), SIFT {cells[2]} ({cells[3]})" in DOCS["evaluation"]
    rates = [f"{row['precision']:.1f} / {row['recall']:.1f}" for row in (bundle, sift)]
    assert f"{rates[0]} and {rates[1]}" in DOCS["evaluation"]


@pytest.mark.parametrize(("name", "method"), [
    ("pose", "default"), ("pose", "accurate"), ("pose", "sift"), ("pose", "xfeat"),
    ("pose-refined", "default"), ("pose-refined", "accurate"), ("pose-fast", "bundle"), ("pose-refined-fast", "bundle")])
def test_relative_pose(name: str, method: str) -> None:
    levels = [row for row in figures(name)["results"] if row["method"] == method]
    precision = " / ".join(f"{row['precision']:.1f}" for row in levels)
    cells = [" | ".join(slashed(row[fit]) for row in levels) for fit in ("auc", "fit_auc")]
    assert f"| {cells[0]} | {precision} |" in DOCS["evaluation"]
    assert f"| {cells[1]} |" in DOCS["evaluation"]


@pytest.mark.parametrize(("title", "method", "run", "poses"), [
    *((f"`{name}`", name, "evaluate", "pose") for name in ("default", "accurate")),
    *((f"`{name}`, not settled", name, "evaluate-not-settled", "pose-not-settled") for name in ("default", "accurate")),
    ("SIFT", "sift", "evaluate", "pose")])
def test_settled_among_their_neighbours(title: str, method: str, run: str, poses: str) -> None:
    cells = [slashed(row["strict"]["auc"]["ransac"]) for row in figures(run)["results"] if row["method"] == method]
    cells += [slashed(row["auc"]) for row in figures(poses)["results"] if row["method"] == method]
    assert f"| {title} | {' | '.join(cells)} |" in DOCS["evaluation"]
    if title == "`default`, not settled":
        assert f"not settled, `default` has {cells[0]} and {cells[1]}" in README


@pytest.mark.parametrize("method", ["default", "accurate"])
def test_mirrored(method: str) -> None:
    clean, hard = (next(row for row in figures("evaluate-mirrored")["results"]
                        if (row["method"], row["variant"]) == (method, variant)) for variant in ("clean", "hard"))
    cells = [" | ".join(slashed(row["strict"]["auc"][fit]) for row in (clean, hard)) for fit in ("ransac", "robust")]
    assert f"| `{method}`, networks alone, mirrored | {cells[0]} | {clean['precision']:.1f} / {clean['recall']:.1f} (" in DOCS["evaluation"]
    assert f"| the same, robust fit | {cells[1]} |" in DOCS["evaluation"]


@pytest.mark.parametrize("row", [row for name in ("compression", "compression-both", "compression-half", "compression-quarter")
                                 for row in figures(name)["rows"]], ids=lambda row: row["title"])
def test_compression(row: dict) -> None:
    cells = [f"{row['bytes'] / 1024:,.0f} ({100 * row['size_share']:.1f} %)", f"{row['nonzero'] / 1e6:.2f} M",
             f"{row['tracked_frame_ms']['median']:.0f} ({row['times_faster']:.2f})"]
    for found in row["accuracy"].values():
        cells += [slashed(found["auc"]), slashed(found["auc_own_fit"]), f"{found['precision']:.1f} / {found['recall']:.1f}"]
    assert f"| {row['title']} | {' | '.join(cells)} |" in DOCS["compression"]
    refined = [slashed(found[fit]) for found in row["accuracy"].values() for fit in ("auc_refined", "auc_refined_own_fit")
               if fit in found]
    if refined:
        assert f"| {row['title']} | {' | '.join(refined)} |" in DOCS["compression"]


@pytest.mark.parametrize(("name", "count"), [("ablation-extractor", 3), ("ablation", 6), ("ablation-joint", 2)])
def test_what_parts_of_the_training_add(name: str, count: int) -> None:
    rows: dict[str, dict] = {}
    for row in figures(name)["results"]:
        rows.setdefault(row["method"], {})[row["variant"]] = row
    assert len(rows) == count
    for of in rows.values():
        cells = [f"{slashed(of[variant]['strict']['auc']['robust'])} | {of[variant]['precision']:.1f} / "
                 f"{of[variant]['recall']:.1f}" for variant in ("clean", "hard")]
        assert f"| {' | '.join(cells)} |" in DOCS["training"]


@pytest.mark.parametrize("name", ["ablation-pose", "ablation-joint-pose"])
def test_what_parts_of_the_training_add_to_poses(name: str) -> None:
    rows: dict[str, list] = {}
    for row in figures(name)["results"]:
        rows.setdefault(row["method"], []).append(row)
    for levels in rows.values():
        precision = " / ".join(f"{row['precision']:.1f}" for row in levels)
        assert f"| {' | '.join(slashed(row['auc']) for row in levels)} | {precision} |" in DOCS["training"]


@pytest.mark.parametrize("row", figures("sweep")["sweeps"]["rotation"]["rows"], ids=lambda row: f"{row['value']:g}")
def test_any_angle(row: dict) -> None:
    cells = [cell for of in (row["methods"][name] for name in ("bundle", "sift")) for cell in (
        slashed({threshold: of[f"auc_{threshold}"] for threshold in ("5", "10", "25")}),
        f"{of['precision']:.1f} / {of['recall']:.1f}")]
    assert f"| {row['value']:g} deg | {' | '.join(cells)} |" in DOCS["evaluation"]


@pytest.mark.parametrize(("change", "title"), [*((name, name) for name in ("rotation", "scale", "tilt", "blur", "noise", "gamma")),
                                              ("jpeg", "JPEG")])
def test_one_change_at_a_time(change: str, title: str) -> None:
    def mean(method: str, figure: str) -> float:
        found = [row["methods"][method][figure] for row in figures("sweep")["sweeps"][change]["rows"]]
        return sum(found) / len(found)

    cells = [" / ".join(f"{mean(method, figure):.{digits}f}" for method in ("bundle", "sift"))
             for figure, digits in (("repeatability", 1), ("repeated_error_px", 2), ("matched_error_px", 2))]
    assert f"| {title} | {' | '.join(cells)} |" in DOCS["evaluation"]
    areas = [slashed({threshold: mean(method, f"auc_{threshold}") for threshold in ("5", "10", "25")}) for method in ("bundle", "sift")]
    assert ", ".join(areas) in DOCS["evaluation"]


def test_slowest_frames() -> None:
    report = figures("bench-2000")
    frame, work, undisturbed = (report[f"{name}_ms"] for name in ("tracked_frame", "yardstick", "undisturbed"))
    ratios = [f"{times['p99_over_median']:.2f}" for times in (frame, work, undisturbed)]
    assert (f"p99 was {ratios[0]} medians of the frame and {ratios[1]} of the fixed work, and {ratios[2]} over the "
            f"{undisturbed['frames']} frames") in DOCS["speed"]


@pytest.mark.parametrize(("setting", "table", "label", "against"), [
    ("`input.width: 320`, `input.height: 240`", "resolution", "320x240", "640x480"),
    ("`model.backend: openvino`", "backend", "openvino", "onnxruntime"),
    ("`extract.max_keypoints: 256`", "keypoints", "256", "512"), ("`extract.max_keypoints: 1024`", "keypoints", "1024", "512"),
    ("`input.width: 1280`, `input.height: 720`", "resolution", "1280x720", "640x480"),
    ("`model.threads: 1`", "threads", "1", "2")])
def test_what_settings_cost(setting: str, table: str, label: str, against: str) -> None:
    ratios = {row["label"]: row["ratio"] for row in figures("scaling")["tables"][table]}
    assert f"| {setting} | {ratios[label] / ratios[against]:.2f} |" in DOCS["ros"]


def test_every_file_of_figures_is_named_by_a_page() -> None:
    pages = README + "".join(DOCS.values())
    for path in FIGURES.glob("*.json"):
        assert path.name in pages, path.name
