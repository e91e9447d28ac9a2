"""Scoring against the truth on answers whose error is known, and the demo from end to end on a small model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from efficient_matcher.commands import demo as command
from efficient_matcher.config import Config
from efficient_matcher.demo import FrameTruth
from efficient_matcher.errors import MatcherError
from efficient_matcher.ros.messages import HOMOGRAPHY_DTYPE, MATCH_DTYPE

SIZE = (640, 480)


def moved(x: float, y: float = 0.0) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def answer(H: np.ndarray | None, errors_px: tuple[float, ...] = (), truth: np.ndarray = np.eye(3)) -> command.Answer:
    """An answer with homography H, and one match for each of errors_px that misses the truth (a shift) by so much."""
    homography = np.zeros(1, HOMOGRAPHY_DTYPE)[0]
    homography["valid"], homography["n_inliers"] = H is not None, len(errors_px)
    homography["H"] = np.full(9, np.nan) if H is None else H.ravel()
    matches = np.zeros(len(errors_px), MATCH_DTYPE)
    matches["u0"], matches["v0"] = 100.0, 50.0
    matches["u1"], matches["v1"] = 100.0 + truth[0, 2] + np.array(errors_px), 50.0 + truth[1, 2]
    return command.Answer(matches, homography)


def truths() -> list[FrameTruth]:
    """Two photographs of three frames each, each frame shifted by 5 px."""
    step = moved(5)
    return [FrameTruth(0, "a", None, False), FrameTruth(1, "a", step, False), FrameTruth(2, "a", step, False),
            FrameTruth(3, "b", None, True), FrameTruth(4, "b", step, False), FrameTruth(5, "b", step, False)]


def test_score_of_known_errors() -> None:
    answers = {1: answer(moved(5)), 2: answer(moved(5, 2)), 3: answer(None), 4: answer(moved(9)),
               5: answer(moved(2, 4))}
    result = command.score(truths(), answers, SIZE)
    assert result["pairs"] == result["valid"] == 4
    assert result["corner_error_px"] == pytest.approx({"median": 4, "p90": 5, "worst": 5})
    assert result["corner_error_px_by_photo"]["a"] == pytest.approx({"median": 2, "p90": 2, "worst": 2})
    assert result["scene_changes"] == {"pairs": 1, "wrongly_valid": 0}


def test_pairs_without_homography_have_infinite_error() -> None:
    """One not found, one not even answered: the median moves up, and neither hides."""
    answers = {1: answer(moved(5)), 2: answer(None), 4: answer(moved(6))}
    result = command.score(truths(), answers, SIZE)
    assert (result["pairs"], result["valid"]) == (4, 2)
    assert result["corner_error_px"]["worst"] == float("inf")
    assert result["corner_error_px_by_photo"]["b"]["median"] == float("inf")


def test_homography_across_a_scene_change_is_counted_not_scored() -> None:
    answers = {stamp: answer(moved(5)) for stamp in (1, 2, 3, 4, 5)}
    result = command.score(truths(), answers, SIZE)
    assert result["pairs"] == 4
    assert result["corner_error_px"]["worst"] == pytest.approx(0)
    assert result["scene_changes"] == {"pairs": 1, "wrongly_valid": 1}


def test_matches_are_held_against_the_truth() -> None:
    step = moved(5)
    answers = {1: answer(step, (0.0, 2.9, 3.1, 50.0), step), 2: answer(step, (0.0, 0.0), step),
               3: answer(None, (0.0,) * 100), 4: answer(None), 5: answer(step, (1.0, 1.0), step)}
    result = command.score(truths(), answers, SIZE)
    assert result["correct_matches_percent"] == pytest.approx(100 * 6 / 8)
    assert result["inliers_median"] == 2


def test_nothing_answered_is_scored_too() -> None:
    result = command.score(truths(), {}, SIZE)
    assert (result["pairs"], result["valid"], result["correct_matches_percent"]) == (4, 0, None)
    assert result["corner_error_px"]["median"] == float("inf")


def test_a_demo_stopped_before_its_second_frame_has_no_errors_to_tell() -> None:
    result = command.score(truths()[:1], {}, SIZE)
    assert result["pairs"] == 0 and np.isnan(result["corner_error_px"]["median"])


@pytest.fixture(scope="module")
def made(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[command.DemoOptions, dict]:
    config = Config().with_values({"model.bundle": str(tiny_bundle), "input.width": 320, "input.height": 240,
                                   "extract.max_keypoints": 128})
    options = command.DemoOptions(tmp_path_factory.mktemp("demo") / "out", frames=3, config=config)
    return options, command.make_demo(options)


def test_demo_from_end_to_end(made: tuple[command.DemoOptions, dict]) -> None:
    options, report = made
    assert report["frames"] == 12
    assert report["accuracy"]["pairs"] == 8
    assert report["accuracy"]["scene_changes"]["pairs"] == 3
    written = json.loads((options.out / "report.json").read_text())
    assert written["accuracy"]["pairs"] == 8
    assert written["latency_ms"]["total"]["median"] > 0
    picture = cv2.imread(str(options.out / "matches.jpg"))
    assert picture.shape == (607, 1543, 3)  # four pairs of 640x480 in two columns, at 0.6
    assert all(report["outputs"][name].exists() for name in ("camera", "truth", "bag", "summary", "matches", "report"))


def test_truth_file_and_bag_belong_together(made: tuple[command.DemoOptions, dict]) -> None:
    options, report = made
    truth = json.loads((options.out / "truth.json").read_text())
    assert truth["size"] == [640, 480]
    stamps = [frame["stamp_ns"] for frame in truth["frames"]]
    assert [frame["H_previous_to_current"] is None for frame in truth["frames"]] == [True, False, False] * 4
    assert sorted(command.read_answers(report["outputs"]["bag"])) == stamps[1:]


def test_table_tells_what_counts(made: tuple[command.DemoOptions, dict]) -> None:
    rows = command.table_rows(made[1])
    assert rows["pairs"].startswith("8,")
    assert {"corner error px", "  coffee", "scene changes", "speed", "-> matches"} <= set(rows)


def test_missing_model_leaves_an_earlier_demo_alone(made: tuple[command.DemoOptions, dict], tmp_path: Path) -> None:
    config = Config().with_values({"model.bundle": str(tmp_path / "none")})
    with pytest.raises(MatcherError, match="no such bundle"):
        command.make_demo(replace(made[0], config=config, overwrite=True))
    assert (made[0].out / "report.json").exists()


def test_only_what_has_a_truth_is_scored(made: tuple[command.DemoOptions, dict]) -> None:
    config = made[0].config.with_values({"track.mode": "keyframe"})
    with pytest.raises(MatcherError, match="track.mode must be sequential, not keyframe"):
        command.make_demo(replace(made[0], config=config, overwrite=True))


def test_results_of_an_earlier_demo_are_not_overwritten_unasked(made: tuple[command.DemoOptions, dict]) -> None:
    with pytest.raises(MatcherError, match="exists already"):
        command.make_demo(made[0])
