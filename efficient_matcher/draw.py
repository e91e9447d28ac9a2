"""Pictures of matches: side by side, as tracks over the current image, and strips of several.

Inliers run from blue at the image's top to yellow at its bottom, so that neighbouring lines can be told
apart, by colour-blind eyes too; outliers are red.
Everything is drawn in the pixels of the frame the networks saw, blue green red.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core.geometry import warp_points
from efficient_matcher.records import Features, Frame, PairResult

OUTLIER = (60, 60, 220)
OUTLINE = (80, 220, 80)
KEYPOINT = (170, 170, 170)
TEXT = (240, 240, 240)
BAR_HEIGHT = 24
GAP = 4
_SUBPIXEL_BITS = 4  # cv2 draws at 1/16 px: without it, tracks of slow motion jump from pixel to pixel


def draw_matches(result: PairResult, max_matches: int = 200, caption: str | None = None) -> NDArray[np.uint8]:
    """Both images side by side, matches as lines: [H + bar, W0 + gap + W1, 3] uint8.

    max_matches: the best so many are drawn. caption: the text of the bar, by default the numbers of the pair.
    """
    image0, image1 = _canvas(result.frame0, result.features0), _canvas(result.frame1, result.features1)
    _mark_keypoints(image0, result.features0, result.frame0)
    _mark_keypoints(image1, result.features1, result.frame1)
    picture = _side_by_side(image0, image1)
    points0 = _frame_points(result.points0, result.frame0)
    points1 = _frame_points(result.points1, result.frame1) + np.float32([image0.shape[1] + GAP, 0])
    colours = _colours(result)
    for index in _drawing_order(result, max_matches):
        _line(picture, points0[index], points1[index], colours[index])
    return _with_bar(picture, caption_of(result) if caption is None else caption)


def draw_overlay(result: PairResult, max_matches: int = 200, caption: str | None = None) -> NDArray[np.uint8]:
    """The current image, each match as a tail from where it came, and the outline of the reference: [H + bar, W, 3]."""
    picture = _canvas(result.frame1, result.features1)
    points0, points1 = _frame_points(result.points0, result.frame1), _frame_points(result.points1, result.frame1)
    colours = _colours(result)
    for index in _drawing_order(result, max_matches):
        _line(picture, points0[index], points1[index], colours[index])
        _dot(picture, points1[index], colours[index])
    _draw_outline(picture, result)
    return _with_bar(picture, caption_of(result) if caption is None else caption)


class TrackDrawing:
    """Draws tracks with tails over several frames; feed it every result in turn.

    An outlier ends its tail: a wrong match would draw a line across the picture for as long as its track is seen.
    """

    def __init__(self, length: int = 12) -> None:
        self._length = length
        self._tails: dict[int, deque[NDArray[np.float32]]] = {}

    def draw(self, result: PairResult, max_matches: int = 512, caption: str | None = None) -> NDArray[np.uint8]:
        """The current image with the tail of every track in it: [H + bar, W, 3] uint8."""
        if result.track_ids is None:
            return draw_overlay(result, max_matches, caption)
        points0, points1 = _frame_points(result.points0, result.frame1), _frame_points(result.points1, result.frame1)
        picture = _canvas(result.frame1, result.features1)
        tails = [self._tails.get(track) or deque([points0[index]], self._length)
                 for index, track in enumerate(result.track_ids.tolist())]
        for tail, point in zip(tails, points1):
            tail.append(point)
        colours = _colours(result)
        for index in _drawing_order(result, max_matches):
            tail = tails[index] if result.homography.inliers[index] else (tails[index][-2], points1[index])
            cv2.polylines(picture, [_fixed(np.array(tail))], False, colours[index], 1, cv2.LINE_AA, _SUBPIXEL_BITS)
            _dot(picture, points1[index], colours[index])
        self._tails = {track: tail if inlier else deque([tail[-1]], self._length) for track, tail, inlier
                       in zip(result.track_ids.tolist(), tails, result.homography.inliers)}
        return _with_bar(picture, caption_of(result) if caption is None else caption)


def strip(pictures: Sequence[NDArray[np.uint8]], columns: int = 2) -> NDArray[np.uint8]:
    """Pictures in rows of `columns`, padded to the largest: [H,W,3] uint8. Needs at least one picture."""
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = np.zeros((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), np.uint8)
    for index, picture in enumerate(pictures):
        top, left = (index // columns) * (height + GAP), (index % columns) * (width + GAP)
        sheet[top:top + picture.shape[0], left:left + picture.shape[1]] = picture
    return sheet


def caption_of(result: PairResult) -> str:
    """The numbers of a pair in one line."""
    count, inliers = len(result.matches), int(result.homography.inliers.sum())
    share = f" ({100 * inliers / count:.0f} %)" if count else ""
    fit = f"rmse {result.homography.rmse:.2f} px" if result.homography.valid else "no homography"
    total = f"   {result.timings['total']:.0f} ms" if "total" in result.timings else ""
    return f"{count} matches   {inliers} inliers{share}   {fit}{total}"


def _canvas(frame: Frame | None, features: Features) -> NDArray[np.uint8]:
    if frame is not None:
        return cv2.cvtColor(frame.image, cv2.COLOR_GRAY2BGR)
    width, height = features.image_size
    return np.zeros((height, width, 3), np.uint8)


def _frame_points(points: NDArray[np.float32], frame: Frame | None) -> NDArray[np.float32]:
    if frame is None:
        return points
    return ((points + 0.5) / np.float32(frame.scale) - 0.5).astype(np.float32)


def _mark_keypoints(picture: NDArray[np.uint8], features: Features, frame: Frame | None) -> None:
    for point in _frame_points(features.keypoints, frame):
        _dot(picture, point, KEYPOINT, radius=1)


def _side_by_side(image0: NDArray[np.uint8], image1: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width0 = max(image0.shape[0], image1.shape[0]), image0.shape[1]
    picture = np.zeros((height, width0 + GAP + image1.shape[1], 3), np.uint8)
    picture[:image0.shape[0], :width0] = image0
    picture[:image1.shape[0], width0 + GAP:] = image1
    return picture


def _drawing_order(result: PairResult, max_matches: int) -> list[int]:
    """The best matches, outliers and weak ones first, so that strong inliers lie on top."""
    best = np.arange(min(max_matches, len(result.matches)))[::-1]
    return best[np.argsort(result.homography.inliers[best], kind="stable")].tolist()


def _colours(result: PairResult) -> list[tuple[int, int, int]]:
    """Blue, green, red for each match."""
    levels = 80 + 175 * result.points0[:, 1] / result.features0.image_size[1]
    chosen = [_viridis()[level] for level in np.clip(levels, 80, 255).astype(int)]
    return [colour if inlier else OUTLIER for colour, inlier in zip(chosen, result.homography.inliers)]


@cache
def _viridis() -> list[tuple[int, int, int]]:
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8).reshape(-1, 1), cv2.COLORMAP_VIRIDIS)
    return [tuple(colour) for colour in table[:, 0].tolist()]


def _draw_outline(picture: NDArray[np.uint8], result: PairResult) -> None:
    if result.homography.matrix is None:
        return
    width, height = result.features0.image_size
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)
    outline = _frame_points(warp_points(corners, result.homography.matrix).astype(np.float32), result.frame1)
    if np.isfinite(outline).all() and np.abs(outline).max() < 1e5:  # beyond, cv2's fixed point overflows
        cv2.polylines(picture, [_fixed(outline)], True, OUTLINE, 1, cv2.LINE_AA, _SUBPIXEL_BITS)


def _line(picture: NDArray[np.uint8], start: NDArray[np.float32], end: NDArray[np.float32],
          colour: tuple[int, int, int]) -> None:
    cv2.line(picture, _fixed(start).tolist(), _fixed(end).tolist(), colour, 1, cv2.LINE_AA, _SUBPIXEL_BITS)


def _dot(picture: NDArray[np.uint8], centre: NDArray[np.float32], colour: tuple[int, int, int],
         radius: int = 2) -> None:
    cv2.circle(picture, _fixed(centre).tolist(), radius << _SUBPIXEL_BITS, colour, -1, cv2.LINE_AA, _SUBPIXEL_BITS)


def _fixed(points: NDArray[np.float32]) -> NDArray[np.int32]:
    return np.round(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)


def _with_bar(picture: NDArray[np.uint8], caption: str) -> NDArray[np.uint8]:
    bar = np.full((BAR_HEIGHT, picture.shape[1], 3), 24, np.uint8)
    cv2.putText(bar, caption, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, TEXT, 1, cv2.LINE_AA)
    return np.vstack([bar, picture])
