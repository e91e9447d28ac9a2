"""Images turned against each other by any angle.

The networks learned from pairs turned by up to some 30 degrees; by 45 they still find four of five matches, by 60 hardly
any. So where few are found, image 0 is looked at in quarter turns as well, which lose no pixel, and the turn that finds most
is taken: no angle is farther than 45 degrees from one of them. Its keypoints stay what they are, so that they have the
same indices, track ids and positions in every pair; only their descriptors are read anew, where they lie in the turned image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core.remembered import Remembered
from efficient_matcher.records import Features, Frame, Matches

UPRIGHT = 0
IN_ORDER = (UPRIGHT, 1, 3, 2)  # cameras lie on their side more often than they stand on their head
FEW = 0.25  # matches, of the keypoints of the image that has fewer

Describe = Callable[[Frame, NDArray[np.float32]], NDArray[np.float32]]
MatchFeatures = Callable[[Features, Features], tuple[Matches, int]]


@dataclass(frozen=True)
class Turned:
    """Matches, the layer pairs that were run for them, and by how many quarters image 0 was turned counter-clockwise."""

    matches: Matches
    depth: int
    quarter_turns: int = UPRIGHT


@dataclass
class _Views:
    """Of one image: its features by quarter turns, and the turn that suited the pair before, to begin with."""

    by_turns: dict[int, Features] = field(default_factory=dict)
    last: int = UPRIGHT


class TurningMatcher:
    """Matches two sets of features, and image 0 turned where few of them match; upright alone without `Features.frame`.

    describe: descriptors [N,D] of a frame at points [N,2], input-image px. match: upright features to matches and depth.
    """

    def __init__(self, describe: Describe, match: MatchFeatures) -> None:
        self._describe, self._match = describe, match
        self._views: Remembered[_Views] = Remembered()

    def __call__(self, features0: Features, features1: Features) -> Turned:
        """The first turn with FEW matches or more, else the one with most. An image that goes on being matched, as a
        reference does, is described once in each turn, and asked in the last one that had as many first."""
        if features0.frame is None:
            return Turned(*self._match(features0, features1))
        views, enough = self._views_of(features0), FEW * min(len(features0), len(features1))
        tried = []
        for turns in (views.last, *(turns for turns in IN_ORDER if turns != views.last)):
            tried.append(self._matched(features0, features1, turns))
            if len(tried[-1].matches) >= enough:
                views.last = turns
                return tried[-1]
        return max(tried, key=lambda turned: len(turned.matches))

    def seen(self, features: Features, quarter_turns: int) -> Features:
        """The features of image 0 where they are, with the descriptors they were matched by, as long as their frame is known."""
        if quarter_turns == UPRIGHT or features.frame is None:
            return features
        return replace(features, descriptors=self._turned(features, quarter_turns).descriptors)

    def _matched(self, features0: Features, features1: Features, turns: int) -> Turned:
        return Turned(*self._match(self._turned(features0, turns), features1), turns)

    def _turned(self, features: Features, turns: int) -> Features:
        if turns == UPRIGHT:
            return features
        known = self._views_of(features).by_turns
        if turns not in known:
            frame = turned_frame(features.frame, turns)
            points = turned_points(features.keypoints, features.image_size, turns)
            known[turns] = replace(features, keypoints=points, descriptors=self._describe(frame, points),
                                   image_size=frame.input_size, frame=None)
        return known[turns]

    def _views_of(self, features: Features) -> _Views:
        views = self._views.get(features)
        if views is None:
            views = _Views()
            self._views.keep(features, views)
        return views


def turned_frame(frame: Frame, quarter_turns: int) -> Frame:
    """The frame turned counter-clockwise."""
    scale = frame.scale if quarter_turns % 2 == 0 else frame.scale[::-1]
    return replace(frame, image=np.ascontiguousarray(np.rot90(frame.image, quarter_turns)), scale=scale)


def turned_points(points: NDArray[np.float32], size: tuple[int, int], quarter_turns: int) -> NDArray[np.float32]:
    """Points [N,2] px of an image of size (width, height), where they lie once that is turned counter-clockwise."""
    x, y = points.T
    right, bottom = np.float32(size[0] - 1), np.float32(size[1] - 1)
    turned = ((x, y), (y, right - x), (right - x, bottom - y), (bottom - y, x))[quarter_turns % 4]
    return np.stack(turned, axis=1)
