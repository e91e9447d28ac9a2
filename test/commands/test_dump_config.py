"""The settings in force, as a file that reads back."""

from __future__ import annotations

from pathlib import Path

import pytest

from efficient_matcher.commands.dump_config import run
from efficient_matcher.config import Config, load_config

CHANGED = Config().with_values({"extract.max_keypoints": 99, "track.mode": "keyframe"})


def test_file_reads_back_unchanged(tmp_path: Path) -> None:
    run(CHANGED, tmp_path / "a.yaml")
    assert load_config(tmp_path / "a.yaml") == CHANGED


def test_printed_settings_read_back_unchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(CHANGED)
    (tmp_path / "a.yaml").write_text(capsys.readouterr().out)
    assert load_config(tmp_path / "a.yaml") == CHANGED
