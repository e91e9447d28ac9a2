"""`train curves`: what a log says, also one that a crash cut off."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from efficient_matcher.commands.curves import SMOOTHED_OVER, read_log, run, running_mean
from efficient_matcher.errors import MatcherError


def write_log(folder: Path, tail: str = "") -> Path:
    entries = [{"step": 20 * i, "seconds": 30.0 * i, "loss": 10.0 - i, **({"late": 1.0} if i > 1 else {})}
               for i in range(1, 4)]
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries) + tail)
    return folder / "log.jsonl"


def test_columns_of_a_log_that_a_crash_cut_off(tmp_path: Path) -> None:
    found = read_log(write_log(tmp_path, '{"step": 80, "sec'))
    assert found["step"].tolist() == [20, 40, 60] and found["loss"].tolist() == [9, 8, 7]
    assert np.isnan(found["late"][0]) and found["late"][1:].tolist() == [1, 1]


def test_the_mean_runs_over_neighbours_and_fewer_at_the_ends() -> None:
    values = np.arange(40.0)
    values[20] += SMOOTHED_OVER
    found = running_mean(values)
    assert found[20] == 21 and found[10] == 10 and found[0] == np.mean(values[:SMOOTHED_OVER // 2 + 1])


def test_a_picture_with_a_panel_for_each_part(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_log(tmp_path)
    assert run(tmp_path) == tmp_path / "curves.png"
    picture = cv2.imread(str(tmp_path / "curves.png"))
    blue = np.abs(picture.astype(int) - (178, 114, 0)).sum(axis=2) < 90  # the means' colour, BGR
    quarters = [np.count_nonzero(part) > 100 for part in np.split(blue, 4, axis=1)]
    assert quarters == [True, True, False, False]  # loss and late


@pytest.mark.parametrize("content", [None, "", "no json\n[1, 2]\n{}\n"])
def test_no_log_is_one_line_that_names_it(tmp_path: Path, content: str | None) -> None:
    pytest.importorskip("matplotlib")
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(MatcherError, match=r"log\.jsonl: (cannot be read|holds no entry)"):
        run(tmp_path)
    assert not (tmp_path / "curves.png").exists()
