"""`evaluate sweep` as it is called: report, plots, going on, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from efficient_matcher.commands import sweep
from efficient_matcher.commands.sweep import SweepOptions, run
from efficient_matcher.errors import BundleError, ConfigError, MatcherError, SourceError
from efficient_matcher.config import Config
from efficient_matcher.evaluate.sweeps import SWEEPS


@pytest.fixture()
def options(tmp_path: Path, make_textured: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch) -> SweepOptions:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(2):
        cv2.imwrite(str(folder / f"{seed}.png"), make_textured(480, 640, seed))
    monkeypatch.setitem(SWEEPS, "rotation", replace(SWEEPS["rotation"], values=(0, 20)))
    return SweepOptions(folder, tmp_path / "out", methods=("sift",), sweeps=("rotation",), limit=1, processes=1,
                        plots=False)


def test_report_of_a_known_answer(options: SweepOptions, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(options)
    assert report == json.loads((options.out / "sweep.json").read_text())
    still, turned = report["sweeps"]["rotation"]["rows"]
    assert (still["value"], turned["value"]) == (0, 20)
    assert still["methods"]["sift"]["repeatability"] > 60
    assert still["methods"]["sift"]["repeated_error_px"] < 0.5
    assert still["methods"]["sift"]["auc_5"] > 95
    assert list(report["images"]) == ["0.png"]
    assert "rotation sift" in capsys.readouterr().out


def test_a_change_measured_before_stays_in_the_report(options: SweepOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    from efficient_matcher.evaluate.sweeps import SWEEPS
    run(options)
    monkeypatch.setitem(SWEEPS, "gamma", replace(SWEEPS["gamma"], values=(1.0,)))
    report = run(replace(options, sweeps=("gamma",)))
    assert list(report["sweeps"]) == ["gamma", "rotation"]


def test_xfeat_is_swept_too(options: SweepOptions, xfeat_weights: Path) -> None:
    still, _ = run(replace(options, xfeat=xfeat_weights))["sweeps"]["rotation"]["rows"]
    assert list(still["methods"]) == ["sift", "xfeat"]
    with pytest.raises(MatcherError, match="holds a sweep of other weights"):
        run(options)


def test_a_sweep_from_before_xfeat_goes_on(options: SweepOptions) -> None:
    report = run(options)
    subject = json.loads((options.out / "subject.json").read_text())
    del subject["weights"]
    (options.out / "subject.json").write_text(json.dumps(subject))
    assert run(options) == report


def test_finished_cells_are_not_measured_again(options: SweepOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(options)
    (options.out / "cells" / "rotation_20.json").unlink()
    measured = []
    measure = sweep.measure_cells

    def seen(plan: Any, cells: Any, processes: int) -> Any:
        measured.extend(cell.name for cell in cells)
        return measure(plan, cells, processes)

    monkeypatch.setattr(sweep, "measure_cells", seen)
    assert run(options) == first
    assert measured == ["rotation_20"]


def test_stopped_run_keeps_its_cells(options: SweepOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped:
        requested = True

        def __enter__(self) -> Stopped:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    with monkeypatch.context() as patched:
        patched.setattr(sweep, "StopSignals", Stopped)
        assert run(options) is None
    assert [path.name for path in (options.out / "cells").iterdir()] == ["rotation_0.json"]
    assert not (options.out / "sweep.json").exists()
    assert run(options) is not None


def test_processes_give_the_same_figures(options: SweepOptions, tmp_path: Path, tiny_bundle: Path) -> None:
    config = Config().with_values({"model.bundle": str(tiny_bundle)})
    both = replace(options, methods=("bundle", "nearest"), config=config)
    alone = run(both)
    assert run(replace(both, out=tmp_path / "second", processes=2)) == alone
    assert list(alone["sweeps"]["rotation"]["rows"][0]["methods"]) == ["bundle", "nearest"]


def test_process_that_is_ended_is_one_line(options: SweepOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(Future, "result", broken)
    with pytest.raises(MatcherError, match="a process of the sweep was ended"):
        run(replace(options, processes=2))


def test_plots(options: SweepOptions) -> None:
    pytest.importorskip("matplotlib")
    run(replace(options, plots=True))
    for name in ("rotation", "overview"):
        picture = cv2.imread(str(options.out / f"{name}.png"))
        assert picture.shape[0] > 500 and picture.std() > 10


@pytest.mark.parametrize("change", [{"limit": 2}, {"methods": ("orb",)},
                                    {"config": Config().with_values({"extract.max_keypoints": 99})}])
def test_cells_of_another_sweep_are_not_mixed_in(options: SweepOptions, change: dict[str, Any]) -> None:
    run(options)
    with pytest.raises(MatcherError, match="holds a sweep of other (images|methods|settings)"):
        run(replace(options, **change))
    assert run(replace(options, **change, overwrite=True)) is not None


def test_cells_of_something_else_are_not_deleted(options: SweepOptions) -> None:
    (options.out / "cells").mkdir(parents=True)
    (options.out / "cells" / "conv1a_0.5.json").write_text("{}")
    with pytest.raises(MatcherError, match="cells: there already, and not of a sweep"):
        run(options)
    assert (options.out / "cells" / "conv1a_0.5.json").exists()


def test_damaged_cell_is_named(options: SweepOptions) -> None:
    run(options)
    (options.out / "cells" / "rotation_0.json").write_text("{")
    with pytest.raises(MatcherError, match="rotation_0.json: cannot be read"):
        run(options)


def test_unusable_images_are_named(options: SweepOptions, capsys: pytest.CaptureFixture[str]) -> None:
    (options.images / "broken.jpg").write_bytes(b"no image")
    cv2.imwrite(str(options.images / "tiny.png"), np.zeros((20, 20), np.uint8))
    assert set(run(options)["skipped"]) == {"broken.jpg", "tiny.png"}
    assert "broken.jpg: unreadable" in capsys.readouterr().out


def test_image_without_a_feature_has_no_location_error(options: SweepOptions) -> None:
    cv2.imwrite(str(options.images / "0.png"), np.zeros((480, 640), np.uint8))
    figures = run(options)["sweeps"]["rotation"]["rows"][0]["methods"]["sift"]
    assert figures["repeated_error_px"] is None and figures["auc_25"] == 0.0


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"methods": ("surf",)}, ConfigError, "surf"), ({"sweeps": ("hue",)}, ConfigError, "hue"),
    ({"images": Path("nowhere")}, SourceError, "nowhere"),
    ({"methods": ("bundle",), "bundles": ("nowhere",)}, BundleError, "nowhere")])
def test_wrong_choices_are_named(options: SweepOptions, change: dict[str, Any], error: type[Exception],
                                 message: str) -> None:
    with pytest.raises(error, match=message):
        run(replace(options, **change))
    assert not options.out.exists()
