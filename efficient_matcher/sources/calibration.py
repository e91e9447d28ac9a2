"""Camera calibrations as ROS's camera_calibration stores them: one YAML file a camera."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.errors import ConfigError, SourceError
from efficient_matcher.settings_file import read_yaml


@dataclass(frozen=True)
class Calibration:
    """What a sensor_msgs/CameraInfo says of a camera: d [n], k and r [9], p [12], row by row, in px."""

    width: int
    height: int
    distortion_model: str
    d: NDArray[np.float64]
    k: NDArray[np.float64]
    r: NDArray[np.float64]
    p: NDArray[np.float64]


def read_calibration(path: Path) -> Calibration:
    """The calibration in a YAML file of camera_calibration or of a camera driver.

    Without a rectification or projection matrix, they are those of a single camera. Raises SourceError naming the file
    and the entry.
    """
    try:
        tree = read_yaml(path)
    except ConfigError as error:
        raise SourceError(f"{path}: {error}") from None
    if not isinstance(tree, dict) or "camera_matrix" not in tree:
        raise SourceError(f"{path}: is no calibration of ROS: it has no camera_matrix")
    try:
        k = _matrix(tree, "camera_matrix", (9,))
        p = np.insert(k.reshape(3, 3), 3, 0.0, axis=1).ravel()
        return Calibration(
            _side(tree, "image_width"), _side(tree, "image_height"), str(tree.get("distortion_model", "plumb_bob")),
            _matrix(tree, "distortion_coefficients", (0, 4, 5, 8, 12, 14), np.zeros(0)), k,
            _matrix(tree, "rectification_matrix", (9,), np.eye(3).ravel()), _matrix(tree, "projection_matrix", (12,), p))
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from None


def _side(tree: dict[str, Any], name: str) -> int:
    value = tree.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of pixels, got {value!r}")
    return value


def _matrix(tree: dict[str, Any], name: str, counts: tuple[int, ...],
            default: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """The numbers of `name: {rows, cols, data}`. Raises ValueError naming it."""
    if name not in tree and default is not None:
        return default
    entry = tree[name]
    data = entry.get("data") if isinstance(entry, dict) else entry
    try:
        values = np.asarray(data, np.float64).ravel()
    except (TypeError, ValueError):
        raise ValueError(f"{name}: data must be numbers") from None
    if len(values) not in counts or not np.isfinite(values).all():
        raise ValueError(f"{name}: needs {' or '.join(map(str, counts))} finite numbers, got {len(values)}")
    return values
