"""What the commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from efficient_matcher.commands.common import build_config, distribution, parse_assignments, print_table
from efficient_matcher.errors import ConfigError


def test_assignments_take_the_type_of_their_setting() -> None:
    assert parse_assignments(["geometry.threshold_px=2", "extract.score_threshold = 1e-3", "extract.max_keypoints=100",
                              "extract.subpixel=false", "model.bundle=5"]) == {
        "geometry.threshold_px": 2.0, "extract.score_threshold": 1e-3, "extract.max_keypoints": 100,
        "extract.subpixel": False, "model.bundle": "5"}


def test_flags_win_over_assignments_and_those_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("track: {mode: reference}\nmatch: {score_threshold: 0.3}\nextract: {max_keypoints: 99}\n")
    config = build_config(file, ["track.mode=sequential", "match.score_threshold=0.4"], track__mode="keyframe",
                          model__threads=None)
    assert (config.track.mode, config.match.score_threshold, config.extract.max_keypoints) == ("keyframe", 0.4, 99)


@pytest.mark.parametrize(("assignment", "message"), [
    ("geometry.threshold_px", "not of the form section.key=value"),
    ("geometry.treshold_px=3", "unknown setting 'geometry.treshold_px'"),
    ("geometry=3", "unknown setting 'geometry'"),
    ("geometry.threshold_px=three", "geometry.threshold_px must be of type float"),
    ("geometry.threshold_px=nan", "geometry.threshold_px must be from"),
    ("extract.max_keypoints=[1", "extract.max_keypoints must be of type int"),
])
def test_wrong_assignments_are_named(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(None, [assignment])


def test_distribution_of_known_numbers() -> None:
    assert distribution(list(range(101))) == {"min": 0, "p10": 10, "median": 50, "p90": 90, "p99": 99, "max": 100}
    assert distribution([]) is None


def test_brackets_in_a_table_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    print_table("title", [("file", "run[bold].mcap")])
    assert "run[bold].mcap" in capsys.readouterr().out


def test_figures_are_never_cut_in_two(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "40")
    print_table("title", [("a method", "97.5/98.8/99.4", "422,944", "0.5 of 12")], ("AUC at 5, 10, 20", "bytes", "dropped"))
    shown = capsys.readouterr().out
    assert all(figure in shown for figure in ("97.5/98.8/99.4", "422,944", "0.5 of 12", "AUC at 5, 10, 20"))


def test_long_cells_are_folded_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    digest = "0123456789abcdef" * 8
    print_table("title", [("hash", digest)])
    shown = capsys.readouterr().out
    assert "\u2026" not in shown
    assert "".join(character for character in shown if character in "0123456789abcdef").endswith(digest)
