"""A camera moving over real photographs, with the true homography of every frame.

The photographs are files that ship inside scikit-image; nothing is downloaded. Each becomes a plane
that a camera sways, turns, zooms and tilts over; light changes, the shutter smears, the sensor is
noisy. Truth is the pose at mid-exposure, so that blur does not bias it.

Conventions: points are x right, y down, pixel centres at integers; H_photo_to_view maps photograph
pixels to camera pixels; `u` is the share of a clip that has passed, 0 to 1.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.errors import SourceError

PHOTOS = ("astronaut.png", "coffee.png", "rocket.jpg", "brick.png")  # public domain or CC0
TOPIC = "/camera/image_raw"
FRAME_ID = "camera"
SIZE = (640, 480)  # width, height of the camera, px
RATE_HZ = 15.0
START_NS = 1_700_000_000_000_000_000  # stamps of a real clock, so that nothing can mistake them for counters
SHUTTER = 0.25  # exposure as a share of the time between frames
SHUTTER_SAMPLES = 5
NOISE_SIGMA = 2.0  # grey levels


@dataclass(frozen=True)
class CameraPath:
    """A closed, smooth path over one photograph; amplitudes are reached within a clip.

    zoom: camera pixels per photograph pixel, on average. centre: photograph pixels. size: (width,
    height) of the camera, px. phases: [6] radians, what makes clips differ.
    """

    centre: tuple[float, float]
    zoom: float
    size: tuple[int, int]
    phases: tuple[float, ...]
    sway_px: float = 40.0  # of the camera image
    roll_deg: float = 7.0
    zoom_swing: float = 0.12
    tilt: float = 1.2e-4  # perspective terms, per camera pixel

    def view(self, u: float) -> NDArray[np.float64]:
        """H_photo_to_view [3,3] at time `u`, h22 = 1."""
        waves = [math.sin(2 * math.pi * u + phase) for phase in self.phases]
        zoom = self.zoom * (1 + self.zoom_swing * waves[0])
        angle = math.radians(self.roll_deg * waves[1])
        c, s = zoom * math.cos(angle), zoom * math.sin(angle)
        turn = np.array([[c, -s, self.sway_px * waves[2]], [s, c, self.sway_px * waves[3]], [0, 0, 1.0]])
        tilt = np.array([[1, 0, 0], [0, 1, 0], [self.tilt * waves[4], self.tilt * waves[5], 1.0]])
        to_corner = _shift((self.size[0] - 1) / 2, (self.size[1] - 1) / 2)
        H = to_corner @ tilt @ turn @ _shift(-self.centre[0], -self.centre[1])
        return H / H[2, 2]


@dataclass(frozen=True)
class Clip:
    """One photograph [H,W] uint8 and the path over it."""

    name: str
    photo: NDArray[np.uint8]
    path: CameraPath


@dataclass(frozen=True)
class FrameTruth:
    """What is known of one camera image.

    H_previous_to_current: [3,3] float64, h22 = 1; None for the first frame and where the scene
    changes. scene_change: this frame shows another photograph than the one before.
    """

    stamp_ns: int
    photo: str
    H_previous_to_current: NDArray[np.float64] | None
    scene_change: bool


def load_photos(names: Sequence[str] = PHOTOS) -> list[tuple[str, NDArray[np.uint8]]]:
    """Grey photographs (name, [H,W] uint8) out of the installed scikit-image, without importing it.

    Raises SourceError when scikit-image or one of the files is missing.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise SourceError("the demo's photographs come with scikit-image: pip install 'efficient_matcher[demo]'")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    return [(Path(name).stem, _read_grey(folder / name)) for name in names]


def make_clips(
    photos: Sequence[tuple[str, NDArray[np.uint8]]], size: tuple[int, int] = SIZE, seed: int = 0
) -> list[Clip]:
    """A path over each photograph, zoomed just enough that the camera never sees past its edge.

    Raises SourceError for a photograph smaller than 64 px.
    """
    rng = np.random.default_rng(seed)
    return [Clip(name, photo, _fitting_path(name, photo, size, rng)) for name, photo in photos]


def render_clips(
    clips: Sequence[Clip], frames_per_clip: int, seed: int = 0
) -> Iterator[tuple[NDArray[np.uint8], FrameTruth]]:
    """The clips one after the other, as the camera records them: (image [H,W], truth); the same for the same seed.

    Raises ValueError for fewer than two frames a clip.
    """
    if frames_per_clip < 2:
        raise ValueError("a clip needs at least two frames")
    rng = np.random.default_rng(seed)
    index = 0
    for clip in clips:
        previous: NDArray[np.float64] | None = None
        for step in range(frames_per_clip):
            u = step / frames_per_clip
            view = clip.path.view(u)
            H = None if previous is None else between(previous, view)
            truth = FrameTruth(stamp_ns(index), clip.name, H, scene_change=previous is None and index > 0)
            yield expose(clip, u, 1 / frames_per_clip, rng), truth
            previous, index = view, index + 1


def stamp_ns(index: int) -> int:
    """Stamp of the index-th frame, nanoseconds."""
    return START_NS + round(index * 1e9 / RATE_HZ)


def between(H_photo_to_first: NDArray[np.float64], H_photo_to_second: NDArray[np.float64]) -> NDArray[np.float64]:
    """H_first_to_second [3,3], h22 = 1, of two views of one photograph."""
    H = H_photo_to_second @ np.linalg.inv(H_photo_to_first)
    return H / H[2, 2]


def expose(clip: Clip, u: float, frame_period: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The camera image [H,W] uint8 at mid-exposure `u`: smeared, lit and noisy.

    frame_period: time between frames, in the unit of `u`.
    """
    moments = u + frame_period * SHUTTER * (np.arange(SHUTTER_SAMPLES) / (SHUTTER_SAMPLES - 1) - 0.5)
    views = [render_view(clip.photo, clip.path.view(moment), clip.path.size) for moment in moments]
    light = np.mean(views, axis=0, dtype=np.float32)
    phase = clip.path.phases[0]
    gain = 1 + 0.2 * math.sin(4 * math.pi * u + phase)
    offset = 5 * math.sin(2 * math.pi * u + phase)
    noise = rng.normal(0, NOISE_SIGMA, light.shape)
    return np.clip(np.rint(gain * light + offset + noise), 0, 255).astype(np.uint8)


def render_view(
    photo: NDArray[np.uint8], H_photo_to_view: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[np.float32]:
    """What an ideal camera of size (width, height) sees, float32 [H,W] in grey levels.

    Bicubic; where the view shrinks the photograph it is rendered larger and averaged down, since
    bicubic alone would alias.
    """
    factor = max(1, math.ceil(1 / _smallest_scale(H_photo_to_view, size)))
    enlarge = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1.0]])
    large = (size[0] * factor, size[1] * factor)
    view = cv2.warpPerspective(photo.astype(np.float32), enlarge @ H_photo_to_view, large,
                               flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return view if factor == 1 else cv2.resize(view, size, interpolation=cv2.INTER_AREA)


def view_corners(H_photo_to_view: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Where the four corners of the view lie in the photograph, [4,2] px, from top left clockwise."""
    mapped = _corners(size) @ np.linalg.inv(H_photo_to_view).T
    return mapped[:, :2] / mapped[:, 2:]


def _fitting_path(name: str, photo: NDArray[np.uint8], size: tuple[int, int], rng: np.random.Generator) -> CameraPath:
    height, width = photo.shape
    if min(width, height) < 64:
        raise SourceError(f"photograph {name} is {width}x{height} px, smaller than 64")
    phases = tuple(float(phase) for phase in rng.uniform(0, 2 * math.pi, 6))
    zoom = max(size[0] / width, size[1] / height)
    while True:  # ends: sway and tilt are fixed in camera pixels, so a larger zoom always sees less
        path = CameraPath(((width - 1) / 2, (height - 1) / 2), zoom, size, phases, sway_px=size[0] / 16)
        if all(_inside(view_corners(path.view(u), size), photo) for u in np.linspace(0, 1, 65)):
            return path
        zoom *= 1.02


def _inside(points: NDArray[np.float64], photo: NDArray[np.uint8], margin_px: float = 2.0) -> bool:
    limit = np.array([photo.shape[1], photo.shape[0]]) - 1 - margin_px
    return bool(np.all(points >= margin_px) and np.all(points <= limit))


def _smallest_scale(H_photo_to_view: NDArray[np.float64], size: tuple[int, int]) -> float:
    """View pixels per photograph pixel where the view shrinks most: at a corner, for a homography."""
    H_inverse = np.linalg.inv(H_photo_to_view)
    depth = _corners(size) @ H_inverse[2]
    area = abs(np.linalg.det(H_inverse)) / np.abs(depth) ** 3  # photograph pixels per view pixel
    return float(1 / np.sqrt(area.max()))


def _corners(size: tuple[int, int]) -> NDArray[np.float64]:
    right, bottom = size[0] - 1.0, size[1] - 1.0
    return np.array([[0, 0, 1], [right, 0, 1], [right, bottom, 1], [0, bottom, 1]])


def _shift(x: float, y: float) -> NDArray[np.float64]:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def _read_grey(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise SourceError(f"{path}: this scikit-image does not carry the photograph")
    return image
