"""Frame -> keypoints with descriptors: run the extractor, decode its score map.

The extractor answers with `scores` [1,H,W], the keypoint probability of every pixel, and
`descriptors` [1,H/8,W/8,D], unnormalised, one per cell of 8x8 pixels, channels last; floats, or
bytes of any scale of which BYTE_ZERO stands for zero. Everything here happens in pixels of the
frame (x right, y down, centres at integers); input-image pixels come last. Ties are broken by
raster order, so the same maps always give the same keypoints.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import ExtractConfig
from efficient_matcher.core import native
from efficient_matcher.core.backend import BYTE_ZERO, Arrays, Backend
from efficient_matcher.core.image import CELL
from efficient_matcher.core.locate import Locator
from efficient_matcher.errors import ImageError
from efficient_matcher.records import Features, Frame

CENTROID_REACH = 2  # sub-pixel positions come from (2 * 2 + 1)^2 pixels, as in training
MOST_TIES = 24  # equal peaks that are compared one by one
_STEPS = np.arange(-CENTROID_REACH, CENTROID_REACH + 1)
# Of a window: mass, x and y, and the squared distance from its middle.
_MOMENTS = np.array([(1, dx, dy, dx * dx + dy * dy) for dy in _STEPS for dx in _STEPS], np.float32)
LEAST_SPREAD = np.float32(0.02)  # px^2; a single pixel has none at all
MIRRORS = (1, -1), (-1, 1), (-1, -1)  # steps through rows and columns, beside the image itself
CANDIDATES = 1.5  # times the keypoints that are kept: with more, the sharp ones among them are the unlikely ones


class Extractor:
    """The extractor network and the decoding of its output.

    `config` may be replaced between calls. keep_frames: features know their frame. locator: says more exactly where
    keypoints lie, for bundles that have one.
    """

    def __init__(self, backend: Backend, config: ExtractConfig, keep_frames: bool = False,
                 locator: Locator | None = None) -> None:
        self.backend = backend
        self.config = config
        self._locator = locator
        self._keep_frames = keep_frames

    def __call__(self, frame: Frame) -> Features:
        """Features of a frame, keypoints in input-image pixels, best first; possibly none.

        Raises ImageError when the frame's sides are not multiples of 8.
        """
        outputs = self._run(frame)
        score_map = self._mean_of_mirrors(frame, outputs["scores"][0]) if self.config.mirrored else outputs["scores"][0]
        points, scores, spreads = detect(score_map, self.config)
        if self._locator is not None and self.config.locate and spreads is not None:
            points, spreads = self._locator(frame.image, points, spreads)
        descriptors = sample_descriptors(outputs["descriptors"][0], points)
        spreads = None if spreads is None else spreads * np.float32(sum(frame.scale) / 2)
        return Features(_to_input(points, frame.scale), scores, descriptors, frame.input_size, spreads,
                        frame if self._keep_frames else None)

    def describe(self, frame: Frame, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Descriptors [N,D] of a frame at points [N,2] that are known, input-image px. Raises as `__call__` does."""
        return sample_descriptors(self._run(frame)["descriptors"][0], _from_input(points, frame.scale))

    def _run(self, frame: Frame) -> Arrays:
        height, width = frame.image.shape
        if height % CELL or width % CELL:
            raise ImageError(f"frame is {width} x {height} pixels, sides must be multiples of {CELL}")
        return self.backend.run({"image": frame.image[None, None]})

    def _mean_of_mirrors(self, frame: Frame, score_map: NDArray[np.float32]) -> NDArray[np.float32]:
        """The score map [H,W] and those of the mirrored frames, laid over it: what the network makes of noise, and of where
        in its cell of 8x8 pixels a keypoint lies, differs between them."""
        total = score_map.copy()
        for rows, columns in MIRRORS:
            mirror = np.ascontiguousarray(frame.image[::rows, ::columns])
            total += self.backend.run({"image": mirror[None, None]})["scores"][0, ::rows, ::columns]
        return total / np.float32(1 + len(MIRRORS))


def detect(score_map: NDArray[np.float32], config: ExtractConfig) -> tuple[
        NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]:
    """Keypoints of a score map [H,W], best first: positions [N,2] in its pixels, scores [N], and what the standard
    deviations of the positions are proportional to [N].

    Threshold, border and the distance between keypoints refer to whole pixels; the sub-pixel step
    then moves each keypoint by up to 2 px. How far it ends up from where it belongs grows with how far the scores are
    spread about it: from the sharpest to the most blurred fifth of the keypoints, threefold, in proportion to the
    variance. So the best are those with the highest score for their variance. Without the step all are as good as a
    whole pixel, nothing is known, and the score alone decides.
    """
    kept, sharp_first = config.max_keypoints, config.subpixel and config.sharp_first
    sites = _peaks(score_map, config)[: int(CANDIDATES * kept) if sharp_first else kept]
    scores = score_map.ravel()[sites]
    if not config.subpixel:
        y, x = np.divmod(sites, score_map.shape[1])
        return np.column_stack([x, y]).astype(np.float32), scores, None
    points, spreads = _centroids(score_map, sites)
    if not sharp_first:
        return points, scores, spreads
    best = _best_first(np.arange(len(sites)), scores / spreads)[:kept]
    return points.take(best, axis=0), scores.take(best), spreads.take(best)


def sample_descriptors(
    coarse: NDArray[np.float32] | NDArray[np.uint8], points: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Unit descriptors [N,D] at points [N,2] (pixels) of a coarse map [H/8,W/8,D].

    Bilinear between cell centres, which lie at 8 i + 3.5 pixels; clamped at the border.
    """
    if native.available():
        return native.sample_descriptors(coarse, points, CELL, BYTE_ZERO if coarse.dtype == np.uint8 else 0)
    rows, columns, width = coarse.shape
    last = np.array([columns - 1, rows - 1])
    cells = np.clip((points - np.float32((CELL - 1) / 2)) / np.float32(CELL), 0, last.astype(np.float32))
    low = cells.astype(np.int64)
    to_right, to_below = (np.minimum(low + 1, last) - low).T * [[1], [columns]]
    right, down = (cells - low).astype(np.float32).T
    first = low[:, 1] * columns + low[:, 0]
    corners = np.stack([first, first + to_right, first + to_below, first + to_right + to_below], axis=1)
    shares = np.stack([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], axis=1)
    sampled = (shares[:, None] @ coarse.reshape(-1, width)[corners].astype(np.float32, copy=False))[:, 0]
    if coarse.dtype == np.uint8:
        sampled -= np.float32(BYTE_ZERO)  # the four weights sum to 1
    norms = np.sqrt(np.einsum("nd,nd->n", sampled, sampled))
    sampled /= np.maximum(norms, np.float32(1e-12))[:, None]
    return sampled


def _peaks(score_map: NDArray[np.float32], config: ExtractConfig) -> NDArray[np.int64]:
    """Flat indices of the pixels that are the best within the radius, best first; of equal ones in raster order."""
    least = np.float32(max(config.score_threshold, np.finfo(np.float32).tiny))  # a score of zero is never a keypoint
    radius, border, (height, width) = config.nms_radius_px, config.border_px, score_map.shape
    if native.available():
        return native.peaks(score_map, radius, float(least), border)
    sites = _largest_within(score_map, radius, least)
    y, x = np.divmod(sites, width)
    return sites[(x >= border) & (y >= border) & (x < width - border) & (y < height - border)]


def _largest_within(score_map: NDArray[np.float32], radius: int, least: np.float32) -> NDArray[np.int64]:
    sites = np.flatnonzero(score_map >= (_dilated(score_map, radius) if radius else least))
    scores = score_map.ravel()[sites]
    high = scores >= least  # of few sites; another pass over the whole map would cost more
    sites = _best_first(sites[high], scores[high])
    return _first_of_ties(score_map, sites, radius) if radius else sites


def _best_first(sites: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Sites by score, equal ones in raster order. Positive floats order as their bits do, so that one sort of whole
    numbers, score above and site below, does it in a third of a stable sort's time."""
    keys = ~scores.view(np.int32).astype(np.int64) << 32 | sites
    keys.sort()
    return keys & 0xFFFFFFFF


def _first_of_ties(score_map: NDArray[np.float32], sites: NDArray[np.int64], radius: int) -> NDArray[np.int64]:
    """Of equal peaks closer than the radius, those first in raster order; `sites` come best first, then by raster.

    Plateaus are the rule where a network is quantised or saturated. Equal ones stand side by side in `sites`, so that
    few comparisons find the near ones among them, but where so many are equal that unique ranks over the whole map
    decide faster.
    """
    scores = score_map.ravel()[sites]
    if (scores[MOST_TIES:] == scores[:-MOST_TIES]).any():
        return _first_by_rank(score_map, sites, radius)
    kept, (y, x) = np.ones(len(sites), bool), np.divmod(sites, score_map.shape[1])
    for step in range(1, MOST_TIES + 1):
        later = np.flatnonzero(scores[step:] == scores[:-step]) + step
        if not len(later):
            break
        near = (np.abs(x[later] - x[later - step]) <= radius) & (np.abs(y[later] - y[later - step]) <= radius)
        kept[later[near]] = False
    return sites[kept]


def _first_by_rank(score_map: NDArray[np.float32], sites: NDArray[np.int64], radius: int) -> NDArray[np.int64]:
    ranks = np.zeros(score_map.shape, np.float32)
    ranks.ravel()[np.sort(sites)] = np.arange(len(sites), 0, -1)
    return sites[ranks.ravel()[sites] == _dilated(ranks, radius).ravel()[sites]]


def _dilated(values: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    side = 2 * radius + 1
    return cv2.dilate(values, np.ones((side, side), np.uint8))


def _centroids(score_map: NDArray[np.float32],
               sites: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of peaks at flat indices [N] the centroids of the scores around them, [N,2] px, and the variance of the scores about
    these [N] px^2; windows end at the border."""
    reach, (height, width) = CENTROID_REACH, score_map.shape
    if native.available():
        return native.centroids(score_map, sites, reach, float(LEAST_SPREAD))
    (y, x), windows = np.divmod(sites, width), score_map
    points = np.column_stack([x, y]).astype(np.float32)
    if len(x) and min(x.min(), y.min(), width - 1 - x.max(), height - 1 - y.max()) < reach:
        windows, x, y, width = np.pad(score_map, reach), x + reach, y + reach, width + 2 * reach
    sites = (y * width + x)[:, None] + (_STEPS[:, None] * width + _STEPS).ravel()
    moments = windows.ravel().take(sites) @ _MOMENTS
    means = moments[:, 1:] / moments[:, :1]
    offsets = means[:, :2]
    return points + offsets, np.maximum(means[:, 2] - np.einsum("nd,nd->n", offsets, offsets), LEAST_SPREAD)


def _to_input(points: NDArray[np.float32], scale: tuple[float, float]) -> NDArray[np.float32]:
    if scale == (1, 1):
        return points
    return ((points + 0.5) * np.array(scale) - 0.5).astype(np.float32)


def _from_input(points: NDArray[np.float32], scale: tuple[float, float]) -> NDArray[np.float32]:
    return ((points + 0.5) / np.array(scale) - 0.5).astype(np.float32)
