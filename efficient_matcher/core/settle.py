"""Matched points of image 1, settled among their neighbours.

Each match is off by its own noise, while what it shows of the scene's motion it shares with the matches around it. So
beyond the homography that was fitted, an affine map of each neighbourhood says where a point should be, and the point
moves there by as much as its own noise outweighs what the surface itself leaves unexplained, which is what the
neighbours are apart beyond their noise (empirical Bayes: Efron and Morris, "Stein's estimation rule and its
competitors", 1973; the maps are those of Cleveland's robust locally weighted regression, 1979). What is left over is
asked for a second plane, and a third. On a plane the noise of many is averaged out; at a depth edge, or where the
surface is rough, points stay. Points that their neighbours plainly contradict stay as well: settling makes no wrong
match a right one.

Errors of settled points are no longer independent. So fits that weigh each match by its own noise, as this package's
do, take the points as they were measured; estimators that count matches within a threshold, as RANSAC does, gain.

K matches; points are [K,2] px.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import hypot

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import GeometryConfig
from efficient_matcher.core import native
from efficient_matcher.core.geometry import rough_homography, warp_points
from efficient_matcher.core.local_maps import DIAGONAL_PX, LocalMaps, constants, some_of
from efficient_matcher.core.motion import project, zoom
from efficient_matcher.records import Features, Homography, Matches

Array = NDArray[np.float64]
Floats = NDArray[np.float32]
Indices = NDArray[np.intp]

NOISE = 0.4  # standard deviation of a keypoint's place along an axis, by its spread: 0.25 on clean pictures, 0.5 on noisy ones
REFINED_NOISE = 0.2  # the same of a match that the images have placed
USUAL_SPREAD = 1.0  # px, of keypoints whose own is not known
LEAST_VARIANCE = 1e-4  # px^2
LEAST_MATCHES = 8  # fewer say too little
MOST_MATCHES = 80  # of which every so many are asked
PLANES = 3  # that are looked for
MOST_ITERATIONS = 300  # of the search for each but the first
LEAST_OF_PLANE = 16  # matches of another plane; fewer may agree by chance
NEIGHBOURS = 12  # the distance of this one is the reach of a match's neighbourhood
ROUNDS = 2  # of asking which matches agree with their neighbours
AGREEING = 2.0  # by how many times its variance a match may be off before it loses most of its say
CONTRADICTED = 8.0  # standard deviations from where its neighbours put it; such a point stays
_PLANE = np.zeros((2, 1), np.float32), np.zeros((2, 1), np.float32)  # slopes of what is left beyond the homography
_CONSTANTS = native.Settling(constants(NEIGHBOURS), AGREEING, CONTRADICTED, LEAST_VARIANCE, ROUNDS, MOST_MATCHES,
                             LEAST_MATCHES)


@dataclass(frozen=True)
class _Points:
    """Matched points [K,2] px and their standard deviations along an axis [K] px. far: the diagonal of image 1, px; unit:
    what makes lengths in image 0 those of `local_maps`."""

    points0: Floats
    points1: Floats
    deviations0: Floats
    deviations1: Floats
    unit: float
    far: float

    def of(self, which: Indices) -> _Points:
        return replace(self, points0=self.points0[which], points1=self.points1[which],
                       deviations0=self.deviations0[which], deviations1=self.deviations1[which])


def settle(matches: Matches, features0: Features, features1: Features, homography: Homography,
           config: GeometryConfig) -> Floats | None:
    """Points of image 1, [K,2] px, settled among their neighbours; None without a homography, or with too few matches.

    homography: of these matches, by this config, whose threshold_px says how near to a plane its matches are.
    """
    if homography.matrix is None or len(matches) < LEAST_MATCHES:
        return None
    points = _points(matches, features0, features1)
    settled = _settled(points, homography.matrix, config.threshold_px)
    if settled is None:
        return None
    rest = np.flatnonzero(~homography.inliers)
    search = replace(config, max_iterations=min(MOST_ITERATIONS, config.max_iterations))
    for _ in range(PLANES - 1):
        if len(rest) < LEAST_OF_PLANE:
            break
        left = points.of(rest)
        H = rough_homography(left.points0, left.points1, search)
        if H is None:
            break
        near = np.linalg.norm(warp_points(left.points0, H) - left.points1, axis=1) < config.threshold_px  # False for NaN
        found = _settled(left, H, config.threshold_px) if np.count_nonzero(near) >= LEAST_OF_PLANE else None
        if found is None:
            break
        settled[rest[near]] = found[near]
        rest = rest[~near]
    return settled


def _points(matches: Matches, features0: Features, features1: Features) -> _Points:
    points0, points1 = matches.positions(features0, features1)
    spreads = [np.full(len(own), USUAL_SPREAD, np.float32) if features.spreads is None else features.spreads.take(own)
               for features, own in zip((features0, features1), matches.indices.T)]
    noise: np.float32 | Floats = np.float32(NOISE)
    if matches.points1 is not None:
        still = (points1 == features1.keypoints.take(matches.indices[:, 1], axis=0)).all(1)
        noise = np.where(still, noise, np.float32(REFINED_NOISE))
    return _Points(points0, points1, *[noise * own for own in spreads],
                   unit=DIAGONAL_PX / hypot(*features0.image_size), far=hypot(*features1.image_size))


def _settled(points: _Points, H: Array, threshold: float) -> Floats | None:
    """points1 [K,2] settled beyond a homography [3,3]; None where it says of too few where they should be."""
    if native.available():
        return native.settled(points.points0, points.points1, points.deviations0, points.deviations1, H, points.unit,
                              threshold, points.far, _CONSTANTS)
    residuals, zooms = _residuals(points.points0, points.points1, H, points.far)
    known = np.flatnonzero(np.isfinite(residuals[:, 0]))
    if len(known) < LEAST_MATCHES:
        return None
    variances = np.square(points.deviations0) * zooms + np.square(points.deviations1) + np.float32(LEAST_VARIANCE)
    return points.points1 + _moves(points.points0 * np.float32(points.unit), residuals, variances, known, threshold)


def _residuals(points0: Floats, points1: Floats, H: Array, far: float) -> tuple[Floats, Floats]:
    """What points 1 are off a homography, [K,2] px, NaN beyond its horizon or where that is farther than `far`; and by how
    much it magnifies areas there [K]."""
    places, slopes = project(points0.astype(np.float64), H)
    residuals = points1 - places
    known = np.square(residuals).sum(1) < far**2  # False for NaN
    return np.where(known[:, None], residuals, np.nan).astype(np.float32), np.square(zoom(slopes)).astype(np.float32)


def _moves(places0: Floats, residuals: Floats, variances: Floats, known: Indices, threshold: float) -> Floats:
    """How far points move, [K,2], by what their matches are off the homography, residuals [K,2]; `known` ones. places0:
    [K,2]."""
    telling = some_of(known, MOST_MATCHES)
    maps = LocalMaps(places0, telling, residuals[telling], NEIGHBOURS)
    usual = np.float32(len(known)) / (1 / variances[known]).sum()
    agreeing, relief = _agreement(np.square(residuals).sum(1) / np.float32(threshold**2)), np.zeros_like(variances)
    for _ in range(ROUNDS):
        weights = agreeing * usual / (variances + relief)
        expected, support = maps.expected(weights[telling], _PLANE)
        unsure = usual / support
        squared = np.square(residuals - expected).sum(1)
        agreeing = _agreement(squared / (2 * AGREEING * (variances + relief + unsure)))
        relief = np.maximum(maps.mean((squared / 2 - variances)[telling], agreeing[telling]), 0)
    trusted = squared < CONTRADICTED**2 * (variances + relief + unsure)  # no NaN is
    share = variances / (variances + relief + unsure)
    return np.where(trusted[:, None], share[:, None] * (expected - residuals), 0).astype(np.float32)


def _agreement(squared: Floats) -> Floats:
    """How far matches are believed that are so far off, squared."""
    return 1 / (1 + squared) ** 2
