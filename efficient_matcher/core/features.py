"""Frame -> keypoints with descriptors: run the extractor, decode its score map.

The extractor answers with `scores` [1,H,W], the keypoint probability of every pixel, and
`descriptors` [1,H/8,W/8,D], unnormalised, one per cell of 8x8 pixels, channels last. Everything
here happens in pixels of the frame (x right, y down, centres at integers); input-image pixels come
last. Ties are broken by raster order, so the same maps always give the same keypoints.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import ExtractConfig
from efficient_matcher.core.backend import Backend
from efficient_matcher.core.image import CELL
from efficient_matcher.errors import ImageError
from efficient_matcher.records import Features, Frame

CENTROID_REACH = 2  # sub-pixel positions come from (2 * 2 + 1)^2 pixels, as in training
_STEPS = np.arange(-CENTROID_REACH, CENTROID_REACH + 1)
_MOMENTS = np.array([(1, dx, dy) for dy in _STEPS for dx in _STEPS], np.float32)  # mass, x and y of a window


class Extractor:
    """The extractor network and the decoding of its output.

    `config` may be replaced between calls.
    """

    def __init__(self, backend: Backend, config: ExtractConfig) -> None:
        self.backend = backend
        self.config = config

    def __call__(self, frame: Frame) -> Features:
        """Features of a frame, keypoints in input-image pixels, best first; possibly none.

        Raises ImageError when the frame's sides are not multiples of 8.
        """
        height, width = frame.image.shape
        if height % CELL or width % CELL:
            raise ImageError(f"frame is {width} x {height} pixels, sides must be multiples of {CELL}")
        outputs = self.backend.run({"image": frame.image[None, None]})
        points, scores = detect(outputs["scores"][0], self.config)
        descriptors = sample_descriptors(outputs["descriptors"][0], points)
        return Features(_to_input(points, frame.scale), scores, descriptors, frame.input_size)


def detect(score_map: NDArray[np.float32], config: ExtractConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Keypoints of a score map [H,W]: positions [N,2] in its pixels and scores [N], sorted by score descending.

    Threshold, border and the distance between keypoints refer to whole pixels; the sub-pixel step
    then moves each keypoint by up to 2 px.
    """
    sites = _peaks(score_map, config)
    scores = score_map.ravel()[sites]
    best = _top(scores, config.max_keypoints)
    y, x = np.divmod(sites[best], score_map.shape[1])
    points = np.column_stack([x, y]).astype(np.float32)
    if config.subpixel:
        points += _centroid_offsets(score_map, x, y)
    return points, scores[best]


def sample_descriptors(coarse: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit descriptors [N,D] at points [N,2] (pixels) of a coarse map [H/8,W/8,D].

    Bilinear between cell centres, which lie at 8 i + 3.5 pixels; clamped at the border.
    """
    rows, columns, width = coarse.shape
    last = np.array([columns - 1, rows - 1])
    cells = np.clip((points - np.float32((CELL - 1) / 2)) / np.float32(CELL), 0, last.astype(np.float32))
    low = cells.astype(np.int64)
    high = np.minimum(low + 1, last)
    x = np.column_stack([low[:, 0], high[:, 0], low[:, 0], high[:, 0]])
    y = np.column_stack([low[:, 1], low[:, 1], high[:, 1], high[:, 1]])
    right, down = (cells - low).astype(np.float32).T
    weights = np.column_stack([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down])
    corners = coarse.reshape(-1, width).take(y * columns + x, axis=0)
    sampled = np.matmul(weights[:, None], corners)[:, 0]
    norms = np.sqrt(np.einsum("nd,nd->n", sampled, sampled))
    sampled /= np.maximum(norms, np.float32(1e-12))[:, None]
    return sampled


def _peaks(score_map: NDArray[np.float32], config: ExtractConfig) -> NDArray[np.int64]:
    """Flat indices, in raster order, of the pixels that are the best within the radius."""
    least = np.float32(max(config.score_threshold, np.finfo(np.float32).tiny))  # a score of zero is never a keypoint
    candidates = score_map >= least
    if config.nms_radius_px:
        candidates &= score_map >= _dilated(score_map, config.nms_radius_px)
    sites = np.flatnonzero(candidates)
    if config.nms_radius_px and len(np.unique(score_map.ravel()[sites])) < len(sites):
        sites = _first_of_ties(score_map, sites, config.nms_radius_px)
    y, x = np.divmod(sites, score_map.shape[1])
    border, (height, width) = config.border_px, score_map.shape
    return sites[(x >= border) & (y >= border) & (x < width - border) & (y < height - border)]


def _first_of_ties(score_map: NDArray[np.float32], sites: NDArray[np.int64], radius: int) -> NDArray[np.int64]:
    """Of equal peaks closer than the radius, those first in raster order.

    Plateaus are the rule where a network is quantised or saturated; unique ranks decide there.
    """
    ranks = np.zeros(score_map.shape, np.float32)
    ranks.ravel()[sites] = np.arange(len(sites), 0, -1)
    return sites[ranks.ravel()[sites] == _dilated(ranks, radius).ravel()[sites]]


def _dilated(values: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    side = 2 * radius + 1
    return cv2.dilate(values, np.ones((side, side), np.uint8))


def _top(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Indices of the best `count` scores, descending; of equal scores the earlier comes first."""
    kept = np.arange(len(scores))
    if len(scores) > count:
        kept = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
    return kept[np.argsort(-scores[kept], kind="stable")][:count]


def _centroid_offsets(score_map: NDArray[np.float32], x: NDArray[np.int64],
                      y: NDArray[np.int64]) -> NDArray[np.float32]:
    """From peaks at x, y [N] to the centroids of the scores around them, [N,2] px; windows end at the border."""
    height, width = score_map.shape
    xs, ys = x[:, None] + _STEPS, y[:, None] + _STEPS
    sites = np.clip(ys, 0, height - 1)[:, :, None] * width + np.clip(xs, 0, width - 1)[:, None, :]
    inside = ((ys >= 0) & (ys < height))[:, :, None] & ((xs >= 0) & (xs < width))[:, None, :]
    windows = np.where(inside, score_map.ravel().take(sites), np.float32(0)).reshape(len(x), len(_MOMENTS))
    moments = windows @ _MOMENTS
    return moments[:, 1:] / moments[:, :1]


def _to_input(points: NDArray[np.float32], scale: tuple[float, float]) -> NDArray[np.float32]:
    return ((points + 0.5) * np.array(scale) - 0.5).astype(np.float32)
