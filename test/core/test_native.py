"""The compiled loops against numpy's, on inputs that reach every branch; and what decides which of them run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from efficient_matcher.config import ExtractConfig, GeometryConfig
from efficient_matcher.core import geometry, native
from efficient_matcher.core.align import RADIUS, RADIUS_OF_MANY, _pattern, align
from efficient_matcher.core.features import detect, sample_descriptors
from efficient_matcher.core.geometry import fit_homography
from efficient_matcher.core.motion import NEIGHBOURS, neighbour_motions
from efficient_matcher.core.motion_prior import Side, consistent_matches
from efficient_matcher.core.settle import _Points, _settled
from efficient_matcher.core.transport import optimal_transport

SIZE = 640, 480
H = np.array([[1.1, 0.05, 12.0], [-0.04, 0.95, -7.0], [1e-4, -5e-5, 1.0]])


@pytest.fixture()
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], tuple[Any, Any]]:
    """The answers of numpy and of the library to one call."""
    if not native.available():
        pytest.skip("the inner loops were not compiled")

    def answers(call: Callable[[], Any]) -> tuple[Any, Any]:
        compiled = call()
        with monkeypatch.context() as patch:
            patch.setattr(native, "_library", None)
            return call(), compiled
    return answers


def projected(points: np.ndarray) -> np.ndarray:
    mapped = np.column_stack([points, np.ones(len(points))]) @ H.T
    return mapped[:, :2] / mapped[:, 2:]


def matched_points(seed: int, count: int, wrong: float) -> tuple[np.ndarray, np.ndarray]:
    """Points [count,2] of two images, half a pixel of noise, and a share of them anywhere."""
    rng = np.random.default_rng(seed)
    points0 = rng.uniform((0, 0), SIZE, (count, 2))
    points1 = projected(points0) + rng.normal(0, 0.5, (count, 2))
    strays = rng.random(count) < wrong
    points1[strays] = rng.uniform((0, 0), SIZE, (int(strays.sum()), 2))
    return points0, points1


@pytest.mark.skipif(shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) is None, reason="no compiler")
def test_the_library_is_built_where_there_is_a_compiler() -> None:
    assert native.kind() == ("numpy" if os.environ.get(native.SWITCH) == "numpy" else "compiled")


def test_without_a_compiler_the_package_is_built_all_the_same(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", str(tmp_path / "lib"),
                          "--build-temp", str(tmp_path / "temp")], cwd=root, text=True, capture_output=True, timeout=120,
                         env={**os.environ, "CC": "/there/is/none", "PYTHONDONTWRITEBYTECODE": "1"})
    assert run.returncode == 0, run.stderr
    assert not list(tmp_path.rglob("_kernels*"))


def test_the_switch_leaves_the_library_alone() -> None:
    run = subprocess.run([sys.executable, "-c", "from efficient_matcher.core import native; print(native.kind())"],
                         env={**os.environ, native.SWITCH: "numpy"}, text=True, capture_output=True, timeout=60)
    assert run.stdout.strip() == "numpy", run.stderr


def test_a_library_of_another_version_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native.available():
        pytest.skip("the inner loops were not compiled")
    assert native._opened() is not None
    monkeypatch.setattr(native, "INTERFACE", native.INTERFACE + 1)
    assert native._opened() is None


def test_a_file_that_is_no_library_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"_kernels{native.EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    assert native._opened() is None


@pytest.mark.parametrize("levels", [None, 30, 2])  # of scores: hardly any ties, many, hardly anything else
@pytest.mark.parametrize("shape", [(48, 64), (5, 7), (61, 203)])
@pytest.mark.parametrize("radius", [0, 1, 2, 4, 13, 32])
def test_keypoints(both: Callable, radius: int, shape: tuple[int, int], levels: int | None) -> None:
    scores = np.random.default_rng(radius).random(shape).astype(np.float32)
    scores = scores if levels is None else np.floor(scores * levels).astype(np.float32) / levels
    config = ExtractConfig(nms_radius_px=radius, border_px=0, score_threshold=0.2, max_keypoints=8192)
    (points, values, spreads), compiled = both(lambda: detect(scores, config))
    assert len(points)
    order, other = (np.lexsort(np.round(found[0], 3).T) for found in ((points,), compiled))  # spreads may be all but equal
    np.testing.assert_allclose(compiled[0][other], points[order], atol=1e-4)
    np.testing.assert_array_equal(compiled[1][other], values[order])
    np.testing.assert_allclose(compiled[2][other], spreads[order], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("width", [1, 128, 130])
def test_descriptors(both: Callable, dtype: type, width: int) -> None:
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 255, (6, 8, width)).astype(dtype)
    points = rng.uniform(-5, 70, (200, 2)).astype(np.float32)
    expected, compiled = both(lambda: sample_descriptors(coarse, points))
    np.testing.assert_allclose(compiled, expected, atol=2e-5)


@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (63, 65), (200, 7)])
@pytest.mark.parametrize("spread, tolerance, relaxation", [(3.0, 0.02, 1.5), (3.0, 0.0, 1.0), (300.0, 0.02, 1.5),
                                                           (8.0, 0.0, 1.3)])
def test_transport(both: Callable, shape: tuple[int, int], spread: float, tolerance: float, relaxation: float) -> None:
    similarity = np.random.default_rng(4).normal(0, spread, shape).astype(np.float32)
    expected, compiled = both(lambda: optimal_transport(similarity, 1.0, 30, tolerance, relaxation))
    assert not tolerance or compiled.iterations == expected.iterations  # without one, the last digit decides
    np.testing.assert_allclose(compiled.values, expected.values, atol=2e-4)
    assert compiled.paired() == np.count_nonzero(compiled.values[:-1, :-1] > 0.5)


@pytest.mark.parametrize("count, wrong", [(4, 0.0), (9, 0.0), (60, 0.2), (400, 0.6)])
def test_matches_by_their_neighbours(both: Callable, count: int, wrong: float) -> None:
    rng = np.random.default_rng(count)
    points0, points1 = matched_points(6, count, wrong)
    likely = rng.uniform(0.3, 0.9, count)
    values = np.zeros((count + 1, count + 1), np.float32)
    np.fill_diagonal(values[:-1, :-1], likely)
    second = rng.permutation(count)
    values[np.arange(count), second] += (0.9 * (1 - likely)).astype(np.float32)
    values[:-1, -1], values[-1, :-1] = 1 - values[:-1, :-1].sum(1), 1 - values[:-1, :-1].sum(0)
    sides = Side(points0, SIZE), Side(points1, SIZE)
    expected, compiled = both(lambda: consistent_matches(values, *sides, 0.2))
    assert len(expected) > count * (1 - wrong) / 2
    assert {tuple(pair) for pair in compiled.indices} == {tuple(pair) for pair in expected.indices}
    np.testing.assert_allclose(compiled.scores, expected.scores, atol=2e-3)


def test_entries_beyond_the_room_that_is_usual(both: Callable) -> None:
    values = np.random.default_rng(0).random((5, 300)).astype(np.float32)
    rows, columns, chances, asked, numbers = native.entries(values, 0.1)
    expected = np.argwhere(values[:-1, :-1] > np.float32(0.1))
    assert len(expected) > 4 * native.MOST_ENTRIES
    np.testing.assert_array_equal(np.column_stack([rows, columns]), expected)
    np.testing.assert_array_equal(chances, values[rows, columns])
    np.testing.assert_array_equal(asked[numbers], rows)
    assert asked.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("told", ["nothing", "spreads", "spreads, some of them no numbers", "spreads of zero"])
@pytest.mark.parametrize("count, wrong", [(12, 0.0), (101, 0.1), (512, 0.4)])
def test_homographies(both: Callable, count: int, wrong: float, told: str) -> None:
    points0, points1 = matched_points(8, count, wrong)
    spreads = None
    if told != "nothing":
        spreads = tuple(np.random.default_rng(9).uniform(0.2, 4.0, (2, count)))
        spreads[0][:3] = {"spreads": 0.5, "spreads of zero": 0.0}.get(told, np.nan)
        spreads[1][:3] = spreads[0][:3]
    expected, compiled = both(lambda: fit_homography(points0, points1, SIZE, GeometryConfig(), spreads))
    assert expected.matrix is not None
    np.testing.assert_allclose(compiled.matrix, expected.matrix, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(compiled.inliers, expected.inliers)
    np.testing.assert_allclose(compiled.corner_covariance, expected.corner_covariance, rtol=1e-4, atol=1e-9)
    assert compiled.rmse == pytest.approx(expected.rmse, rel=1e-5)


@pytest.mark.parametrize("count", [0, 5, 200, 400])  # with many, patches are smaller
def test_alignment(both: Callable, make_pair: Callable, count: int) -> None:
    rng = np.random.default_rng(count)
    pair = make_pair(1)
    points0 = rng.uniform(-2, (321, 241), (count, 2)).astype(np.float32)  # some are outside, many cut
    mapped = np.column_stack([points0, np.ones(count)]) @ pair.matrix.T
    points1 = (mapped[:, :2] / mapped[:, 2:] + rng.normal(0, 0.5, (count, 2))).astype(np.float32)
    motions = np.repeat(pair.matrix[None, :2, :2], count, axis=0).astype(np.float32)
    if count:
        motions[0] *= 0.4
    images = cv2.blur(pair.image0, (3, 3)), cv2.blur(pair.image1, (3, 3))
    expected, compiled = both(lambda: align(*images, points0, points1, motions, 0.7))
    np.testing.assert_array_equal(compiled.seen, expected.seen)
    seen = expected.seen & (expected.correlation > 0.8)
    assert not count or np.count_nonzero(seen) > count / 2
    # numpy's patches are whole grey levels, of places to a 32nd of a pixel
    np.testing.assert_allclose(compiled.move[seen], expected.move[seen], atol=0.05)
    np.testing.assert_allclose(compiled.length[seen], expected.length[seen], atol=0.05)
    np.testing.assert_allclose(compiled.correlation[seen], expected.correlation[seen], atol=0.01)
    # so is the noise of those that agree best
    np.testing.assert_allclose(np.log(compiled.sharpness[seen]), np.log(expected.sharpness[seen]), atol=0.7)


@pytest.mark.parametrize("count", [6, 11, 300])
def test_motions_of_neighbours(both: Callable, count: int) -> None:
    points0, points1 = matched_points(12, count, 0.2)
    which = np.arange(0, count, 2)
    (motions, known), compiled = both(lambda: neighbour_motions(points0, points1, which))
    np.testing.assert_array_equal(compiled[1], known)
    np.testing.assert_allclose(compiled[0], motions, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count, wrong", [(8, 0.0), (60, 0.2), (130, 0.0), (400, 0.4)])
def test_points_settled_among_their_neighbours(both: Callable, count: int, wrong: float) -> None:
    points0, points1 = (points.astype(np.float32) for points in matched_points(14, count, wrong))
    rng = np.random.default_rng(15)
    deviations = rng.uniform(0.1, 1.2, (2, count)).astype(np.float32)
    given = _Points(points0, points1, *deviations, unit=1.2, far=800.0)
    expected, compiled = both(lambda: _settled(given, H, 3.0))
    np.testing.assert_allclose(compiled, expected, atol=1e-3)
    assert np.abs(compiled - points1).max() > 0.2


def test_of_equal_distances_to_neighbours_any_rank_is_found(both: Callable) -> None:
    x, y = np.meshgrid(np.arange(0, 200, 20), np.arange(0, 160, 20))
    points0 = np.column_stack([x.ravel(), y.ravel()]).astype(np.float32)
    points1 = (projected(points0) + np.random.default_rng(1).normal(0, 0.5, points0.shape)).astype(np.float32)
    alike = np.full(len(points0), 0.4, np.float32)
    expected, compiled = both(lambda: _settled(_Points(points0, points1, alike, alike, 1.0, 800.0), H, 3.0))
    np.testing.assert_allclose(compiled, expected, atol=1e-3)


def test_patches_and_neighbours_fit_into_the_space_there_is_for_them() -> None:
    assert max(_pattern(radius).places.shape[1] for radius in (RADIUS, RADIUS_OF_MANY)) <= native.MOST_SAMPLES
    assert NEIGHBOURS + 1 <= native.NEAREST
    sources = "".join(path.read_text() for path in (Path(native.__file__).parent / "kernels").glob("*.[ch]"))
    for name in ("MOST_SAMPLES", "NEAREST", "INTERFACE", "FLAGS", "LINE", "MOMENTS"):
        assert re.search(rf"#define {name} {getattr(native, name)}\b", sources), name


def test_nothing_is_polished_where_nothing_agrees(both: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    points0, points1 = matched_points(8, 30, 0.0)
    start = np.array([[1, 0, 5000.0], [0, 1, 0], [0, 0, 1]])
    with monkeypatch.context() as patch:
        patch.setattr(geometry, "_robust_start", lambda *_: start)
        expected, compiled = both(lambda: fit_homography(points0, points1, SIZE, GeometryConfig()))
    assert expected.matrix is compiled.matrix is None


@pytest.mark.parametrize("count", [12, 200])
def test_points_on_a_line_determine_nothing(both: Callable, count: int) -> None:
    along = np.random.default_rng(count).uniform(0, 600, count)
    points0 = np.column_stack([along, 0.5 * along + 30])
    points0 += np.random.default_rng(1).normal(0, 0.2, points0.shape)
    expected, compiled = both(lambda: fit_homography(points0, projected(points0), SIZE, GeometryConfig()))
    assert expected.matrix is compiled.matrix is None


def test_a_corner_beyond_the_horizon_leaves_the_covariance_unknown(both: Callable) -> None:
    points0 = np.random.default_rng(3).uniform((0, 0), (300, 300), (80, 2))
    steep = np.array([[1, 0, 0], [0, 1, 0], [-2e-3, 0, 1.0]])
    mapped = np.column_stack([points0, np.ones(80)]) @ steep.T
    expected, compiled = both(lambda: fit_homography(points0, mapped[:, :2] / mapped[:, 2:], SIZE, GeometryConfig()))
    assert expected.matrix is not None and np.isnan(expected.corner_covariance).all()
    np.testing.assert_allclose(compiled.matrix, expected.matrix, atol=1e-9)
    assert np.isnan(compiled.corner_covariance).all()
