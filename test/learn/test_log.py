"""The log as lines and as TensorBoard's events; what cannot be written is one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from efficient_matcher.errors import MatcherError
from efficient_matcher.learn.log import TrainingLog


def write(folder: Path, begin: int, steps: range) -> None:
    log = TrainingLog(folder)
    log.begin(begin)
    for step in steps:
        log.write(step, 0.5, {"loss": 1.0 / step})
    log.close()


def test_a_resumed_run_logs_each_step_once(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 6))
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')  # a crash
    write(tmp_path, 3, range(4, 7))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6] and lines[1]["loss"] == 0.5


def test_tensorboard_reads_the_scalars_once(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path, 0, range(1, 6))
    write(tmp_path, 3, range(4, 7))
    events = reader.EventAccumulator(str(tmp_path)).Reload()
    assert sorted({event.step for event in events.Scalars("loss")}) == [1, 2, 3, 4, 5, 6]
    assert len(events.Scalars("loss")) == 6


def test_without_tensorboard_the_lines_are_kept_and_it_is_said_once(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    write(tmp_path, 0, range(1, 6))
    assert capsys.readouterr().err.count("no TensorBoard here") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    log.begin(0)
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(MatcherError, match="log.jsonl: cannot be written: No space left"):
        log.write(1, 0.0, {"loss": 1.0})
