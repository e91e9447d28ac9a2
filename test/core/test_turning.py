"""Images turned against each other: where points lie afterwards, and which turn is taken at what cost."""

from __future__ import annotations

import numpy as np
import pytest

from efficient_matcher import Matcher
from efficient_matcher.config import Config
from efficient_matcher.core.pipeline import Tracker
from efficient_matcher.core.turning import TurningMatcher, turned_frame, turned_points
from efficient_matcher.records import Features, Frame, Matches

SIZE = 40, 24


def frame(seed: int = 0) -> Frame:
    return Frame(np.random.default_rng(seed).integers(0, 255, (24, 40)).astype(np.uint8))


def features(count: int = 20, of: Frame | None = None) -> Features:
    rng = np.random.default_rng(count)
    points = np.stack([rng.integers(0, 40, count), rng.integers(0, 24, count)], 1).astype(np.float32)
    return Features(points, np.ones(count, np.float32), np.zeros((count, 4), np.float32), SIZE, frame=of)


@pytest.mark.parametrize("quarters", range(4))
def test_points_go_where_the_pixels_go(quarters: int) -> None:
    image = frame().image
    turned = turned_frame(Frame(image, stamp_ns=7, scale=(2.0, 3.0)), quarters)
    assert turned.stamp_ns == 7 and turned.image.flags.c_contiguous
    assert turned.input_size == ((80, 72) if quarters % 2 == 0 else (72, 80))
    points = features().keypoints
    x, y = turned_points(points, SIZE, quarters).astype(int).T
    np.testing.assert_array_equal(turned.image[y, x], image[points[:, 1].astype(int), points[:, 0].astype(int)])


class Stage:
    """Describes by the corner pixel of a frame; matches as many as are given for each of the four corners."""

    def __init__(self, image0: Frame, matches: tuple[int, int, int, int]) -> None:
        self.corners = {int(np.rot90(image0.image, quarters)[0, 0]): count for quarters, count in enumerate(matches)}
        self.upright = matches[0]
        self.described = self.asked = 0

    def describe(self, frame: Frame, points: np.ndarray) -> np.ndarray:
        self.described += 1
        width, height = frame.input_size
        assert (points >= 0).all() and (points < (width, height)).all()
        return np.full((len(points), 4), frame.image[0, 0], np.float32)

    def match(self, features0: Features, features1: Features) -> tuple[Matches, int]:
        self.asked += 1
        corner = int(features0.descriptors[0, 0]) if len(features0) else 0
        count = self.corners[corner] if corner else self.upright
        return Matches(np.zeros((count, 2), np.int32), np.ones(count, np.float32)), 1


def turning(matches: tuple[int, int, int, int], of: Frame) -> tuple[TurningMatcher, Stage]:
    stage = Stage(of, matches)
    return TurningMatcher(stage.describe, stage.match), stage


@pytest.mark.parametrize(("matches", "taken", "asked"), [
    ((9, 12, 0, 0), 0, 1), ((3, 9, 12, 0), 1, 2), ((0, 0, 12, 0), 2, 4), ((0, 1, 1, 12), 3, 3), ((3, 3, 4, 2), 2, 4),
    ((4, 4, 4, 4), 0, 4)])
def test_the_first_turn_with_enough_matches_is_taken_or_the_best(matches: tuple[int, int, int, int], taken: int,
                                                                 asked: int) -> None:
    matcher, stage = turning(matches, frame())
    found = matcher(features(of=frame()), features())
    assert (found.quarter_turns, len(found.matches), stage.asked) == (taken, matches[taken], asked)


def test_a_reference_is_described_once_and_begins_with_its_last_turn() -> None:
    matcher, stage = turning((0, 1, 12, 2), frame())
    reference = features(of=frame())
    for _ in range(5):
        assert matcher(reference, features()).quarter_turns == 2
    assert stage.described == 3 and stage.asked == 4 + 4
    seen = matcher.seen(reference, 2)
    assert (seen.descriptors == np.rot90(frame().image, 2)[0, 0]).all() and stage.described == 3
    np.testing.assert_array_equal(seen.keypoints, reference.keypoints)
    assert matcher.seen(reference, 0) is reference
    unknown = features()
    assert matcher.seen(unknown, 2) is unknown


def test_without_a_frame_or_keypoints_nothing_is_turned() -> None:
    matcher, stage = turning((1, 12, 12, 12), frame())
    assert matcher(features(), features()).quarter_turns == 0
    stage.upright = 0
    assert len(matcher(features(0, frame()), features()).matches) == 0
    assert (stage.asked, stage.described) == (2, 0)


@pytest.fixture(scope="module")
def shipped() -> Matcher:
    return Matcher.from_bundle("default", Config().with_values(
        {"input.width": 0, "input.height": 0, "match.turns": True, "model.threads": 1}))


@pytest.mark.parametrize(("quarters", "H_0to1"), [
    (0, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]), (1, [[0, 1, 0], [-1, 0, 319], [0, 0, 1]]),
    (2, [[-1, 0, 319], [0, -1, 239], [0, 0, 1]]), (3, [[0, -1, 239], [1, 0, 0], [0, 0, 1]])])
def test_a_turned_image_is_matched_where_it_is(shipped: Matcher, textured_image: np.ndarray, quarters: int,
                                               H_0to1: list) -> None:
    turned = np.ascontiguousarray(np.rot90(textured_image, quarters))
    result = shipped.match(textured_image, turned)
    assert result.quarter_turns == quarters and len(result.matches) > 100
    assert result.features0.image_size == (320, 240)
    np.testing.assert_allclose(result.homography.matrix, H_0to1, atol=0.05)
    again = shipped.refine(shipped.match(result.features0, result.features1), textured_image, turned)
    np.testing.assert_allclose(again.homography.matrix, H_0to1, atol=0.05)


def test_a_reference_is_followed_all_around_with_its_track_ids(shipped: Matcher, textured_image: np.ndarray) -> None:
    shipped.reconfigure(shipped.config.with_values({"track.mode": "reference"}))
    square = np.ascontiguousarray(textured_image[:, :240])
    tracker, seen = Tracker(shipped), []
    tracker.process(square)
    for quarters in (1, 1, 2, 3, 0):
        result = tracker.process(np.ascontiguousarray(np.rot90(square, quarters)))
        assert result.quarter_turns == quarters and result.homography.valid
        seen.append(set(result.track_ids.tolist()))
    assert len(set.intersection(*seen)) > 50
