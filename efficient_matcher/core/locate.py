"""Where a keypoint lies to a fraction of a pixel, as the image around it tells: the locator network on small patches.

A score map is made for every pixel, so what it costs grows with the image, and compressed extractors save most where
it resolves pixels. What is known of a keypoint's place is in the few pixels around it, and there are some hundreds of
keypoints, so a network that looks there alone may look closely. It also says how sure it is.

The network reads `patches` uint8 [N,S*S], the S x S pixels about each keypoint's own, rows first, and `hints` [N,3]:
where in its pixel the keypoint lies (x, y), and its spread. It answers with `moves` [N,2] px and `spreads` [N].
"""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core import native
from efficient_matcher.core.backend import Backend
from efficient_matcher.errors import BundleError

Floats = NDArray[np.float32]
Grey = NDArray[np.uint8]

INPUTS, OUTPUTS = ("patches", "hints"), ("moves", "spreads")


class Locator:
    """Moves the keypoints of a frame to where the locator network sees them; `backend` runs it.

    Raises BundleError for a network that does not read square patches with a pixel in their middle.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        pixels = {spec.name: spec for spec in backend.specs}["patches"].shape[-1]
        side = isqrt(pixels or 0)
        if side % 2 == 0 or side * side != pixels:
            raise BundleError(f"{backend.path}: reads patches of {pixels} pixels, which are no square with a middle")
        self._reach = side // 2

    def __call__(self, image: Grey, points: Floats, spreads: Floats) -> tuple[Floats, Floats]:
        """Keypoints [N,2] of an image [H,W], and their spreads [N] as in Features; frame px. Raises MatcherError."""
        if not len(points):
            return points, spreads
        found = self.backend.run(inputs_of(image, points, spreads, self._reach))
        height, width = image.shape
        return np.clip(points + found["moves"], 0, np.float32([width - 1, height - 1])), found["spreads"]


def inputs_of(image: Grey, points: Floats, spreads: Floats, reach: int) -> dict[str, NDArray[np.generic]]:
    """What the network reads of an image [H,W] at points [N,2] inside it, whose spreads are [N]."""
    pixels = np.rint(points)
    hints = np.column_stack([points - pixels, spreads]).astype(np.float32, copy=False)
    return {"patches": patches(image, pixels.astype(np.int64), reach), "hints": hints}


def patches(image: Grey, pixels: NDArray[np.int64], reach: int) -> Grey:
    """The (2 reach + 1)^2 pixels of an image [H,W] about pixels [N,2] inside it, rows first: [N,(2 reach + 1)^2]. Beyond
    the border those at the border stand."""
    if native.available():
        return native.patches(image, pixels, reach)
    height, width = image.shape
    steps = np.arange(-reach, reach + 1)
    columns = np.clip(pixels[:, 0, None] + steps, 0, width - 1)
    rows = np.clip(pixels[:, 1, None] + steps, 0, height - 1)
    return image[rows[:, :, None], columns[:, None]].reshape(len(pixels), -1)
