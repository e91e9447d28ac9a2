"""Drawings: sizes, places and colours of what is known to be there."""

from __future__ import annotations

import numpy as np

from efficient_matcher.draw import (BAR_HEIGHT, GAP, OUTLIER, TrackDrawing, caption_of, draw_matches, draw_overlay,
                                    strip)
from efficient_matcher.records import Features, Frame, Homography, Matches, PairResult


def result(with_frames: bool = True, matched: int = 2, valid: bool = True, track_ids: list[int] | None = None,
           shift: float = 0.0) -> PairResult:
    """Two keypoints of a 160x120 input seen as 80x60 frames; they move by `shift` right; the second is an outlier."""
    points = np.float32([[20.5, 30.5], [100.5, 90.5]])
    sides = [Features(points + np.float32([move, 0]), np.ones(2, np.float32), np.eye(2, dtype=np.float32), (160, 120))
             for move in (0, shift)]
    frame = Frame(np.full((60, 80), 50, np.uint8), scale=(2.0, 2.0)) if with_frames else None
    homography = Homography(np.eye(3) if valid else None, np.array([True, False])[:matched] & valid,
                            np.zeros((8, 8)), 0.5)
    ids = None if track_ids is None else np.array(track_ids, np.uint32)
    return PairResult(*sides, Matches(np.int32([[0, 0], [1, 1]])[:matched], np.ones(matched, np.float32)), homography,
                      {"total": 12.3}, ids, frame, frame)


def is_outlier(pixel: np.ndarray) -> bool:
    """Within what anti-aliasing rounds away."""
    return bool(np.abs(pixel.astype(int) - OUTLIER).max() <= 40)


def is_inlier(pixel: np.ndarray) -> bool:
    """Neither an outlier nor the bare image."""
    return not is_outlier(pixel) and tuple(pixel) != (50, 50, 50)


def test_pair_lies_side_by_side_under_a_bar() -> None:
    picture = draw_matches(result())
    assert picture.shape == (60 + BAR_HEIGHT, 80 + GAP + 80, 3)
    assert picture.dtype == np.uint8
    # input pixel (20.5, 30.5) is the frame's (10, 15), and the line ends there in the other image
    assert tuple(picture[BAR_HEIGHT + 15, 80 + GAP + 10]) != (50, 50, 50)
    assert is_outlier(picture[BAR_HEIGHT + 45, 82])


def test_overlay_marks_points_in_frame_pixels() -> None:
    picture = draw_overlay(result())
    assert picture.shape == (60 + BAR_HEIGHT, 80, 3)
    assert is_outlier(picture[BAR_HEIGHT + 45, 50])
    assert is_inlier(picture[BAR_HEIGHT + 15, 10])
    assert tuple(picture[BAR_HEIGHT + 30, 40]) == (50, 50, 50)


def test_only_the_best_matches_are_drawn() -> None:
    assert tuple(draw_overlay(result(), max_matches=1)[BAR_HEIGHT + 45, 50]) == (50, 50, 50)


def test_features_alone_are_drawn_on_black() -> None:
    picture = draw_matches(result(with_frames=False))
    assert picture.shape == (120 + BAR_HEIGHT, 160 + GAP + 160, 3)
    assert picture[BAR_HEIGHT + 5, 5].sum() == 0


def test_nothing_matched_is_a_picture_all_the_same() -> None:
    empty = result(matched=0, valid=False)
    assert draw_matches(empty).shape == (60 + BAR_HEIGHT, 80 + GAP + 80, 3)
    assert TrackDrawing().draw(empty).shape == (60 + BAR_HEIGHT, 80, 3)
    assert caption_of(empty) == "0 matches   0 inliers   no homography   12 ms"


def test_caption_tells_the_numbers() -> None:
    assert caption_of(result()) == "2 matches   1 inliers (50 %)   rmse 0.50 px   12 ms"


def test_tracks_keep_their_tails_while_seen() -> None:
    drawing = TrackDrawing()
    drawing.draw(result(track_ids=[4, 5]))
    later = drawing.draw(result(track_ids=[4, 6], shift=40))
    assert is_inlier(later[BAR_HEIGHT + 15, 20])  # half way from x = 10 to x = 30
    assert is_outlier(later[BAR_HEIGHT + 45, 60])
    drawing.draw(result(track_ids=[7, 8]))
    assert set(drawing._tails) == {7, 8}


def test_an_outlier_ends_the_tail_of_its_track() -> None:
    drawing = TrackDrawing()
    outlier_first = drawing.draw(result(track_ids=[4, 5], shift=40))
    assert is_outlier(outlier_first[BAR_HEIGHT + 45, 60])  # half way from x = 50 to x = 70
    assert [len(drawing._tails[track]) for track in (4, 5)] == [2, 1]


def test_homography_beyond_all_pixels_draws_no_outline() -> None:
    far = result()
    wild = Homography(np.array([[1, 0, 1e9], [0, 1, 0], [0, 0, 1.0]]), far.homography.inliers, np.zeros((8, 8)), 0.0)
    picture = draw_overlay(PairResult(far.features0, far.features1, far.matches, wild, frame0=far.frame0,
                                      frame1=far.frame1))
    assert picture.shape == (60 + BAR_HEIGHT, 80, 3)


def test_strip_pads_to_the_largest() -> None:
    small, large = np.full((10, 20, 3), 1, np.uint8), np.full((30, 40, 3), 2, np.uint8)
    sheet = strip([small, large, small], columns=2)
    assert sheet.shape == (30 + GAP + 30, 40 + GAP + 40, 3)
    assert (sheet[0, 0, 0], sheet[0, 40 + GAP, 0], sheet[30 + GAP, 0, 0], sheet[20, 0, 0]) == (1, 2, 1, 0)
