"""Matching two image files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from efficient_matcher.commands.match import MatchOptions, run
from efficient_matcher.config import Config
from efficient_matcher.core.geometry import corner_error
from efficient_matcher.errors import MatcherError, SourceError

pytest.importorskip("rich")


@pytest.fixture()
def files(tmp_path: Path, warped_pair: Any) -> tuple[Path, Path]:
    paths = tmp_path / "a.png", tmp_path / "b.png"
    for path, image in zip(paths, (warped_pair.image0, warped_pair.image1)):
        cv2.imwrite(str(path), image)
    return paths


@pytest.fixture()
def config(tiny_bundle: Path) -> Config:
    return Config().with_values({"model.bundle": str(tiny_bundle), "input.width": 0, "input.height": 0,
                                 "extract.max_keypoints": 200})


def test_two_files_give_their_homography(tmp_path: Path, files: tuple[Path, Path], warped_pair: Any, config: Config,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    result = run(MatchOptions(*files, out=tmp_path / "m.png", json=tmp_path / "m.json", config=config))
    report = json.loads((tmp_path / "m.json").read_text())
    assert corner_error(np.array(report["homography"]), warped_pair.matrix, (320, 240)) < 1
    assert report["matches"] == len(report["points0"]) == len(report["inlier"]) == len(result.matches)
    assert sum(report["inlier"]) == report["inliers"] > 50
    assert cv2.imread(str(tmp_path / "m.png")).shape[1] > 640
    assert "rmse px" in capsys.readouterr().out


def test_a_focal_length_gives_the_relative_pose(tmp_path: Path, files: tuple[Path, Path], warped_pair: Any, config: Config,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    K, turn = np.array([[300.0, 0, 159.5], [0, 300.0, 119.5], [0, 0, 1]]), cv2.Rodrigues(np.radians([3.0, -4.0, 8.0]))[0]
    turned = cv2.warpPerspective(warped_pair.image0, K @ turn @ np.linalg.inv(K), (320, 240))
    cv2.imwrite(str(files[1]), turned)
    run(MatchOptions(*files, json=tmp_path / "m.json", config=config, focal_px=300.0))
    pose = json.loads((tmp_path / "m.json").read_text())["relative_pose"]
    assert pose["valid"] and np.degrees(np.linalg.norm(cv2.Rodrigues(np.array(pose["rotation"]) @ turn.T)[0])) < 0.5
    told = capsys.readouterr().out
    assert "rotation deg" in told and "the direction is unsure" in told
    run(MatchOptions(*files, json=tmp_path / "m.json", config=config))
    assert json.loads((tmp_path / "m.json").read_text())["relative_pose"] is None
    cv2.imwrite(str(files[1]), np.zeros((64, 64), np.uint8))
    run(MatchOptions(*files, config=config, focal_px=300.0))
    assert "none found" in capsys.readouterr().out.split("relative pose")[1]


def calibration(path: Path, **changes: str) -> Path:
    entries = {"image_width": "320", "image_height": "240", "distortion_model": "plumb_bob",
               "camera_matrix": "{data: [300, 0, 159.5, 0, 300, 119.5, 0, 0, 1]}",
               "distortion_coefficients": "{data: [-0.25, 0.05, 0, 0, 0]}", **changes}
    path.write_text("".join(f"{name}: {value}\n" for name, value in entries.items()))
    return path


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_pose_is_of_the_points_as_they_were_measured(tmp_path: Path, files: tuple[Path, Path], config: Config,
                                                       calibrated: bool) -> None:
    camera = {"camera_info": calibration(tmp_path / "c.yaml")} if calibrated else {"focal_px": 300.0}
    reports = []
    for settle in (True, False):
        run(MatchOptions(*files, json=tmp_path / "m.json", config=config.with_values({"geometry.settle": settle}), **camera))
        reports.append(json.loads((tmp_path / "m.json").read_text()))
    assert reports[0]["relative_pose"]["valid"] and reports[0]["relative_pose"] == reports[1]["relative_pose"]
    assert reports[0]["points0"] == reports[1]["points0"] and reports[0]["points1"] != reports[1]["points1"]


def test_a_calibration_gives_the_relative_pose_through_its_distortion(
        tmp_path: Path, files: tuple[Path, Path], warped_pair: Any, config: Config) -> None:
    K, turn = np.array([[300.0, 0, 159.5], [0, 300.0, 119.5], [0, 0, 1]]), cv2.Rodrigues(np.radians([2.0, -3.0, 6.0]))[0]
    turned = cv2.warpPerspective(warped_pair.image0, K @ turn @ np.linalg.inv(K), (320, 240))
    pixels = np.stack(np.meshgrid(np.arange(320.0), np.arange(240.0)), axis=-1).reshape(-1, 1, 2)
    source = cv2.undistortPoints(pixels, K, np.array([-0.25, 0.05, 0, 0, 0]), P=K).reshape(240, 320, 2).astype(np.float32)
    for path, image in zip(files, (warped_pair.image0, turned)):
        cv2.imwrite(str(path), cv2.remap(image, source, None, cv2.INTER_LINEAR))
    found = {}
    for distortion in ("[-0.25, 0.05, 0, 0, 0]", "[0, 0, 0, 0, 0]"):
        camera = calibration(tmp_path / "front.yaml", distortion_coefficients=f"{{data: {distortion}}}")
        run(MatchOptions(*files, json=tmp_path / "m.json", config=config, camera_info=camera))
        pose = json.loads((tmp_path / "m.json").read_text())["relative_pose"]
        found[distortion] = np.degrees(np.linalg.norm(cv2.Rodrigues(np.array(pose["rotation"]) @ turn.T)[0]))
    known, taken_for_none = found.values()
    assert known < 0.5 and known < taken_for_none


def test_a_calibration_that_does_not_fit_is_named(tmp_path: Path, files: tuple[Path, Path], config: Config) -> None:
    path = tmp_path / "front.yaml"
    for changes, options, told in (
            ({"image_width": "640"}, {}, "camera_info is for 640x240 images, the image is 320x240"),
            ({"distortion_model": "ftheta"}, {}, f"{path}: unknown distortion_model 'ftheta'"),
            ({"camera_matrix": f"{{data: {[0] * 9}}}"}, {}, f"{path}: not calibrated, k is zero"),
            ({}, {"focal_px": 300.0}, "--focal and --camera-info both say what the camera is; give one")):
        with pytest.raises(MatcherError, match=re.escape(told)):
            run(MatchOptions(*files, config=config, camera_info=calibration(path, **changes), **options))


def test_images_without_anything_in_common_are_a_result(
        tmp_path: Path, config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((64, 64), np.uint8))
    result = run(MatchOptions(tmp_path / "a.png", tmp_path / "b.png", json=tmp_path / "m.json", config=config))
    assert len(result.matches) == 0
    assert json.loads((tmp_path / "m.json").read_text())["homography"] is None
    assert "none found" in capsys.readouterr().out


def test_an_image_on_its_side_is_turned_when_asked(tmp_path: Path, files: tuple[Path, Path], config: Config,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    image0 = cv2.imread(str(files[0]), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(files[1]), np.rot90(image0))
    assert not run(MatchOptions(*files, config=config)).homography.valid
    assert "--set match.turns=true" in capsys.readouterr().out
    result = run(MatchOptions(*files, json=tmp_path / "m.json", config=config.with_values({"match.turns": True})))
    assert json.loads((tmp_path / "m.json").read_text())["quarter_turns"] == result.quarter_turns == 1
    np.testing.assert_allclose(result.homography.matrix, [[0, 1, 0], [-1, 0, 319], [0, 0, 1]], atol=0.5)
    assert "image 0 by 90 deg counter-clockwise" in capsys.readouterr().out


def test_the_images_themselves_are_not_replaced(files: tuple[Path, Path], config: Config, tmp_path: Path) -> None:
    before = files[1].read_bytes()
    for options in (MatchOptions(*files, out=files[1], config=config), MatchOptions(*files, json=files[1], config=config)):
        with pytest.raises(MatcherError, match="b.png: is what the work begins with"):
            run(options)
    camera = calibration(tmp_path / "front.yaml")
    with pytest.raises(MatcherError, match="front.yaml: is what the work begins with"):
        run(MatchOptions(*files, json=camera, config=config, camera_info=camera))
    with pytest.raises(MatcherError, match="m.png: is asked for as two results"):
        run(MatchOptions(*files, out=tmp_path / "m.png", json=tmp_path / "m.png", config=config))
    with pytest.raises(MatcherError, match="--focal inf: must be a length"):
        run(MatchOptions(*files, focal_px=float("inf"), config=config))
    assert files[1].read_bytes() == before


def test_missing_image_and_unknown_picture_format_are_named(
        tmp_path: Path, files: tuple[Path, Path], config: Config) -> None:
    with pytest.raises(SourceError, match="c.png: cannot be read"):
        run(MatchOptions(files[0], tmp_path / "c.png", config=config))
    with pytest.raises(MatcherError, match="m.gif: must end in one of .png"):
        run(MatchOptions(*files, out=tmp_path / "m.gif", config=config))
