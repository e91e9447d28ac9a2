"""Scans of tiny networks: cells are kept and resumed, layers are really changed, a Dask cluster gives the same."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
for module in ("onnx", "joblib", "matplotlib", "safetensors"):
    pytest.importorskip(module)

from efficient_matcher.commands import sensitivity as command  # noqa: E402
from efficient_matcher.commands.sensitivity import SensitivityOptions, run  # noqa: E402
from efficient_matcher.errors import MatcherError  # noqa: E402
from efficient_matcher.evaluate import sensitivity  # noqa: E402
from efficient_matcher.learn.single_layer import coarser, round_linearly  # noqa: E402
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig  # noqa: E402
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig  # noqa: E402
from efficient_matcher.learn.weights import save_weights  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weight files p, g of an untrained pair, and pairs.txt of one image with a small shift."""
    folder = tmp_path_factory.mktemp("scan")
    torch.manual_seed(0)
    save_weights(folder / "p.safetensors", SuperPoint(SuperPointConfig((4,) * 8, 8, 8, 16)))
    save_weights(folder / "g.safetensors", SuperGlue(SuperGlueConfig(16, (8,), 1, 2, residual_init=True)))
    (folder / "images").mkdir()
    image = cv2.GaussianBlur(np.random.default_rng(0).uniform(0, 255, (120, 160)), (0, 0), 2)
    cv2.imwrite(str(folder / "images" / "a.png"), cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX))
    (folder / "pairs.txt").write_text("a.png 1 0 3 0 1 2 0 0 1\n")
    return folder


def options(folder: Path, out: Path, **changes: object) -> SensitivityOptions:
    given = {"layers": ("conv1a", "final_proj"), "levels": (0.5,), "processes": 1, **changes}
    return SensitivityOptions(folder / "p.safetensors", folder / "g.safetensors", folder / "pairs.txt", out, **given)


def test_a_scan_is_complete_and_goes_on_where_it_was(
        folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = run(options(folder, tmp_path / "s"))
    assert [row["cell"]["layer"] for row in report["results"]] == ["none", "conv1a", "final_proj"]
    assert all(set(row["figures"]["clean"]) == {"auc5", "auc10", "auc25", "precision", "recall"}
               for row in report["results"])
    names = {path.name for path in (tmp_path / "s").iterdir()}
    assert {"magnitude-superpoint-clean.png", "magnitude-superglue-clean.png", "sensitivity-magnitude.json"} <= names
    done: list[str] = []
    monkeypatch.setattr(sensitivity, "_measured", lambda scan, cells, *rest: iter(done.extend(cells) or ()))
    (tmp_path / "s" / "cells" / "superglue-final_proj-magnitude-0.5.json").unlink()
    with pytest.raises(KeyError):  # the cell that is missing is the only one asked for
        run(options(folder, tmp_path / "s"))
    assert [cell.layer for cell in done] == ["final_proj"]


def test_a_dask_cluster_of_two_workers_gives_the_same(folder: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    here = run(options(folder, tmp_path / "here"))
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as both:
        there = run(options(folder, tmp_path / "there", scheduler=both.scheduler_address))
    assert there["results"] == here["results"]


def test_cells_of_other_weights_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"superpoint": "0"}))
    with pytest.raises(MatcherError, match="holds cells of another scan .'superpoint' differs.; choose another --out"):
        run(options(folder, tmp_path))


@pytest.mark.parametrize(("changes", "message"), [
    ({"levels": (1.0,)}, r"^ratio 1 is outside \[0,1\)$"), ({"levels": (-0.1,)}, "^ratio -0.1 is outside"),
    ({"method": "kmeans", "levels": (9,)}, "^9 bits; kmeans takes whole numbers from 2 to 8$"),
    ({"method": "linear", "levels": (2.5,)}, "^2.5 bits"),
    ({"layers": ("conv9",)}, r"^unknown layer 'conv9' \(known: conv1a"),
    ({"method": "magic"}, "^unknown method 'magic', known: magnitude, kmeans, linear$"),
    ({"scheduler": "tcp://127.0.0.1:9"}, "^tcp://127.0.0.1:9: no Dask scheduler answers")])
def test_bad_input_is_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               changes: dict, message: str) -> None:
    if "scheduler" in changes:
        distributed = pytest.importorskip("distributed")

        def refuse(*args: object, **kwargs: object) -> None:
            raise OSError("Timed out trying to connect")
        monkeypatch.setattr(distributed, "Client", refuse)
    with pytest.raises(MatcherError, match=message):
        run(options(folder, tmp_path / "s", **changes))


@pytest.mark.parametrize(("method", "level"), [("magnitude", 0.75), ("kmeans", 2), ("linear", 3)])
def test_only_the_named_layer_changes(method: str, level: float) -> None:
    torch.manual_seed(0)
    network = SuperGlue(SuperGlueConfig(16, (8,), 1, 2))
    changed = coarser(network, "final_proj", method, level)
    different = [name for name, value in network.state_dict().items()
                 if not torch.equal(value, changed.state_dict()[name])]
    assert different == ["final_proj.weight"]
    values = changed.final_proj.weight
    if method == "magnitude":
        assert float((values == 0).float().mean()) == 0.75
    else:
        assert len(torch.unique(values[0] if method == "linear" else values)) <= {"kmeans": 4, "linear": 7}[method]


def test_linear_steps_of_known_weights() -> None:
    weight = torch.tensor([[3.0, -1.4, 0.6, 0.2], [0.0, 0.0, 0.0, 0.0]])
    round_linearly(weight, 3)  # steps of 1 in the first row
    assert weight.tolist() == [[3.0, -1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


def test_default_levels_are_levels() -> None:
    from efficient_matcher.learn.single_layer import check_level
    assert all(command.DEFAULT_LEVELS.values())
    for method, levels in command.DEFAULT_LEVELS.items():
        for level in levels:
            check_level(method, level)  # raises where it is none


def test_a_locator_takes_part(folder: Path, tmp_path: Path) -> None:
    network = SuperPoint(SuperPointConfig((4,) * 8, 8, 8, 16, locator_widths=(8,), locator_reach_px=2))
    torch.nn.init.constant_(network.locator.layers[-1].bias, 0.5)
    save_weights(tmp_path / "p.safetensors", network)
    scan = sensitivity.Scan(tmp_path / "p.safetensors", folder / "g.safetensors", folder / "pairs.txt", None, None, ("clean",), ())
    assert "locator.layers.1" in sensitivity.all_layers(scan)["superpoint"]
    image = cv2.imread(str(folder / "images" / "a.png"), cv2.IMREAD_GRAYSCALE)
    places = [sensitivity._matcher(scan, cell).extract(image).keypoints for cell in (
        sensitivity.Cell("superpoint", "locator.layers.1", "magnitude", level) for level in (0.0, 0.9))]
    assert len(places[0]) == len(places[1]) > 0 and not np.array_equal(*places)
