"""The assignment held against the motion of neighbouring matches.

The network says which keypoints look and lie alike; a scene also moves together. Around each keypoint of image 0 the
likely matches nearby say where it should be in image 1: an affine map, fitted twice, the second time without the say of
matches that their neighbours contradict (one round of the expectation maximisation in Ma et al., "Robust point
matching via vector field consensus", 2014, with local maps in place of one smooth field). By Bayes' rule a partner
where the neighbours point gains, a lookalike elsewhere loses. Nothing is assumed of the scene as a whole: no plane, no single motion.

N and M are the keypoints of images 0 and 1, C the likely matches; points are [.,2] px.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import GeometryConfig
from efficient_matcher.core import native
from efficient_matcher.core.geometry import rough_homography, warp_points
from efficient_matcher.core.local_maps import DIAGONAL_PX, NOTHING, TINY, LocalMaps, constants, some_of
from efficient_matcher.records import Matches

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]

LEAST_LIKELY = 0.05  # mutual matches less probable say nothing of the motion
LEAST_MATCHES = 8  # fewer say too little
MOST_MATCHES = 120  # more say no more; of these every so many are asked
NEIGHBOURS = 6  # the distance of this one is the reach of a match's neighbourhood
SURE = 0.7  # mean probability of the likely matches above which their neighbours need no beginning
BEGINNING = GeometryConfig(threshold_px=6.0, min_inliers=LEAST_MATCHES, max_iterations=1000)
SHARED_PX = 20.0  # a match this near to where that homography puts it shares it
ELSEWHERE = np.float32(0.01)  # what the others count at first
SPREAD_PX = 20.0  # of matches about where their neighbours put them, while it is asked which of them agree
# and at last: close where the scene is smooth, which brings partners back; half of them far, as at a depth edge, where
# what the network is sure of must not fall
CLOSE_PX, FAR_PX = 5.0, 40.0
LOOKALIKES = 40.0  # how much denser than evenly over the image a wrong partner's places are taken to be
LEAST_ENTRY = 0.02  # of the assignment; what is smaller does not become a match
_CONSTANTS = native.Motion(constants(NEIGHBOURS), SPREAD_PX, LOOKALIKES, CLOSE_PX, FAR_PX)


@dataclass(frozen=True)
class Side:
    """Keypoints [N,2] of one image, in input-image px, and the image's (width, height)."""

    keypoints: NDArray[np.floating]
    size: tuple[int, int]

    @property
    def places(self) -> Floats:
        """The keypoints as if the image had the diagonal DIAGONAL_PX."""
        return (self.keypoints * np.float32(DIAGONAL_PX / hypot(*self.size))).astype(np.float32, copy=False)

    @property
    def area(self) -> float:
        """Of the image, in the same unit."""
        return self.size[0] * self.size[1] * DIAGONAL_PX**2 / (self.size[0] ** 2 + self.size[1] ** 2)


def consistent_matches(values: Floats, side0: Side, side1: Side, threshold: float) -> Matches:
    """The mutual matches of an assignment [N+1,M+1] once the neighbours' motion is known, best first.

    The scores are the probabilities after the motion, and at least `threshold`. Without LEAST_MATCHES likely ones
    they are those of the assignment.
    """
    rows, columns, chances, asked, row = _entries(values)
    counts = values.shape[0] - 1, values.shape[1] - 1
    likely = _mutual(rows, columns, chances, counts, LEAST_LIKELY)
    if len(likely) < LEAST_MATCHES:
        return _matches(rows, columns, chances, likely[chances[likely] >= threshold])
    telling = some_of(likely, MOST_MATCHES)
    near = _reweighed(chances, row, telling, side0.places.take(asked, axis=0), side1.places.take(columns, axis=0),
                      LOOKALIKES * values[asked, -1], side1.area)
    return _matches(rows, columns, near, _mutual(rows, columns, near, counts, threshold))


def _reweighed(chances: Floats, row: Indices, telling: Indices, places0: Floats, places1: Floats, alone: Floats,
               area: float) -> Floats:
    """The chances [E] of entries, of keypoints `row` [E] at places0 [Q,2] and with partners at places1 [E,2], once the
    entries `telling` [C] have told the motion. alone [Q]: how likely a keypoint has no partner, times LOOKALIKES."""
    begins, ends, scores = row.take(telling), places1.take(telling, axis=0), chances.take(telling)
    begun = _begun(scores, places0.take(begins, axis=0), ends)
    if native.available():
        return native.reweighed(chances, row, places1, places0, alone, telling, begun, area, _CONSTANTS)
    maps = LocalMaps(places0, begins, ends, NEIGHBOURS)
    expected, unsure = _expected(maps, scores, begun, ends, area)
    apart = places1 - expected[row]
    near = chances * 0.5 * sum(_density(apart, spread * spread * unsure[row], area) for spread in (CLOSE_PX, FAR_PX))
    return near / (np.bincount(row, near) + alone)[row]


def _begun(scores: Floats, points0: Floats, points1: Floats) -> Floats:
    """How likely matches [C] are at first: where many are wrong, those that share one homography are believed. That is
    no more than a beginning, as all matches are asked anew."""
    if scores.sum() > SURE * len(scores):
        return scores
    H = rough_homography(points0, points1, BEGINNING)
    if H is None:
        return scores
    x, y = (warp_points(points0, H) - points1).T
    with np.errstate(invalid="ignore"):  # NaN, beyond the horizon, is not near
        near = x * x + y * y < SHARED_PX**2
    if np.count_nonzero(near) < LEAST_MATCHES:
        return scores
    return scores * np.where(near, np.float32(1), ELSEWHERE)


def _expected(maps: LocalMaps, scores: Floats, weights: Floats, ends: Floats, area: float) -> tuple[Floats, Floats]:
    """Places [Q,2] in image 1 where the keypoints are expected, and by what factor [Q] the variance about these is
    larger for want of neighbours. scores: how likely the matches [C] are, weights: what they count at first, ends:
    [C,2], where they end."""
    common = maps.common_slopes(weights)
    expected, support = maps.expected_of_matches(weights, common)
    agreeing = scores * _density(ends - expected, SPREAD_PX**2 * (1 + 0.5 / support), area)
    expected, support = maps.expected(agreeing / (agreeing + LOOKALIKES * (1 - scores) + TINY), common)
    return expected, 1 + 0.5 / support


def _density(apart: Floats, variance: Floats, area: float) -> Floats:
    """How much denser than evenly over the image partners lie so far [.,2] from where they are expected."""
    squared = apart[:, 0] ** 2 + apart[:, 1] ** 2
    return np.exp(np.maximum(squared * (-0.5 / variance), NOTHING)) * (np.float32(area / (2 * np.pi)) / variance)


def _entries(values: Floats) -> tuple[Indices, Indices, Floats, Indices, Indices]:
    """Rows (ascending), columns and values of the assignment's entries that may become matches; the rows that have any;
    and which of these each entry is in."""
    if native.available():
        return native.entries(values, LEAST_ENTRY)
    rows, columns = np.divmod(np.flatnonzero(values.ravel() > LEAST_ENTRY), values.shape[1])
    inner = (rows < values.shape[0] - 1) & (columns < values.shape[1] - 1)
    rows, columns = rows[inner], columns[inner]
    first = np.diff(rows, prepend=-1) > 0
    return rows, columns, values[rows, columns], rows[first], np.cumsum(first) - 1


def _mutual(rows: Indices, columns: Indices, scores: Floats, counts: tuple[int, int], threshold: float) -> Indices:
    """Which of the entries, given by row and column, are the best of both and at least `threshold`, best first. counts:
    of rows and columns."""
    if native.available():
        return native.mutual(rows, columns, scores, *counts, threshold)
    chosen = np.flatnonzero(scores >= threshold)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    return chosen[_comes_first(rows[chosen]) & _comes_first(columns[chosen])]


def _comes_first(values: Indices) -> NDArray[np.bool_]:
    """Which of them no equal one precedes."""
    places = np.arange(len(values))
    first = np.empty(values.max(initial=-1) + 1, np.intp)
    first[values[::-1]] = places[::-1]  # of several written to one place, the last one stays
    return first[values] == places


def _matches(rows: Indices, columns: Indices, scores: Floats, which: Indices) -> Matches:
    indices = np.empty((len(which), 2), np.int32)
    indices[:, 0], indices[:, 1] = rows.take(which), columns.take(which)
    return Matches(indices, np.minimum(scores.take(which), np.float32(1)))
