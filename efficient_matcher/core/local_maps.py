"""How the surroundings of keypoints move: an affine map for each, that some matches nearby agree on.

Points are [.,2] px; Q of them are asked about, of which the C matches begin at some. Each match counts for as much as
it is near, and for its weight.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core import native

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]
Slopes = tuple[Floats, Floats]  # how both coordinates grow along x [2,.] and along y [2,.], per UNIT_PX

DIAGONAL_PX = 800.0  # lengths below are of images this large, from corner to corner
UNIT_PX = 80.0  # of coordinates, so that their squares keep their digits
STIFFNESS = 0.02, 0.3  # of the local maps towards the common one: as such, and for want of neighbours
TINY = np.float32(1e-6)
NOTHING = np.float32(-30)  # as a logarithm; smaller numbers would be too small for a float's full digits, and slow


class LocalMaps:
    """Where points of image 0 go, by the matches among them."""

    def __init__(self, places0: Floats, begins: Indices, ends: Floats, neighbours: int) -> None:
        """places0: [Q,2]. begins: [C], those that matches begin at; ends: [C,2], where these end, or any other quantity
        of two numbers. neighbours: the distance of this one is the reach of a match's neighbourhood."""
        self._begins, self._neighbours = begins, neighbours
        self._middle = ends.mean(0)
        self._xy = np.ascontiguousarray((places0 - places0[begins].mean(0)).T) / UNIT_PX
        (x, y), (u, v) = self._xy[:, begins], (ends - self._middle).T
        self._moments = np.stack([np.ones_like(x), x, y, u, v, x * x, x * y, y * y, u * x, v * x, u * y, v * y])
        squared = self._distances()
        reach = self._reach(squared)
        squared *= -0.5 / reach
        squared[np.arange(len(begins)), begins] = NOTHING  # no match has a say on itself
        self._closeness = cv2.exp(np.maximum(squared, NOTHING, out=squared))  # what each match counts for each point
        self._own = self._closeness[:, begins]
        self._slack = STIFFNESS[1] * reach

    def common_slopes(self, weights: Floats) -> Slopes:
        """Of all matches together, by weight [C]."""
        return _slopes(*_spreads(_means(self._moments @ weights[:, None])))

    def expected(self, weights: Floats, common: Slopes) -> tuple[Floats, Floats]:
        """Where the points [Q,2] are expected, by the affine maps of their neighbourhoods, which are drawn towards slopes in
        common; and how much weight [Q] says so. weights: [C]."""
        return self._expected(slice(None), self._closeness, weights, common)

    def expected_of_matches(self, weights: Floats, common: Slopes) -> tuple[Floats, Floats]:
        """The same of the points [C] that matches begin at."""
        return self._expected(self._begins, self._own, weights, common)

    def mean(self, values: Floats, weights: Floats) -> Floats:
        """Of what is known of the matches, values [C], the mean around each point [Q], by weight [C]."""
        return (weights * values) @ self._closeness / (weights @ self._closeness + TINY)

    def _distances(self) -> Floats:
        """Squared, from the matches to the points, [C,Q] in squares of UNIT_PX."""
        lengths = np.einsum("dq,dq->q", self._xy, self._xy)
        squared = (np.float32(-2) * self._xy[:, self._begins]).T @ self._xy
        squared += lengths
        squared += lengths[self._begins, None]
        return squared

    def _reach(self, squared: Floats) -> Floats:
        """Of each point's neighbourhood, squared [Q]: that of the match next to it and the way there. Looking for each
        point's own neighbours takes longer and matches no better."""
        last, nearest = min(self._neighbours, len(squared) - 1), squared.argmin(0)
        own = np.partition(squared[:, self._begins], last, axis=1)[:, last]
        way = squared[nearest, np.arange(len(nearest))]
        reach = np.sqrt(np.maximum(own, 0))[nearest] + np.sqrt(np.maximum(way, 0))
        return np.maximum(reach * reach, np.float32(UNIT_PX**-2))

    def _expected(self, points: Indices | slice, closeness: Floats, weights: Floats,
                  common: Slopes) -> tuple[Floats, Floats]:
        """By weighted least squares, written out, as a call for each of so small systems costs more than solving it."""
        sums = (weights * self._moments) @ closeness
        mean, support = _means(sums), sums[0] + TINY
        stiffness = STIFFNESS[0] + self._slack[points] / support
        along_x, along_y, xx, xy, yy = _spreads(mean)
        by_x, by_y = _slopes(along_x + stiffness * common[0], along_y + stiffness * common[1],
                             xx + stiffness, xy, yy + stiffness)
        apart = self._xy[:, points] - mean[1:3]
        expected = mean[3:5] + by_x * apart[0] + by_y * apart[1]
        return expected.T + self._middle, support


def constants(neighbours: int) -> native.Maps:
    """Of these maps, as compiled loops need them."""
    return native.Maps(UNIT_PX, *STIFFNESS, TINY, NOTHING, neighbours)


def some_of(matches: Indices, most: int) -> Indices:
    """`most` of them at most, every so many."""
    return matches[::-(-len(matches) // most) or 1]


def _means(sums: Floats) -> Floats:
    """Moments [12,Q] by weight."""
    return sums / (sums[0] + TINY)


def _spreads(mean: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """From mean moments [12,Q] how the ends vary with x and with y [2,Q], and the variances and covariance [Q]."""
    x, y, ends = mean[1], mean[2], mean[3:5]
    return (mean[8:10] - ends * x, mean[10:12] - ends * y,
            mean[5] - x * x + TINY, mean[6] - x * y, mean[7] - y * y + TINY)


def _slopes(along_x: Floats, along_y: Floats, xx: Floats, xy: Floats, yy: Floats) -> Slopes:
    """Along x and along y [2,Q], of two quantities that vary with both by along_x, along_y [2,Q]."""
    determinant = xx * yy - xy * xy
    return (along_x * yy - along_y * xy) / determinant, (along_y * xx - along_x * xy) / determinant
