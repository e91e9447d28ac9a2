"""Matches -> the same matches at sub-pixel agreement, and matches that the networks missed beside them.

What is seen around a keypoint decides where its partner in image 1 lies; keypoints of image 0 stay, so that a frame's
keypoints are the same in every pair. A point moves only where that is not far, and the place has texture in both
directions and looks the same in both images; else it stays where the networks put it. How far it moves is weighed
against how sure the networks are; asking beside that for a significant gain left points worse than moving all. What
looks the same under one affine map is locally a plane.

Everything here is in pixels of the frames but `Matches`, whose points are in those of the input images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import RefineConfig
from efficient_matcher.core.align import BOX_UP_TO, Alignment, align, blurred, detail
from efficient_matcher.core.motion import homography_motions, local_motions, project, zoom
from efficient_matcher.core.remembered import Remembered
from efficient_matcher.records import Features, Frame, Matches

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Grey = NDArray[np.uint8]

AGREEING_PX = 4.0  # from a first homography, for its motion to hold: pixels of the coarser image
# Of the matches that the images confirm, so many may lie off the homography in what is taken for one plane: pairs of
# views of a plane, degraded too, had up to 1 %; those of synthetic rooms and boxes mostly over 10 %.
MOST_OFF_PLANE = 0.03
LEAST_SHARPNESS = 1.5  # how much surer than the prior the patch must be where it says least


@dataclass(frozen=True)
class View:
    """The two images of a pair and what was found in them."""

    frame0: Frame
    frame1: Frame
    features0: Features
    features1: Features

    def points(self, matches: Matches) -> tuple[Array, Array]:
        """Matched points [K,2] in frame 0 and frame 1 pixels."""
        points0, points1 = self.input_points(matches)
        return _to_frame(points0, self.frame0), _to_frame(points1, self.frame1)

    def input_points(self, matches: Matches) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The same in input-image pixels."""
        return matches.positions(self.features0, self.features1)

    def in_frames(self, H_0to1: Array | None) -> Array | None:
        """A homography of input-image pixels as one of frame pixels."""
        return None if H_0to1 is None else np.linalg.inv(_lift(self.frame1)) @ H_0to1 @ _lift(self.frame0)


class Refiner:
    """Refines the matches of one pair; both images are blurred once, for the zoom of the first matches it sees.

    blurs: what is known from other pairs of the same frames; of a camera's frames each is in two, as the second and then
    as the first.
    """

    def __init__(self, view: View, config: RefineConfig, blurs: Remembered[Grey] | None = None) -> None:
        self._view, self._config = view, config
        self._off_plane_share = 0.0
        self._images: tuple[Grey, Grey] | None = None
        self._blurs = Remembered() if blurs is None else blurs

    def refine(self, matches: Matches, H_0to1: Array | None) -> Matches:
        """The matches with points0 and points1 [K,2] px set; H_0to1: a first robust homography, input px, or None.

        Indices, scores and their order stay. No matches, flat images or points at the border are normal input.
        """
        view = self._view
        points0, points1 = view.points(matches)
        motions, known, agreeing = local_motions(points0, points1, view.in_frames(H_0to1), AGREEING_PX)
        moved, alike = self._moved(points0, points1, motions, known)
        self._off_plane_share = np.count_nonzero(alike & ~agreeing) / max(1, np.count_nonzero(alike))
        return _at(view, matches, moved)

    def guide(self, matches: Matches, H_0to1: Array, score: float) -> Matches:
        """The matches, then those of the keypoints left over that H_0to1 and both images confirm, refined alike.

        A match is added when the two are each other's most similar of all left over within config.guided_radius_px
        of where H puts them (pixels of the coarser image), their descriptors' cosine is at least
        config.guided_min_similarity, and their patches correlate. It scores the cosine times `score`, which no other
        match should be below. Nothing is added once `refine` has seen that the scene is not one plane: matches of one
        plane alone would outweigh all others in what is estimated from them.
        """
        if self._off_plane_share > MOST_OFF_PLANE:
            return matches
        view = self._view
        H = view.in_frames(H_0to1)
        indices, cosines = _guided_pairs(view, matches.indices, H, self._config)
        if not len(indices):
            return matches
        found = Matches(indices, cosines * np.float32(score))
        points0, points1 = view.points(found)
        motions, known = homography_motions(points0, points1, H, self._config.guided_radius_px)
        moved, alike = self._moved(points0, points1, motions, known)
        return _joined(view, matches, _kept(_at(view, found, moved), alike))

    def _moved(self, points0: Array, points1: Array, motions: Array, known: Bools) -> tuple[Array, Bools]:
        """points1 [K,2] after refinement, and which patches look alike [K]; frame px."""
        chosen = np.flatnonzero(known)
        moved, alike = points1.copy(), np.zeros(len(points1), bool)
        if not len(chosen):
            return moved, alike
        if self._images is None:
            ratio0, ratio1 = detail(motions[chosen])
            self._images = self._blurred(self._view.frame0, ratio0), self._blurred(self._view.frame1, ratio1)
        given = (array[chosen].astype(np.float32) for array in (points0, points1, motions))
        found = align(*self._images, *given, self._config.prior_px)
        alike[chosen] = found.seen & (found.correlation >= self._config.min_correlation)
        better = alike[chosen] & _is_sure(found, self._config)
        moved[chosen[better]] += found.move[better]
        return moved, alike

    def _blurred(self, frame: Frame, ratio: float) -> Grey:
        if ratio >= BOX_UP_TO:
            return blurred(frame.image, ratio)
        known = self._blurs.get(frame)
        if known is None:
            known = blurred(frame.image, ratio)
            self._blurs.keep(frame, known)
        return known


def _is_sure(found: Alignment, config: RefineConfig) -> Bools:
    textured = found.sharpness > (LEAST_SHARPNESS / config.prior_px) ** 2
    return (found.length < config.max_move_px) & textured


def _guided_pairs(view: View, taken: NDArray[np.int32], H: Array,
                  config: RefineConfig) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Index pairs [A,2] of keypoints without a match, most similar first, and their cosines [A]."""
    free0, free1 = _left_over(len(view.features0), taken[:, 0]), _left_over(len(view.features1), taken[:, 1])
    places, slopes = project(_to_frame(view.features0.keypoints[free0], view.frame0), H)
    points1 = _to_frame(view.features1.keypoints[free1], view.frame1).astype(np.float32)
    height, width = view.frame1.image.shape
    seen = ((places >= 0) & (places <= (width - 1, height - 1))).all(1)  # NaN is not seen
    free0, places = free0[seen], places[seen].astype(np.float32)
    reach = config.guided_radius_px * np.maximum(1, zoom(slopes[seen]))
    far = np.subtract.outer(places[:, 0], points1[:, 0]) ** 2
    far += np.subtract.outer(places[:, 1], points1[:, 1]) ** 2
    near = far < (reach**2)[:, None]
    rows, columns = np.nonzero(near)
    if not len(rows):
        return np.zeros((0, 2), np.int32), np.zeros(0, np.float32)
    cosines = np.full(near.shape, -2, np.float32)
    cosines[rows, columns] = np.einsum("ad,ad->a", view.features0.descriptors[free0[rows]],
                                       view.features1.descriptors[free1[columns]])
    best = cosines.argmax(1)[rows] == columns
    best &= (cosines.argmax(0)[columns] == rows) & (cosines[rows, columns] >= config.guided_min_similarity)
    rows, columns = rows[best], columns[best]
    values = cosines[rows, columns]
    order = np.argsort(-values, kind="stable")
    return np.column_stack([free0[rows], free1[columns]])[order].astype(np.int32), np.clip(values[order], 0, 1)


def _left_over(count: int, taken: NDArray[np.int32]) -> NDArray[np.intp]:
    free = np.ones(count, bool)
    free[taken] = False
    return np.flatnonzero(free)


def _at(view: View, matches: Matches, points1: Array) -> Matches:
    """Matches whose points in frame 1 are points1 [K,2]; those that did not move keep theirs to the last digit."""
    before0, before1 = view.input_points(matches)
    still = (points1 == _to_frame(before1, view.frame1)).all(1, keepdims=True)
    after1 = np.where(still, before1, _to_input(points1, view.frame1)).astype(np.float32)
    return replace(matches, points0=before0, points1=after1)


def _kept(matches: Matches, which: Bools) -> Matches:
    return Matches(matches.indices[which], matches.scores[which], matches.points0[which], matches.points1[which])


def _joined(view: View, first: Matches, second: Matches) -> Matches:
    points0, points1 = view.input_points(first)
    pairs = ((first.indices, second.indices), (first.scores, second.scores), (points0, second.points0),
             (points1, second.points1))
    return Matches(*(np.concatenate(pair) for pair in pairs))


def _to_frame(points: NDArray[np.float32], frame: Frame) -> Array:
    if frame.scale == (1, 1):
        return points.astype(np.float64)
    return (points.astype(np.float64) + 0.5) / frame.scale - 0.5


def _to_input(points: Array, frame: Frame) -> Array:
    if frame.scale == (1, 1):
        return points
    return (points + 0.5) * frame.scale - 0.5


def _lift(frame: Frame) -> Array:
    """Frame pixels to input pixels, [3,3]."""
    (x, y) = frame.scale
    return np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1.0]])
