"""Image pairs with intrinsics and relative pose: a text file beside a folder of images, as SuperGlue's lists are.

A line is `name0 name1 rot0 rot1 K0 K1 T_0to1`: two file names, how often each image must be turned by 90 degrees
counter-clockwise to stand upright, 9 + 9 numbers of the intrinsics and 16 of the pose, row by row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.errors import SourceError
from efficient_matcher.files import write_text_atomic
from efficient_matcher.sources.images import read_image
from efficient_matcher.sources.lists import listed_lines

Array = NDArray[np.float64]

FIELDS = 38
LEAST_BASELINE = 1e-6  # of T_0to1's own unit; below it the direction of translation means nothing
ROTATION_TOLERANCE = 1e-3  # lists are printed with few digits
DEPTH_UNITS_PER_M = 1000  # 16-bit depth images are in millimetres, 0 unknown


@dataclass(frozen=True)
class ListedPose:
    """A line of a list. turns0, turns1: quarter turns counter-clockwise that bring the images upright.

    K0, K1 [3,3] and T_0to1 [4,4] are those of the images as they are in the files.
    """

    name0: str
    name1: str
    turns0: int
    turns1: int
    K0: Array
    K1: Array
    T_0to1: Array


def read_pose_list(file: Path | str, images: Path | str) -> list[ListedPose]:
    """The pairs of a list; blank lines and lines from `#` on are skipped.

    Raises SourceError naming file and line where it is malformed, has no baseline, or names a missing image.
    """
    return [_pair(line, where, Path(images)) for where, line in listed_lines(file)]


def write_pose_list(file: Path | str, pairs: Iterable[ListedPose], comment: str = "") -> None:
    """Write a list that `read_pose_list` reads back exactly. Raises MatcherError when it cannot be written."""
    lines = [f"# {comment}"] if comment else []
    for pair in pairs:
        numbers = np.concatenate([pair.K0.ravel(), pair.K1.ravel(), pair.T_0to1.ravel()])
        lines.append(" ".join([pair.name0, pair.name1, str(pair.turns0), str(pair.turns1),
                               *(repr(float(number)) for number in numbers)]))
    write_text_atomic(file, "\n".join(lines) + "\n")


def read_upright(path: Path, turns: int, K: Array) -> tuple[NDArray[np.uint8], Array, Array]:
    """An image file turned upright: grey [H,W], the intrinsics [3,3] of that, and the turn [3,3] of its camera.

    The turn takes the coordinates of the camera as it was to those of the upright one. Raises SourceError.
    """
    image = read_image(path)
    height, width = image.shape
    upright, turn = K, np.eye(3)
    for _ in range(turns % 4):  # a quarter turn counter-clockwise takes pixel (x, y) to (y, width - 1 - x)
        upright = np.array([[upright[1, 1], 0, upright[1, 2]], [0, upright[0, 0], width - 1 - upright[0, 2]],
                            [0, 0, 1.0]])
        turn = np.array([[0, 1.0, 0], [-1.0, 0, 0], [0, 0, 1.0]]) @ turn
        width, height = height, width
    return np.ascontiguousarray(np.rot90(image, turns)), upright, turn


def read_depth(path: Path) -> NDArray[np.float32]:
    """Depth [H,W] in metres of a 16-bit image in millimetres, 0 unknown. Raises SourceError naming the file."""
    depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if depth is None or depth.ndim != 2 or depth.dtype != np.uint16:
        raise SourceError(f"{path}: is not a 16-bit depth image")
    return depth.astype(np.float32) / DEPTH_UNITS_PER_M


def encode_depth(depth: NDArray[np.float32]) -> bytes:
    """A depth map [H,W] in metres as the PNG that `read_depth` reads; beyond 65 m it is unknown."""
    units = np.rint(depth * DEPTH_UNITS_PER_M)
    return cv2.imencode(".png", np.where(units < 2**16, units, 0).astype(np.uint16))[1].tobytes()


def _pair(line: str, where: str, folder: Path) -> ListedPose:
    fields = line.split()
    if len(fields) != FIELDS:
        raise SourceError(f"{where}: has {len(fields)} fields, needs {FIELDS}: two names, two turns, K0, K1 (9 each) "
                          "and T_0to1 (16)")
    try:
        turns = [int(field) for field in fields[2:4]]
        numbers = np.array([float(field) for field in fields[4:]])
    except ValueError as error:
        raise SourceError(f"{where}: {error}") from None
    pair = ListedPose(fields[0], fields[1], turns[0] % 4, turns[1] % 4, numbers[:9].reshape(3, 3),
                      numbers[9:18].reshape(3, 3), numbers[18:].reshape(4, 4))
    _check(pair, where)
    for name in fields[:2]:
        if not (folder / name).is_file():
            raise SourceError(f"{where}: {folder / name} does not exist")
    return pair


def _check(pair: ListedPose, where: str) -> None:
    for name, K in (("K0", pair.K0), ("K1", pair.K1)):
        if not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0 or not np.allclose(K[2], (0, 0, 1)):
            raise SourceError(f"{where}: {name} is not the intrinsics of a camera")
    R, t = pair.T_0to1[:3, :3], pair.T_0to1[:3, 3]
    rigid = (np.isfinite(pair.T_0to1).all() and np.allclose(R @ R.T, np.eye(3), atol=ROTATION_TOLERANCE)
             and np.linalg.det(R) > 0 and np.allclose(pair.T_0to1[3], (0, 0, 0, 1)))
    if not rigid:
        raise SourceError(f"{where}: T_0to1 is not a rotation and a translation")
    if np.linalg.norm(t) < LEAST_BASELINE:
        raise SourceError(f"{where}: the cameras are in one place, so the direction of translation is undefined")
