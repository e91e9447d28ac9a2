"""Small patches of two images laid over each other, many at once, to a fraction of a pixel.

A patch of image 0 is the template. The place in image 1 moves until its image, warped by the local motion, agrees
best: inverse-compositional Lucas-Kanade (Baker & Matthews, 2004) on patches of mean 0 and norm 1, so that gain and
offset do not matter, with the place given as a Gaussian prior, so that noise moves little where there is little to see.

K patches of S samples. "Patch units" are pixels of the coarser of the two images at that place: both images are
blurred and sampled for it, so that both show the same detail.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

SIDE = 13  # samples along the side of a patch
SPACING = 1.6  # patch units between samples; after the blur there is little finer to see
WEIGHT_SIGMA = 7.0  # patch units; the local motion is surest near the keypoint
BLUR_SIGMA = 1.0  # patch units; takes noise out and widens the reach of the linearisation
ITERATIONS = 3
CONVERGED = 0.01  # patch units
LARGEST_STEP = 1.0  # patch units
LEAST_SEEN = 0.5  # of the patch, by weight, must lie inside both images
CORRELATED = 3.0  # samples that share one value of the noise, after blur and JPEG
LEAST_NOISE = 1e-3  # variance of a sample over that of the patch: what interpolation leaves
LEAST_CONTRAST = 0.1  # grey levels


@dataclass(frozen=True)
class Alignment:
    """move [K,2]: from the given place to the agreeing one, image 1 px. length [K]: the same, patch units.

    correlation0, correlation [K]: of the patches at the start and at the end. gain [K]: what the move explains, as
    twice a difference of log likelihoods (about chi-squared with 2 degrees of freedom if it were noise). sharpness
    [K]: patch units^-2, information on the place in the direction where the texture says least. seen [K] bool.
    """

    move: Floats
    length: Floats
    correlation0: Floats
    correlation: Floats
    gain: Floats
    sharpness: Floats
    seen: Bools


@dataclass(frozen=True)
class _Template:
    """Patches of image 0 in the form the iterations need; values are less `level` [K].

    weighted [K,4,S]: 1, value and its two slopes, times `weights` [K,S], which sum to 1. mean, contrast [K]: weighted
    mean and standard deviation of the values. slope_mean, slope_value [K,2]: weighted means of slope, and of slope x
    (value - mean). normal [K,2,2]: of the slopes, less what gain and offset explain, for contrast 1. samples [K]: how
    many independent samples the patch is worth.
    """

    weighted: Floats
    weights: Floats
    level: Floats
    mean: Floats
    contrast: Floats
    slope_mean: Floats
    slope_value: Floats
    normal: Floats
    samples: Floats

    def __getitem__(self, kept: Bools) -> _Template:
        return _Template(*(getattr(self, field.name)[kept] for field in fields(self)))


def blurred(image0: NDArray[np.uint8], image1: NDArray[np.uint8],
            motions: NDArray[np.floating]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Both images [H,W] with the detail that the coarser one can show, by the median zoom of motions [K,2,2], K > 0."""
    zoom = float(np.median(np.sqrt(np.abs(np.linalg.det(motions)))))
    return _blurred(image0, max(1, 1 / zoom)), _blurred(image1, max(1, zoom))


def _blurred(image: NDArray[np.uint8], ratio: float) -> NDArray[np.uint8]:
    sigma = BLUR_SIGMA * ratio
    side = 2 * int(np.ceil(1.7 * sigma)) + 1  # what is cut off is little, and every tap costs
    return cv2.GaussianBlur(image, (side, side), sigma)


def align(image0: NDArray[np.uint8], image1: NDArray[np.uint8], points0: Floats, points1: Floats, motions: Floats,
          prior_px: float) -> Alignment:
    """Align patches about points0 of image0 and points1 of image1, [K,2] px, under motions [K,2,2].

    image0, image1: from `blurred`. motions: image 0 px to image 1 px, invertible. prior_px: standard deviation of the
    given places, patch units.
    """
    zoom = np.sqrt(np.abs(np.linalg.det(motions))).astype(np.float32)
    steps0 = np.maximum(1, 1 / zoom)[:, None, None] * np.eye(2, dtype=np.float32)
    steps1 = motions @ steps0
    template = _templates(image0, points0, steps0, _weights(image0, image1, points0, points1, steps0, steps1))
    moved, before, after = _iterate(template, image1, points1, steps1, prior_px)
    noise0, noise = _noise(before), _noise(after)
    return Alignment((steps1 @ moved[:, :, None])[:, :, 0], np.hypot(*moved.T), before, after,
                     template.samples * (noise0 - noise) / noise,
                     _smaller_eigenvalue(template.normal) * template.samples / noise, template.samples > 0)


@cache
def _grid(side: int) -> Floats:
    """Places of the samples of a patch, [2,side^2] patch units."""
    along = (np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)) * np.float32(SPACING)
    return np.stack([places.ravel() for places in np.meshgrid(along, along)])


def _places(points: Floats, steps: Floats, grid: Floats) -> tuple[Floats, Floats]:
    """x and y [K,S] px of the samples."""
    return steps[:, 0] @ grid + points[:, :1], steps[:, 1] @ grid + points[:, 1:]


def _sampled(image: NDArray[np.uint8], x: Floats, y: Floats) -> NDArray[np.uint8]:
    if not x.size:  # OpenCV refuses empty maps
        return np.zeros(x.shape, np.uint8)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _weights(image0: NDArray[np.uint8], image1: NDArray[np.uint8], points0: Floats, points1: Floats, steps0: Floats,
             steps1: Floats) -> Floats:
    """Weights [K,S] of the samples: a Gaussian window, zero outside either image; all zero where too little is seen."""
    grid = _grid(SIDE)
    window = np.exp(-0.5 * (grid**2).sum(0) / WEIGHT_SIGMA**2)
    weights = np.repeat((window / window.sum()).astype(np.float32)[None], len(points0), axis=0)
    cut = _cut(image0, points0, steps0) | _cut(image1, points1, steps1)  # all others need no closer look
    for image, points, steps in ((image0, points0, steps0), (image1, points1, steps1)):
        x, y = _places(points[cut], steps[cut], grid)
        weights[cut] *= (x >= 0) & (y >= 0) & (x <= image.shape[1] - 1) & (y <= image.shape[0] - 1)
    share = weights[cut].sum(1, keepdims=True)
    weights[cut] *= np.where(share >= LEAST_SEEN, 1 / np.maximum(share, LEAST_SEEN), 0)
    return weights


def _cut(image: NDArray[np.uint8], points: Floats, steps: Floats) -> Bools:
    """Whether patches [K] come near the border of the image."""
    reach = np.abs(steps).sum(2) * np.float32(SPACING * (SIDE - 1) / 2) + 1
    last = np.float32([image.shape[1] - 1, image.shape[0] - 1])
    return ((points < reach) | (points > last - reach)).any(1)


def _templates(image0: NDArray[np.uint8], points0: Floats, steps0: Floats, weights: Floats) -> _Template:
    count, side = len(points0), SIDE + 2  # one more all around, for the slopes
    patches = _sampled(image0, *_places(points0, steps0, _grid(side))).reshape(count, side, side).astype(np.float32)
    level = patches.mean((1, 2))
    terms = np.ones((count, 4, SIDE, SIDE), np.float32)
    np.subtract(patches[:, 1:-1, 1:-1], level[:, None, None], out=terms[:, 1])
    np.subtract(patches[:, 1:-1, 2:], patches[:, 1:-1, :-2], out=terms[:, 2])
    np.subtract(patches[:, 2:, 1:-1], patches[:, :-2, 1:-1], out=terms[:, 3])
    terms[:, 2:] *= np.float32(0.5 / SPACING)
    terms = terms.reshape(count, 4, SIDE * SIDE)
    weighted = terms * weights[:, None]
    moments = weighted @ terms.transpose(0, 2, 1)
    mean = moments[:, 0, 1]
    contrast = np.sqrt(np.maximum(moments[:, 1, 1] - mean**2, LEAST_CONTRAST**2))
    slope_mean = moments[:, 2:, 0]
    slope_value = moments[:, 2:, 1] - slope_mean * mean[:, None]
    along_value = slope_value / contrast[:, None]
    normal = moments[:, 2:, 2:] - _outer(slope_mean) - _outer(along_value)
    squares = np.einsum("ks,ks->k", weights, weights)
    samples = np.where(squares > 0, 1 / (CORRELATED * np.maximum(squares, 1e-6)), 0).astype(np.float32)
    return _Template(weighted, weights, level, mean, contrast, slope_mean, slope_value,
                     normal / (contrast**2)[:, None, None], samples)


def _iterate(template: _Template, image1: NDArray[np.uint8], points1: Floats, steps1: Floats,
             prior: float) -> tuple[Floats, Floats, Floats]:
    """Moves [K,2] in patch units, and the correlation [K] before and after. Patches that have settled rest."""
    moved, after = np.zeros((len(points1), 2), np.float32), np.zeros(len(points1), np.float32)
    before = after.copy()
    active = np.arange(len(points1))
    x, y = _places(points1, steps1, _grid(SIDE))
    for iteration in range(ITERATIONS + 1):
        shift = (steps1 @ moved[active][:, :, None])[:, :, 0]
        slopes, correlation = _compared(template, _sampled(image1, x + shift[:, :1], y + shift[:, 1:]))
        after[active] = correlation
        if iteration == 0:
            before = after.copy()
        if iteration == ITERATIONS:
            break
        step = _step(template, slopes, correlation, moved[active], prior)
        moved[active] -= step
        kept = np.hypot(*step.T) > CONVERGED
        if not kept.any():
            break
        if kept.mean() < 0.7:  # taking a part costs about as much as it saves before
            active, x, y, steps1, template = active[kept], x[kept], y[kept], steps1[kept], template[kept]
    return moved, before, after


def _compared(template: _Template, values: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Patches of image 1, [K,S], against the template: the slopes' share of the difference [K,2], correlation [K].

    All sums over samples are one product with the template's four terms; mean, gain and what they hide are then
    taken out of a few numbers instead of every patch.
    """
    levelled = np.subtract(values, template.level[:, None], dtype=np.float32)
    sums = (template.weighted @ levelled[:, :, None])[:, :, 0]
    power = np.einsum("ks,ks,ks->k", levelled, levelled, template.weights) - sums[:, 0] ** 2
    contrast = np.sqrt(np.maximum(power, LEAST_CONTRAST**2))
    common = (sums[:, 1] - sums[:, 0] * template.mean) / template.contrast
    correlation = common / contrast
    slopes = sums[:, 2:] - template.slope_mean * sums[:, :1]
    slopes -= template.slope_value * (common / template.contrast)[:, None]
    gain = contrast * np.maximum(correlation, 0.2)  # of image 1 over the template; not below where nothing agrees
    return slopes / (template.contrast * gain)[:, None], correlation


def _step(template: _Template, slopes: Floats, correlation: Floats, moved: Floats, prior: float) -> Floats:
    """One Gauss-Newton step [K,2], patch units, towards agreement and, as far as noise is to be feared, the prior."""
    pull = _noise(correlation) / (np.maximum(template.samples, 1e-3) * np.float32(prior**2))
    (a, b), d = template.normal[:, 0].T, template.normal[:, 1, 1]
    a, d = a + pull, d + pull
    wanted = slopes + pull[:, None] * moved
    determinant = np.maximum(a * d - b * b, 1e-12)[:, None]
    step = np.stack([d * wanted[:, 0] - b * wanted[:, 1], a * wanted[:, 1] - b * wanted[:, 0]], 1) / determinant
    return step * np.minimum(1, LARGEST_STEP / np.maximum(np.hypot(*step.T), 1e-6))[:, None]


def _noise(correlation: Floats) -> Floats:
    """Variance of what the template does not explain, over that of what it does, [K]."""
    squared = np.maximum(correlation, 1e-3) ** 2
    return np.maximum((1 - squared) / squared, np.float32(LEAST_NOISE))


def _outer(vectors: Floats) -> Floats:
    return vectors[:, :, None] * vectors[:, None, :]


def _smaller_eigenvalue(matrices: Floats) -> Floats:
    """Of symmetric matrices [K,2,2]."""
    (a, b), d = matrices[:, 0].T, matrices[:, 1, 1]
    return (a + d) / 2 - np.hypot((a - d) / 2, b)
