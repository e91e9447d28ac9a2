"""Which frame is the reference, and which ids keypoints carry: on made-up frames of numbered scene points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from efficient_matcher.config import Config
from efficient_matcher.core.tracking import Tracker
from efficient_matcher.errors import ImageError
from efficient_matcher.records import Features, Frame, Homography, Matches, PairResult

SECOND = 1_000_000_000


class Scene:
    """Stands in for the networks: a frame's pixels are the numbers of the scene points in it; equal numbers match."""

    def __init__(self, **track: object) -> None:
        values = {f"track.{name}": value for name, value in track.items()}
        self.config = Config().with_values({"geometry.min_inliers": 4, **values})
        self.extracted = 0

    def to_frame(self, image: Frame) -> Frame:
        if not isinstance(image, Frame):
            raise ImageError("no image")
        return image

    def extract(self, image: Frame) -> Features:
        self.extracted += 1
        points = image.image[0][image.image[0] > 0]
        return Features(np.stack([points, points], 1).astype(np.float32), points.astype(np.float32),
                        points[:, None].astype(np.float32), image.input_size)

    def match(self, a: Features, b: Frame, **images: Frame) -> PairResult:
        features = self.extract(b)
        pairs = [(i, j) for i, p in enumerate(a.scores) for j, q in enumerate(features.scores) if p == q]
        indices = np.array(pairs, np.int32).reshape(-1, 2)
        valid = len(indices) >= self.config.geometry.min_inliers
        homography = Homography(np.eye(3) if valid else None, np.full(len(indices), valid), np.zeros((8, 8)), 0.0)
        return PairResult(a, features, Matches(indices, np.ones(len(indices), np.float32)), homography)


def frame(points: Sequence[int], stamp_s: float = 0.0, scale: float = 1.0, width: int = 64) -> Frame:
    image = np.zeros((1, width), np.uint8)
    image[0, :len(points)] = points
    return Frame(image, round(stamp_s * SECOND), "cam", (scale, scale))


def ids(result: PairResult) -> dict[int, int]:
    """Scene point -> track id."""
    return {int(point): int(track) for point, track in zip(result.points1[:, 0], result.track_ids)}


def test_the_first_frame_has_no_partner() -> None:
    tracker = Tracker(Scene())
    assert tracker.process(frame(range(1, 9))) is None
    assert tracker.process(frame(range(1, 9))) is not None


def test_sequential_matches_with_the_previous_frame() -> None:
    scene = Scene()
    tracker = Tracker(scene)
    frames = [frame(range(n, n + 10), n) for n in range(1, 5)]
    results = [tracker.process(one) for one in frames]
    for result, before, now in zip(results[1:], frames, frames[1:]):
        assert result.frame0 is before
        assert result.features1.scores[0] == now.image[0, 0]
    assert scene.extracted == len(frames)  # each once


def test_ids_survive_for_as_long_as_a_point_is_seen() -> None:
    tracker = Tracker(Scene())
    tracker.process(frame([1, 2, 3, 4, 5]))
    first = ids(tracker.process(frame([5, 4, 3, 2, 9])))
    second = ids(tracker.process(frame([9, 3, 4, 5, 7, 8])))
    assert set(first) == {2, 3, 4, 5} and set(second) == {3, 4, 5, 9}
    assert all(second[point] == first[point] for point in (3, 4, 5))
    assert second[9] not in first.values()


def test_a_point_seen_again_after_a_break_is_a_new_track() -> None:
    tracker = Tracker(Scene())
    tracker.process(frame([1, 2, 3, 4, 5]))
    before = ids(tracker.process(frame([1, 2, 3, 4, 5])))
    tracker.process(frame([1, 2, 3, 4]))
    tracker.process(frame([1, 2, 3, 4, 5]))
    after = ids(tracker.process(frame([1, 2, 3, 4, 5])))
    assert after[1] == before[1] and after[5] not in before.values()


def test_no_id_comes_twice_in_a_frame_or_again_after_a_restart() -> None:
    tracker = Tracker(Scene())
    seen: set[int] = set()
    for start_s in (0, 100, 200):
        tracker.process(frame([1, 2, 3, 4, 5], start_s))
        found = set(ids(tracker.process(frame([1, 2, 3, 4, 5], start_s + 1))).values())
        assert len(found) == 5 and not found & seen
        seen |= found


def test_ids_wrap_at_32_bits() -> None:
    tracker = Tracker(Scene())
    tracker._next_id = 2**32 - 2
    tracker.process(frame([1, 2, 3, 4]))
    assert ids(tracker.process(frame([1, 2, 3, 4]))) == {1: 2**32 - 2, 2: 2**32 - 1, 3: 0, 4: 1}


def test_a_point_off_the_plane_keeps_its_id() -> None:
    class NoPlane(Scene):
        def match(self, a: Features, b: Frame, **images: Frame) -> PairResult:
            result = super().match(a, b)
            return replace(result, homography=replace(result.homography, matrix=None))

    tracker = Tracker(NoPlane())
    tracker.process(frame([1, 2, 3, 4, 5]))
    first = ids(tracker.process(frame([1, 2, 3, 4, 5])))
    assert ids(tracker.process(frame([1, 2, 3, 4, 5]))) == first


def test_keyframe_is_kept_while_enough_of_it_is_seen() -> None:
    tracker = Tracker(Scene(mode="keyframe", keyframe_min_inliers=4, keyframe_min_share=0.5))
    key = frame(range(1, 11))
    tracker.process(key)
    seen = [[1, 2, 3, 4, 5, 6], [5, 6, 7, 8, 9], [1, 2, 3, 8, 9, 20]]
    results = [tracker.process(frame(points)) for points in seen]
    assert all(result.frame0 is key for result in results)
    # Point 1 was out of sight for a frame and is the same track again.
    assert ids(results[2])[1] == ids(results[0])[1]
    assert ids(results[1])[8] == ids(results[2])[8]


def test_too_small_a_share_makes_the_new_frame_the_keyframe() -> None:
    tracker = Tracker(Scene(mode="keyframe", keyframe_min_inliers=4, keyframe_min_share=0.5))
    tracker.process(frame(range(1, 11)))
    turning = frame([1, 2, 3, 4, 11, 12, 13])
    before = tracker.process(turning)
    assert len(before.matches) == 4
    after = tracker.process(frame([3, 4, 11, 12]))
    assert after.frame0 is turning
    assert ids(after)[3] == ids(before)[3] and ids(after)[4] == ids(before)[4]
    assert not {ids(after)[11], ids(after)[12]} & set(ids(before).values())


def test_too_few_inliers_make_the_new_frame_the_keyframe() -> None:
    tracker = Tracker(Scene(mode="keyframe", keyframe_min_inliers=6, keyframe_min_share=0.0))
    key, five, six = frame(range(1, 11)), frame([1, 2, 3, 4, 5]), frame([1, 2, 3, 4, 5, 6])
    tracker.process(key)
    assert tracker.process(six).frame0 is key
    assert tracker.process(five).frame0 is key
    assert tracker.process(six).frame0 is five


def test_reference_mode_keeps_the_first_frame_through_loss_gaps_and_jumps_of_time() -> None:
    tracker = Tracker(Scene(mode="reference"))
    first = frame(range(1, 9), 50)
    tracker.process(first)
    for points, stamp_s in (([1, 2, 3, 4], 51), ([30, 31, 32, 33], 52), ([1, 2, 3, 4], 500), ([1, 2, 3, 4], 3)):
        assert tracker.process(frame(points, stamp_s)).frame0 is first
    assert tracker.restarts == 0


@pytest.mark.parametrize("mode", ["sequential", "keyframe", "reference"])
def test_set_reference_takes_the_next_frame(mode: str) -> None:
    tracker = Tracker(Scene(mode=mode))
    tracker.process(frame(range(1, 9)))
    tracker.process(frame(range(1, 9)))
    tracker.set_reference()
    chosen = frame(range(3, 9))
    assert tracker.process(chosen) is None
    assert tracker.process(frame(range(1, 9))).frame0 is chosen
    assert tracker.restarts == 0


def test_reset_forgets_all_but_the_ids_given_out() -> None:
    tracker = Tracker(Scene())
    tracker.process(frame([1, 2, 3, 4], 10))
    before = set(ids(tracker.process(frame([1, 2, 3, 4], 11))).values())
    tracker.process(frame([1, 2, 3, 4], 0))
    assert tracker.restarts == 1
    tracker.reset()
    assert (tracker.restarts, tracker.restart_reason) == (0, "")
    assert tracker.process(frame([1, 2, 3, 4], 0)) is None
    assert not before & set(ids(tracker.process(frame([1, 2, 3, 4], 1))).values())


@pytest.mark.parametrize(("second", "reason"), [
    (frame([1, 2, 3, 4], 101, scale=2.0), "resolution changed from 64x1 to 128x2 (seen at 64x1)"),
    (frame([1, 2, 3, 4], 101, width=32), "resolution changed from 64x1 to 32x1"),
    (frame([1, 2, 3, 4], 99.5), "stamp went back by 0.500 s"),
    (frame([1, 2, 3, 4], 105.5), "gap of 5.500 s between stamps")])
def test_what_starts_afresh(second: Frame, reason: str) -> None:
    tracker = Tracker(Scene())
    tracker.process(frame([1, 2, 3, 4], 100))
    assert tracker.process(second) is None
    assert (tracker.restarts, tracker.restart_reason) == (1, reason)
    following = replace(second, stamp_ns=second.stamp_ns + SECOND)
    assert tracker.process(following).frame0 is second


def test_equal_stamps_and_the_longest_gap_allowed_go_on() -> None:
    tracker = Tracker(Scene())
    results = [tracker.process(frame([1, 2, 3, 4], stamp_s)) for stamp_s in (7, 7, 12)]
    assert [result is None for result in results] == [True, False, False]
    assert tracker.restarts == 0


def test_the_gap_counts_from_the_last_frame_and_not_from_the_keyframe() -> None:
    tracker = Tracker(Scene(mode="keyframe", keyframe_min_inliers=4))
    results = [tracker.process(frame([1, 2, 3, 4], stamp_s)) for stamp_s in (0, 4, 8, 12)]
    assert all(result.frame0.stamp_ns == 0 for result in results[1:])


@pytest.mark.parametrize("mode", ["sequential", "keyframe"])
def test_a_black_frame_costs_one_result_and_not_the_tracks(mode: str) -> None:
    tracker = Tracker(Scene(mode=mode, keyframe_min_inliers=4))
    tracker.process(frame([1, 2, 3, 4, 5]))
    before = tracker.process(frame([1, 2, 3, 4, 5]))
    black = tracker.process(frame([]))
    assert len(black.matches) == 0 and black.track_ids.shape == (0,)
    assert ids(tracker.process(frame([1, 2, 3, 4, 5]))) == ids(before)


def test_starting_afresh_keeps_the_count_of_restarts() -> None:
    tracker = Tracker(Scene())
    tracker.process(frame([1, 2, 3, 4]))
    tracker.start_afresh("time jumped back")
    assert tracker.process(frame([1, 2, 3, 4])) is None
    tracker.start_afresh()
    assert tracker.process(frame([1, 2, 3, 4])) is None
    assert (tracker.restarts, tracker.restart_reason) == (1, "time jumped back")


@pytest.mark.parametrize("mode", ["sequential", "keyframe", "reference"])
def test_a_black_start_gives_way_to_the_first_frame_that_shows_something(mode: str) -> None:
    tracker = Tracker(Scene(mode=mode, keyframe_min_inliers=4))
    light = frame([1, 2, 3, 4, 5])
    assert tracker.process(frame([])) is None
    assert len(tracker.process(frame([])).matches) == 0
    assert len(tracker.process(light).matches) == 0
    assert tracker.process(frame([1, 2, 3, 4, 5])).frame0 is light


def test_a_bad_image_leaves_the_tracks_alone() -> None:
    tracker = Tracker(Scene())
    tracker.process(frame([1, 2, 3, 4]))
    before = ids(tracker.process(frame([1, 2, 3, 4])))
    with pytest.raises(ImageError):
        tracker.process("no image")
    assert ids(tracker.process(frame([1, 2, 3, 4]))) == before


def test_settings_follow_the_matcher_unless_given() -> None:
    scene = Scene(mode="keyframe")
    fixed, following = Tracker(scene, replace(scene.config.track, mode="reference")), Tracker(scene)
    scene.config = scene.config.with_values({"track.mode": "sequential"})
    assert (fixed.config.mode, following.config.mode) == ("reference", "sequential")
