"""A camera moving over a textured plane, made on the fly: frames for measuring speed, not accuracy."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SHAPES = 3000  # on the plane; enough for over 512 keypoints in every view


def moving_view(count: int, width: int = 640, height: int = 480, seed: int = 0) -> list[NDArray[np.uint8]]:
    """`count` grey frames [height,width] of a slow drift, turn and zoom; the same for the same seed."""
    plane = textured_plane(2 * width, 2 * height, seed)
    frames = []
    for phase in np.linspace(0.0, np.pi, count):
        turn, zoom = 12.0 * np.sin(phase), 1.15 + 0.15 * np.cos(phase)
        to_view = np.vstack([cv2.getRotationMatrix2D((width, height), turn, zoom), [0.0, 0.0, 1.0]])
        to_view[:2, 2] += (-width / 2 - 0.15 * width * np.cos(phase), -height / 2 - 0.1 * height * np.sin(phase))
        frames.append(cv2.warpPerspective(plane, to_view, (width, height), flags=cv2.INTER_LINEAR))
    return frames


def textured_plane(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Grey discs and tilted boxes of many sizes over soft noise, [height,width]."""
    rng = np.random.default_rng(seed)
    noise = cv2.resize(rng.uniform(60, 190, (height // 32, width // 32)).astype(np.float32), (width, height),
                       interpolation=cv2.INTER_CUBIC)
    plane = np.clip(noise, 0, 255).astype(np.uint8)
    for _ in range(SHAPES):
        centre = rng.uniform((0, 0), (width, height))
        size, grey = rng.uniform(4, 40, 2), int(rng.integers(0, 256))
        corners = cv2.boxPoints((tuple(map(float, centre)), tuple(map(float, size)), float(rng.uniform(0, 90))))
        if rng.uniform() < 0.5:
            cv2.fillConvexPoly(plane, np.rint(corners).astype(np.int32), grey, cv2.LINE_AA)
        else:
            cv2.circle(plane, tuple(int(v) for v in centre), int(size[0] / 2), grey, -1, cv2.LINE_AA)
    grain = rng.normal(0.0, 3.0, plane.shape)
    return np.clip(cv2.GaussianBlur(plane, (0, 0), 0.8) + grain, 0, 255).astype(np.uint8)
