"""The two scripts as RTAB-Map calls them: imported by their paths, arrays in, arrays out."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import efficient_matcher
from efficient_matcher.errors import MatcherError

FOLDER = Path(efficient_matcher.__file__).parent / "ros" / "slam"


def imported(name: str) -> ModuleType:
    """The script, anew."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture()
def detector(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "settings.yaml").write_text(
        f"model: {{bundle: {tiny_bundle}, threads: 1}}\ninput: {{width: 320, height: 240}}\nextract: {{max_keypoints: 200}}\n")
    monkeypatch.setenv("EFFICIENT_MATCHER_CONFIG", str(tmp_path / "settings.yaml"))
    module = imported("rtabmap_detector")
    module.init(1)
    return module


def test_keypoints_and_matches_as_rtabmap_reads_them(detector: ModuleType, warped_pair: object) -> None:
    sides = [detector.detect(image) for image in (warped_pair.image0, warped_pair.image1)]
    for keypoints, descriptors in sides:
        assert keypoints.dtype == descriptors.dtype == np.float32 and keypoints.shape == (200, 3)
        assert keypoints.flags.c_contiguous and descriptors.flags.c_contiguous and len(descriptors) == 200
    matcher = imported("rtabmap_matcher")
    matcher.init(sides[0][1].shape[1], 0.2, 20, 0, "indoor")
    rng = np.random.default_rng(0)  # RTAB-Map leaves some out and sorts the rest as it likes
    (points0, descriptors0), (points1, descriptors1) = (
        (points[some], descriptors[some]) for points, descriptors in sides for some in [rng.permutation(200)[:180]])
    found = matcher.match(points0[:, :2], points1[:, :2], points0[:, 2], points1[:, 2], descriptors0, descriptors1, 320, 240)
    assert found.dtype == np.int32 and found.flags.c_contiguous and len(found) > 60
    ends = np.c_[points0[found[:, 0], :2], np.ones(len(found))] @ warped_pair.matrix.T
    apart = np.linalg.norm(ends[:, :2] / ends[:, 2:] - points1[found[:, 1], :2], axis=1)
    assert (apart < 3).mean() > 0.95


def test_an_image_without_keypoints_gives_empty_arrays(detector: ModuleType) -> None:
    keypoints, descriptors = detector.detect(np.zeros((240, 320), np.uint8))
    assert keypoints.shape == (0, 3) and descriptors.shape[0] == 0 and descriptors.shape[1] > 0


def test_descriptors_of_another_extractor_are_refused(detector: ModuleType) -> None:
    with pytest.raises(MatcherError, match="descriptors have 256 numbers.*set PyDetector/Path to rtabmap_detector.py"):
        imported("rtabmap_matcher").init(256, 0.2, 20)


@pytest.mark.parametrize("name", ["rtabmap_detector", "rtabmap_matcher"])
def test_importing_a_script_loads_nothing(name: str) -> None:
    code = f"import sys; sys.path.append({str(FOLDER)!r}); import {name}; print('numpy' in sys.modules, 'cv2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
