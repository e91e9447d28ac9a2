"""Small patches of two images laid over each other, many at once, to a fraction of a pixel.

A patch of image 0 is the template. The place in image 1 moves until its image, warped by the local motion, agrees
best: inverse-compositional Lucas-Kanade (Baker & Matthews, 2004) on patches of mean 0 and norm 1, so that gain and
offset do not matter, with the place given as a Gaussian prior, so that noise moves little where there is little to see.

K patches of S samples, laid out [S,K]: what holds for a patch then runs along memory, and so do all sums. "Patch
units" are pixels of the coarser of the two images at that place: both images are blurred and sampled for it, so that
both show the same detail.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core import native
from efficient_matcher.core.motion import zoom

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

# Samples; a disc, as the corners of a square would weigh little and cost as much. Of many patches none needs to say as
# much, and time is short then.
RADIUS, RADIUS_OF_MANY = 6.1, 5.5
MANY = 256
SPACING = 1.9  # patch units between samples; after the blur there is little finer to see
WEIGHT_SIGMA = 7.0  # patch units; the local motion is surest near the keypoint
BLUR_SIGMA = 0.8  # patch units; takes noise out and widens the reach of the linearisation
BOX_UP_TO = 1.2  # patch units a pixel; as good as a Gaussian of BLUR_SIGMA there, and costs a third
PASSES = 2
LARGEST_STEP = 1.0  # patch units
STEEPER = 1.15  # slopes are, than a difference over two samples says; else every step would be too long by that
LEAST_SEEN = 0.5  # of the patch, by weight, must lie inside both images
CORRELATED = 7.7  # patch units^2 that share one value of the noise, after blur and JPEG
LEAST_NOISE = 1e-3  # variance of a sample over that of the patch: what interpolation leaves
LEAST_CONTRAST = 0.1  # grey levels


@dataclass(frozen=True)
class Alignment:
    """move [K,2]: from the given place to the agreeing one, image 1 px. length [K]: the same, patch units.

    correlation [K]: of the patches at the end. sharpness [K]: patch units^-2, information on the place in the
    direction where the texture says least. seen [K] bool: whether enough of the patch is inside both images.
    """

    move: Floats
    length: Floats
    correlation: Floats
    sharpness: Floats
    seen: Bools


@dataclass(frozen=True)
class _Pattern:
    """Places of samples, [3,T] patch units and 1; the first S make the patch, the others are only their neighbours.

    neighbours [4,S]: which are left, right, above and below of each. weights [S]: sum to 1.
    """

    places: Floats
    neighbours: NDArray[np.int32]
    weights: Floats


@dataclass(frozen=True)
class _Patches:
    """Where patches lie in one image: points [2,K] px, steps [2,2,K] px of x and y per patch unit."""

    image: NDArray[np.uint8]
    points: Floats
    steps: Floats

    @property
    def pattern(self) -> _Pattern:
        """What is sampled in each."""
        return _pattern(_radius(self.points.shape[1]))

    def places(self, moved: Floats | float, grid: Floats) -> tuple[Floats, Floats]:
        """x and y [S,K] px of the samples at grid [3,S], all moved by [2,K] px."""
        x, y = np.concatenate([self.steps, (self.points + moved)[:, None]], axis=1)
        return grid.T @ x, grid.T @ y

    def sampled(self, moved: Floats | float, grid: Floats) -> NDArray[np.uint8]:
        """Grey values [S,K] there."""
        x, y = self.places(moved, grid)
        if not x.size:  # OpenCV refuses empty maps
            return np.zeros(x.shape, np.uint8)
        return cv2.remap(self.image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def cut(self) -> Bools:
        """Which come near the border of the image, [K]."""
        reach = np.abs(self.steps).sum(1) * self.pattern.places.max() + 1
        height, width = self.image.shape
        (left, top), (right, bottom) = self.points - reach, self.points + reach
        return (left < 0) | (top < 0) | (right > width - 1) | (bottom > height - 1)

    def inside(self, which: Bools, grid: Floats) -> Bools:
        """Which samples of some patches are inside the image, [S,C]."""
        x, y = _Patches(self.image, self.points[:, which], self.steps[:, :, which]).places(0, grid)
        return (x >= 0) & (y >= 0) & (x <= self.image.shape[1] - 1) & (y <= self.image.shape[0] - 1)


@dataclass(frozen=True)
class _Template:
    """Patches of image 0 in the form the passes need.

    terms [4,S,K]: 1, value and its two slopes, all times the square root of the weights, so that the product of two
    of them sums up to a weighted mean. mean, contrast [K]: mean and standard deviation of the values. slope_mean,
    slope_value [2,K]: means of slope, and of slope x (value - mean). normal [3,K]: means of xx, xy and yy of the
    slopes, less what gain and offset explain, for contrast 1. samples [K]: how many independent ones a patch has.
    """

    terms: Floats
    mean: Floats
    contrast: Floats
    slope_mean: Floats
    slope_value: Floats
    normal: tuple[Floats, Floats, Floats]
    samples: Floats


def detail(motions: NDArray[np.floating]) -> tuple[float, float]:
    """For `blurred`, of both images: how much coarser the other one is, at least 1; by the median zoom of motions [K,2,2],
    K > 0."""
    median = float(np.median(zoom(motions)))
    return max(1, 1 / median), max(1, median)


def blurred(image: NDArray[np.uint8], ratio: float) -> NDArray[np.uint8]:
    """An image [H,W] with the detail that one so many times coarser can show; below BOX_UP_TO that is the same for all."""
    if ratio < BOX_UP_TO:
        return cv2.blur(image, (3, 3))
    sigma = BLUR_SIGMA * ratio
    side = 2 * int(np.ceil(1.7 * sigma)) + 1  # what is cut off is little, and every tap costs
    return cv2.GaussianBlur(image, (side, side), sigma)


def align(image0: NDArray[np.uint8], image1: NDArray[np.uint8], points0: Floats, points1: Floats, motions: Floats,
          prior_px: float) -> Alignment:
    """Align patches about points0 of image0 and points1 of image1, [K,2] px, under motions [K,2,2].

    image0, image1: from `blurred`. motions: image 0 px to image 1 px, invertible. prior_px: standard deviation of the
    given places, patch units.
    """
    if native.available() and min(*image0.shape, *image1.shape) > 1:
        pattern, constants = _pattern(_radius(len(points0))), native.Alignment(
            SPACING, STEEPER, LEAST_SEEN, CORRELATED, LEAST_NOISE, LEAST_CONTRAST, LARGEST_STEP, prior_px, PASSES)
        return Alignment(*native.align((image0, image1), points0, points1, motions, pattern.places, pattern.neighbours,
                                       pattern.weights, constants))
    scale = np.maximum(1, 1 / zoom(motions))
    steps1 = np.ascontiguousarray(motions.transpose(1, 2, 0) * scale, np.float32)
    steps0 = (np.eye(2)[:, :, None] * scale).astype(np.float32)
    patches0 = _Patches(image0, np.ascontiguousarray(points0.T), steps0)
    patches1 = _Patches(image1, np.ascontiguousarray(points1.T), steps1)
    template = _template(patches0, _weights(patches0, patches1))
    moved, noise = _moves(template, patches1, prior_px)
    return Alignment(_in_pixels(steps1, moved).T, np.hypot(*moved), 1 / np.sqrt(1 + noise),
                     _smaller_eigenvalue(template.normal) * template.samples / noise, template.samples > 0)


@cache
def _pattern(radius: float) -> _Pattern:
    reach = range(-int(radius) - 1, int(radius) + 2)
    patch = [(x, y) for y in reach for x in reach if x * x + y * y <= radius**2]
    around = {(x + i, y + j) for x, y in patch for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1))}
    order = patch + sorted(around - set(patch))
    index = {place: number for number, place in enumerate(order)}
    sides = [[index[x + i, y + j] for x, y in patch] for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    places = np.array([(x * SPACING, y * SPACING, 1) for x, y in order], np.float32).T
    weights = np.exp(-0.5 * (places[:2, :len(patch)] ** 2).sum(0) / WEIGHT_SIGMA**2)
    return _Pattern(places, np.array(sides, np.int32), weights / weights.sum())


def _radius(patches: int) -> float:
    return RADIUS if patches <= MANY else RADIUS_OF_MANY


def _weights(patches0: _Patches, patches1: _Patches) -> Floats:
    """Weights [S,K] of the samples: a Gaussian window, zero outside either image; all zero where too little is seen."""
    pattern = patches0.pattern
    weights = np.repeat(pattern.weights[:, None], patches0.points.shape[1], axis=1)
    cut = patches0.cut() | patches1.cut()  # all others need no closer look
    if not cut.any():
        return weights
    grid = pattern.places[:, :len(weights)]
    of_cut = pattern.weights[:, None] * (patches0.inside(cut, grid) & patches1.inside(cut, grid))
    share = of_cut.sum(0)
    weights[:, cut] = of_cut * np.where(share >= LEAST_SEEN, 1 / np.maximum(share, LEAST_SEEN), 0)
    return weights


def _template(patches: _Patches, weights: Floats) -> _Template:
    pattern = patches.pattern
    left, right, above, below = pattern.neighbours
    grey = patches.sampled(0, pattern.places).astype(np.float32)
    terms = np.empty((4, *weights.shape), np.float32)
    np.sqrt(weights, out=terms[0])
    np.multiply(grey[:len(weights)], terms[0], out=terms[1])
    np.subtract(grey[right], grey[left], out=terms[2])
    np.subtract(grey[below], grey[above], out=terms[3])
    terms[2:] *= terms[0] * np.float32(STEEPER / (2 * SPACING))
    squares, samples = np.einsum("sk,sk->k", weights, weights), np.float32(SPACING**2 / CORRELATED)
    return _of_terms(terms, np.where(squares > 0, samples / np.maximum(squares, np.float32(1e-6)), np.float32(0)))


def _of_terms(terms: Floats, samples: Floats) -> _Template:
    """The template of `terms` and `samples`: all that remains are sums over patches."""
    _, mean, *slope_mean = _sums(terms, terms[0])
    square, *slope_value = _sums(terms[1:], terms[1])
    contrast = np.sqrt(np.maximum(square - mean**2, np.float32(LEAST_CONTRAST**2)))
    (mean_x, mean_y), slope_mean = slope_mean, np.array(slope_mean)
    slope_value = np.array(slope_value) - slope_mean * mean
    value_x, value_y = slope_value / contrast
    (xx, xy), (yy,) = _sums(terms[2:], terms[2]), _sums(terms[3:], terms[3])
    normal = ((xx - mean_x**2 - value_x**2) / contrast**2, (xy - mean_x * mean_y - value_x * value_y) / contrast**2,
              (yy - mean_y**2 - value_y**2) / contrast**2)
    return _Template(terms, mean, contrast, slope_mean, slope_value, normal, samples)


def _moves(template: _Template, patches1: _Patches, prior: float) -> tuple[Floats, Floats]:
    """Moves [2,K] in patch units, and the noise [K] of `_noise` where they end.

    The last step is not looked at again: what it leaves follows from the linearisation, which is good by then.
    """
    moved = np.zeros_like(patches1.points)
    grid = patches1.pattern.places[:, :template.terms.shape[1]]
    for _ in range(PASSES):
        slopes, noise = _compared(template, patches1.sampled(_in_pixels(patches1.steps, moved), grid))
        step = _step(template, slopes, noise, moved, prior)
        moved -= step
    (a, b, d), (x, y) = template.normal, step
    explained = 2 * (slopes * step).sum(0) - (a * x * x + 2 * b * x * y + d * y * y)
    return moved, np.maximum(noise - explained, np.float32(LEAST_NOISE))


def _compared(template: _Template, grey: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Patches of image 1, [S,K], against the template: the slopes' share of the difference [2,K], `_noise` [K].

    Mean, gain and what they hide are taken out of the few sums of a patch instead of all its samples.
    """
    value = grey * template.terms[0]
    sums = _sums(template.terms, value)
    contrast = np.sqrt(np.maximum(np.einsum("sk,sk->k", value, value) - sums[0]**2, np.float32(LEAST_CONTRAST**2)))
    common = (sums[1] - sums[0] * template.mean) / template.contrast
    correlation = common / contrast
    slopes = sums[2:] - template.slope_mean * sums[0]
    slopes -= template.slope_value * (common / template.contrast)
    gain = contrast * np.maximum(correlation, 0.2)  # of image 1 over the template; not below where nothing agrees
    return slopes / (template.contrast * gain), _noise(correlation)


def _step(template: _Template, slopes: Floats, noise: Floats, moved: Floats, prior: float) -> Floats:
    """One Gauss-Newton step [2,K], patch units, towards agreement and, as far as noise is to be feared, the prior."""
    pull = noise / (np.maximum(template.samples, 1e-3) * np.float32(prior**2))
    a, b, d = template.normal
    a, d = a + pull, d + pull
    x, y = slopes + pull * moved
    step = np.array([d * x - b * y, a * y - b * x]) / np.maximum(a * d - b * b, np.float32(1e-12))
    return step * np.minimum(1, LARGEST_STEP / np.maximum(np.hypot(*step), 1e-6))


def _noise(correlation: Floats) -> Floats:
    """Variance of what the template does not explain, over that of what it does, [K]."""
    squared = np.maximum(correlation, 1e-3) ** 2
    return np.maximum((1 - squared) / squared, np.float32(LEAST_NOISE))


def _sums(terms: Floats, value: Floats) -> Floats:
    """Of the products of terms [T,S,K] with value [S,K] over each patch, [T,K]."""
    return np.einsum("tsk,sk->tk", terms, value)


def _in_pixels(steps: Floats, moved: Floats) -> Floats:
    """Moves [2,K] in patch units as px."""
    return steps[:, 0] * moved[0] + steps[:, 1] * moved[1]


def _smaller_eigenvalue(normal: tuple[Floats, Floats, Floats]) -> Floats:
    """Of symmetric matrices given by xx, xy and yy, [K] each."""
    a, b, d = normal
    return (a + d) / 2 - np.hypot((a - d) / 2, b)
