"""The stages together, on warped images whose homography is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from efficient_matcher import Matcher
from efficient_matcher.config import Config
from efficient_matcher.core import pipeline
from efficient_matcher.core.backend import Arrays, Usage
from efficient_matcher.core.pipeline import Tracker
from efficient_matcher.errors import BundleError, ConfigError, ImageError, MatcherError
from efficient_matcher.records import Features, Frame

OWN_SIZE = {"input.width": 0, "input.height": 0, "model.threads": 1}


@pytest.fixture(scope="module")
def matcher(tiny_bundle: Path) -> Matcher:
    return Matcher.from_bundle(tiny_bundle, Config().with_values(OWN_SIZE))


def warp(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return cv2.perspectiveTransform(points[None].astype(np.float64), matrix)[0]


def corner_error(found: np.ndarray, true: np.ndarray, width: int, height: int) -> float:
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]])
    return float(np.linalg.norm(warp(corners, found) - warp(corners, true), axis=1).mean())


def same(a: Features, b: Features) -> bool:
    return (np.array_equal(a.keypoints, b.keypoints) and np.array_equal(a.scores, b.scores)
            and np.array_equal(a.descriptors, b.descriptors) and a.image_size == b.image_size)


@pytest.mark.parametrize("seed", range(3))
def test_a_warped_pair_gives_back_its_homography(matcher: Matcher, make_pair: Callable, seed: int) -> None:
    pair = make_pair(seed)
    result = matcher.match(pair.image0, pair.image1)
    errors = np.linalg.norm(warp(result.points0, pair.matrix) - result.points1, axis=1)
    assert len(result.matches) > 200
    assert np.median(errors) < 0.5 and (errors < 3).mean() > 0.97
    assert corner_error(result.homography.matrix, pair.matrix, 320, 240) < 0.5
    assert result.homography.inliers.sum() > 0.95 * len(result.matches)
    assert (np.diff(result.matches.scores) <= 0).all()


def test_an_image_with_itself_is_the_identity(matcher: Matcher, textured_image: np.ndarray) -> None:
    result = matcher.match(textured_image, textured_image)
    assert (result.matches.indices[:, 0] == result.matches.indices[:, 1]).all()
    np.testing.assert_allclose(result.homography.matrix, np.eye(3), atol=1e-4)


def test_the_same_input_gives_the_same_result(matcher: Matcher, warped_pair: object) -> None:
    first, second = (matcher.match(warped_pair.image0, warped_pair.image1) for _ in range(2))
    assert same(first.features1, second.features1)
    np.testing.assert_array_equal(first.matches.indices, second.matches.indices)
    np.testing.assert_array_equal(first.homography.matrix, second.homography.matrix)


def test_images_frames_and_features_mix(matcher: Matcher, warped_pair: object) -> None:
    frame0, frame1 = matcher.to_frame(warped_pair.image0), matcher.to_frame(warped_pair.image1)
    features0, features1 = matcher.extract(frame0), matcher.extract(warped_pair.image1)
    images = matcher.match(warped_pair.image0, warped_pair.image1)
    for a, b in ((frame0, frame1), (features0, features1), (features0, frame1), (warped_pair.image0, features1)):
        result = matcher.match(a, b)
        both = min(len(result.matches), len(images.matches))  # with two images, more are found beside these
        assert both > 200
        np.testing.assert_array_equal(result.matches.indices[:both], images.matches.indices[:both])
        assert same(result.features0, images.features0)
        assert (result.frame0 is None) == isinstance(a, Features)
        assert (result.frame1 is None) == isinstance(b, Features)
    assert matcher.match(frame0, frame1).frame0 is frame0


def test_colour_images_are_taken(matcher: Matcher, textured_image: np.ndarray) -> None:
    colour = np.repeat(textured_image[:, :, None], 3, axis=2)
    assert same(matcher.extract(colour), matcher.extract(textured_image))


def test_keypoints_come_in_pixels_of_the_image_given(tiny_bundle: Path) -> None:
    matcher = Matcher.from_bundle(tiny_bundle, Config().with_values({"input.width": 160, "input.height": 120}))
    image = np.zeros((240, 320), np.float32)
    image[79:87, 199:207] = 255  # about (202.5, 82.5), which is the centre of pixel (101, 41) at half size
    features = matcher.extract(cv2.GaussianBlur(image, (0, 0), 3).astype(np.uint8))
    assert features.image_size == (320, 240)
    np.testing.assert_allclose(features.keypoints[0], [202.5, 82.5], atol=0.1)


def test_the_turn_of_a_camera_is_found(matcher: Matcher, warped_pair: object) -> None:
    K, turn = np.array([[300.0, 0, 159.5], [0, 300.0, 119.5], [0, 0, 1]]), cv2.Rodrigues(np.radians([3.0, -4.0, 8.0]))[0]
    turned = cv2.warpPerspective(warped_pair.image0, K @ turn @ np.linalg.inv(K), warped_pair.image0.shape[::-1])
    result = matcher.match(warped_pair.image0, turned)
    for camera1 in (None, K):
        pose = matcher.relative_pose(result, K, camera1)
        assert len(pose.inliers) == len(result.matches) and pose.inliers.mean() > 0.8
        assert np.degrees(np.linalg.norm(cv2.Rodrigues(pose.rotation @ turn.T)[0])) < 0.5


def test_timings_name_the_stages(matcher: Matcher, warped_pair: object) -> None:
    timings = matcher.match(warped_pair.image0, warped_pair.image1).timings
    assert list(timings) == ["extract", "match", "refine", "homography", "total"]
    assert timings["total"] == pytest.approx(sum(timings.values()) - timings["total"])
    assert min(timings.values()) > 0


def test_images_are_refined_and_features_are_not(matcher: Matcher, warped_pair: object) -> None:
    plain = matcher.match(matcher.extract(warped_pair.image0), matcher.extract(warped_pair.image1))
    assert plain.matches.points1 is None and "refine" not in plain.timings
    images = matcher.match(warped_pair.image0, warped_pair.image1)
    later = matcher.refine(plain, warped_pair.image0, warped_pair.image1)
    given = matcher.match(plain.features0, matcher.to_frame(warped_pair.image1),
                          frame0=matcher.to_frame(warped_pair.image0))
    assert list(later.timings) == ["refine", "homography", "total"]
    for result in (later, given):
        np.testing.assert_array_equal(result.points1, images.points1)
        np.testing.assert_array_equal(result.homography.matrix, images.homography.matrix)
    errors = [corner_error(r.homography.matrix, warped_pair.matrix, 320, 240) for r in (plain, images)]
    assert errors[1] < 0.5 * errors[0]
    np.testing.assert_array_equal(images.features1.keypoints, plain.features1.keypoints)


@pytest.mark.parametrize("refined", [True, False])
def test_matched_points_settle_and_fits_take_them_as_they_were(tiny_bundle: Path, warped_pair: object, refined: bool) -> None:
    values = {**OWN_SIZE, "refine.enabled": refined}
    on, off = (Matcher.from_bundle(tiny_bundle, Config().with_values({**values, "geometry.settle": settle}))
               for settle in (True, False))
    settled, plain = (matcher.match(warped_pair.image0, warped_pair.image1) for matcher in (on, off))
    assert plain.matches.settled1 is None
    np.testing.assert_array_equal(settled.measured1, plain.points1)
    np.testing.assert_array_equal(settled.points0, plain.points0)
    errors = [np.linalg.norm(warp(r.points0, warped_pair.matrix) - r.points1, axis=1) for r in (settled, plain)]
    assert np.median(errors[0]) < 0.6 * np.median(errors[1])
    np.testing.assert_array_equal(settled.homography.matrix, plain.homography.matrix)
    K = np.array([[300.0, 0, 159.5], [0, 300.0, 119.5], [0, 0, 1]])
    np.testing.assert_array_equal(on.relative_pose(settled, K).rotation, off.relative_pose(plain, K).rotation)
    assert off.refine(settled, warped_pair.image0, warped_pair.image1).matches.settled1 is None


def test_refinement_can_be_switched_off(tiny_bundle: Path, warped_pair: object) -> None:
    matcher = Matcher.from_bundle(tiny_bundle, Config().with_values({**OWN_SIZE, "refine.enabled": False}))
    assert matcher.match(warped_pair.image0, warped_pair.image1).matches.points1 is None
    matcher.reconfigure(matcher.config.with_values({"refine.enabled": True, "refine.guided": False}))
    result = matcher.match(warped_pair.image0, warped_pair.image1)
    plain = matcher.match(result.features0, result.features1)
    assert result.matches.points1.shape == plain.points1.shape
    assert (np.diff(result.matches.scores) <= 0).all()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_frame_without_texture_is_a_normal_result(matcher: Matcher, textured_image: np.ndarray, level: int) -> None:
    blank = np.full_like(textured_image, level)
    for pair in ((blank, textured_image), (textured_image, blank), (blank, blank)):
        result = matcher.match(*pair)
        assert len(result.matches) == 0 and result.points0.shape == (0, 2)
        assert not result.homography.valid and result.homography.inliers.shape == (0,)


@pytest.mark.parametrize("image", [np.zeros((0, 0), np.uint8), np.zeros((0, 10), np.uint8), np.full((32, 32), np.nan),
                                   np.zeros((32, 32, 5), np.uint8), np.zeros(10, np.uint8), None])
def test_what_is_no_image_is_an_image_error(matcher: Matcher, image: object) -> None:
    with pytest.raises(ImageError):
        matcher.extract(image)


def test_images_of_two_sizes_match(matcher: Matcher, textured_image: np.ndarray) -> None:
    result = matcher.match(textured_image, textured_image[:200, :280].copy())
    assert result.features0.image_size == (320, 240) and result.features1.image_size == (280, 200)
    np.testing.assert_allclose(result.homography.matrix, np.eye(3), atol=0.02)


def test_a_path_becomes_the_bundle_setting(matcher: Matcher, tiny_bundle: Path) -> None:
    assert matcher.config.model.bundle == str(tiny_bundle)
    assert matcher.card.name == "tiny"


def test_a_bundle_whose_parts_are_exchanged(make_bundle: Callable, tmp_path: Path) -> None:
    from efficient_matcher.core.bundle import file_sha256, read_card, write_card
    folder = make_bundle(tmp_path / "crossed")
    (folder / "extractor.onnx").write_bytes((folder / "matcher.onnx").read_bytes())
    card = read_card(folder)
    digest = file_sha256(folder / "matcher.onnx")
    write_card(folder, replace(card, files={"extractor.onnx": digest, "matcher.onnx": digest}))
    with pytest.raises(BundleError, match="extractor.onnx: has no input 'image'"):
        Matcher.from_bundle(folder)


def test_dynamic_settings_change_while_running(tiny_bundle: Path, textured_image: np.ndarray) -> None:
    matcher = Matcher.from_bundle(tiny_bundle, Config().with_values(OWN_SIZE))
    matcher.reconfigure(matcher.config.with_values({"extract.max_keypoints": 20, "match.score_threshold": 1.0}))
    assert len(matcher.extract(textured_image)) == 20
    assert len(matcher.match(textured_image, textured_image[:, ::-1].copy()).matches) == 0


def test_other_settings_do_not(matcher: Matcher) -> None:
    before = matcher.config
    with pytest.raises(ConfigError, match="model.threads cannot change while running"):
        matcher.reconfigure(before.with_values({"model.threads": 7, "extract.max_keypoints": 30}))
    assert matcher.config == before


def test_a_network_that_fails_is_a_matcher_error(matcher: Matcher, textured_image: np.ndarray) -> None:
    class Failing:
        name = "failing"

        def run(self, inputs: Arrays) -> Arrays:
            raise MatcherError("extractor.onnx: output 'scores' is not finite")

    with pytest.raises(MatcherError, match="not finite"):
        Matcher(Failing(), Failing(), Config()).extract(textured_image)


def test_tracking_yields_a_result_for_every_frame_but_the_first(matcher: Matcher, make_textured: Callable) -> None:
    canvas = make_textured(240, 400)
    images = [canvas[:, x:x + 320].copy() for x in (0, 10, 20, 30)]
    results = list(matcher.track(images))
    assert len(results) == 3
    for result, x in zip(results, (10, 20, 30)):
        np.testing.assert_allclose(result.homography.matrix, [[1, 0, -10], [0, 1, 0], [0, 0, 1]], atol=0.1)
        assert "refine" in result.timings
        assert result.track_ids.dtype == np.uint32 and len(result.track_ids) == len(result.matches)
    assert list(matcher.track([])) == []


def test_ids_stay_with_the_point_of_the_scene(matcher: Matcher, make_textured: Callable) -> None:
    canvas = make_textured(240, 480)
    scene: dict[int, list[np.ndarray]] = {}
    tracker = Tracker(matcher)
    for step in range(12):
        result = tracker.process(canvas[:, 8 * step:8 * step + 320].copy())
        for track, point in zip(result.track_ids, result.points1) if result else ():
            scene.setdefault(int(track), []).append(point + [8 * step, 0])
    long = [np.array(points) for points in scene.values() if len(points) == 11]
    assert len(long) > 100
    drift = [np.linalg.norm(points - points[0], axis=1).max() for points in long]
    assert np.median(drift) < 0.3 and np.mean(np.array(drift) < 2) > 0.98


def test_a_frame_of_the_caller_passes_through(matcher: Matcher, textured_image: np.ndarray) -> None:
    frames = [replace(matcher.to_frame(textured_image), stamp_ns=stamp, frame_id="cam") for stamp in (10, 20)]
    (result,) = matcher.track(frames)
    assert result.frame0 is frames[0] and result.frame1 is frames[1]
    assert isinstance(result.frame1, Frame) and result.frame1.stamp_ns == 20


def test_a_config_may_name_the_bundle(tiny_bundle: Path) -> None:
    config = Config().with_values({"model.bundle": str(tiny_bundle)})
    assert Matcher.from_bundle(config=config).config.model.bundle == str(tiny_bundle)
    assert Matcher.from_bundle(tiny_bundle).config.model.bundle == str(tiny_bundle)


@pytest.mark.parametrize("name, coarse", [("default", True), ("fast", True), ("accurate", False)])
def test_runtimes_are_told_how_networks_will_run(monkeypatch: pytest.MonkeyPatch, name: str, coarse: bool) -> None:
    opened, really = {}, pipeline.open_model

    def noted(path: Path, *given: object, usage: Usage, **named: object) -> object:
        opened[path.stem] = usage
        return really(path, *given, usage=usage, **named)

    monkeypatch.setattr(pipeline, "open_model", noted)
    Matcher.from_bundle(name, Config().with_values({"extract.max_keypoints": 300}))
    assert opened.pop("extractor") == Usage((480, 640), "all")  # a camera's size does not change
    assert opened.pop("locator", None) == (Usage((300,), "most") if name == "fast" else None)
    assert [usage.usual for usage in opened.values()] == ["most", "most", "few", "few", "few", "most"]
    assert all(usage.sizes == (300,) and usage.coarse == coarse for usage in opened.values())
