"""Keypoint labels from a detector that holds under warps: SIFT, or a trained one (see adaptation.py).

Each image is warped many times; the detector's points are mapped back and vote at sub-pixel position. What is found
again in a large share of the warps becomes a label. This is homographic adaptation (SuperPoint, section 5) by points
instead of score maps: the peaks of a map are a pixel wide, and warping it back would lose them between pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.learn.homographies import HomographyRange, random_homography, warp

OVERSAMPLING = 2  # votes are counted on a grid this much finer than the image
VOTE_SIGMA = 1.0  # grid sites; 0.5 px, about SIFT's own repeatability
Detect = Callable[[NDArray[np.uint8]], NDArray[np.float64]]


@dataclass(frozen=True)
class LabelConfig:
    """How labels are drawn from votes."""

    warps: int = 9
    minimum_share: float = 0.3  # of the warps that show the place
    maximum_points: int = 700
    nms_radius_px: float = 2.0
    contrast_threshold: float = 0.02
    warp_range: HomographyRange = HomographyRange(
        perspective=0.0003, rotation_deg=30.0, scale=(0.5, 2.0), translation=0.2, minimum_overlap=0.1
    )


class Labeller(Protocol):
    """Labels a grey image [H,W] as `label_image` does; processes get it as a copy."""

    name: str  # kept beside the labels, which are made by one labeller alone
    in_process: bool  # it has a device of its own, and other processes would only stand in its way

    def __call__(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class SiftLabeller:
    """Labels where SIFT finds again what it found."""

    config: LabelConfig = LabelConfig()
    name: str = "sift"
    in_process: bool = False

    def __call__(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.float32]:
        return label_image(image, seed, self.config)


def label_image(image: NDArray[np.uint8], seed: int, config: LabelConfig = LabelConfig(),
                detect: Detect | None = None) -> NDArray[np.float32]:
    """Repeatable points of a grey image [H,W]: rows x, y (pixels), share of warps in (0,1]. [N,3].

    detect: points [N,2] of a warped image; SIFT's if not given.
    """
    rng = np.random.default_rng(seed)
    detect = detect or _sift(config)
    height, width = image.shape
    votes = np.zeros((height * OVERSAMPLING, width * OVERSAMPLING), np.float32)
    seen = np.zeros_like(votes)
    for index in range(config.warps):
        H = np.eye(3) if index == 0 else random_homography(rng, width, height, config.warp_range)
        points = _detect(detect, image, H)
        votes += _ballot(points, votes.shape)
        seen += _visible(H, votes.shape)
    return _elect(votes, seen, config)


def _sift(config: LabelConfig) -> Detect:
    # Without the precise upscale OpenCV's SIFT places every point a quarter of a pixel too far right and down.
    sift = cv2.SIFT_create(nfeatures=1500, contrastThreshold=config.contrast_threshold, enable_precise_upscale=True)

    def detect(image: NDArray[np.uint8]) -> NDArray[np.float64]:
        points = np.array([k.pt for k in sift.detect(image, None)], np.float64).reshape(-1, 2)
        return np.unique(points, axis=0)  # SIFT repeats a point for each of its orientations
    return detect


def _detect(detect: Detect, image: NDArray[np.uint8], H: NDArray[np.float64]) -> NDArray[np.float64]:
    warped = cv2.warpPerspective(image, H, image.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return warp(detect(warped), np.linalg.inv(H))


def _ballot(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float32]:
    """One warp's votes: a bump of unit height around each point."""
    ballot = np.zeros(shape, np.float32)
    sites = np.nan_to_num((points + 0.5) * OVERSAMPLING - 0.5, nan=-9.0)
    base = np.floor(sites).astype(int)
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = base[:, 0] + dx, base[:, 1] + dy
            weight = (1 - abs(sites[:, 0] - x)) * (1 - abs(sites[:, 1] - y))
            inside = (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
            np.add.at(ballot, (y[inside], x[inside]), weight[inside])
    peak = float(cv2.getGaussianKernel(9, VOTE_SIGMA).max() ** 2)
    return cv2.GaussianBlur(ballot, (9, 9), VOTE_SIGMA) / peak


def _visible(H: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Where the warped image shows the original, on the vote grid."""
    height, width = shape[0] // OVERSAMPLING, shape[1] // OVERSAMPLING
    mask = cv2.warpPerspective(np.ones((height, width), np.float32), np.linalg.inv(H), (width, height))
    return cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST)


def _elect(votes: NDArray[np.float32], seen: NDArray[np.float32], config: LabelConfig) -> NDArray[np.float32]:
    share = votes / np.maximum(seen, 3.0)
    size = 2 * round(config.nms_radius_px * OVERSAMPLING) + 1
    peaks = (share == cv2.dilate(share, np.ones((size, size), np.uint8))) & (share >= config.minimum_share)
    y, x = np.nonzero(peaks)
    order = np.argsort(-share[y, x], kind="stable")[: config.maximum_points]
    x, y = x[order], y[order]
    offset = _centroid_offset(votes, x, y)
    points = (np.column_stack([x, y]) + offset + 0.5) / OVERSAMPLING - 0.5
    return np.column_stack([points, np.minimum(share[y, x], 1.0)]).astype(np.float32)


def _centroid_offset(votes: NDArray[np.float32], x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.float64]:
    reach = 2
    padded = np.pad(votes, reach)
    steps = np.arange(-reach, reach + 1)
    patches = padded[y[:, None, None] + reach + steps[:, None], x[:, None, None] + reach + steps]
    mass = patches.sum((1, 2)) + 1e-9
    return np.column_stack([(patches * steps).sum((1, 2)) / mass, (patches * steps[:, None]).sum((1, 2)) / mass])
