"""The demo's truth is exact: checked against a brightness that is known at every point, and on rendered frames."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from efficient_matcher import demo
from efficient_matcher.errors import SourceError

SIZE = (160, 120)


def wave(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A brightness known between pixels too, smooth enough for bicubic interpolation to be exact to 0.5 grey levels."""
    return 127.5 + 60 * np.sin(2 * np.pi * x / 23) + 50 * np.cos(2 * np.pi * (x + 2 * y) / 61)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    y, x = np.mgrid[0:180, 0:240].astype(np.float64)
    return np.rint(wave(x, y)).astype(np.uint8)


@pytest.fixture(scope="module")
def clip(photo: np.ndarray) -> demo.Clip:
    return demo.make_clips([("wave", photo)], SIZE)[0]


def seen(H_photo_to_view: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What the wave looks like in a view, by the definition of a homography."""
    y, x = np.mgrid[0:size[1], 0:size[0]].astype(np.float64)
    back = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(H_photo_to_view).T
    return wave(back[..., 0] / back[..., 2], back[..., 1] / back[..., 2])


@pytest.mark.parametrize("u", [0.0, 0.37, 0.8])
def test_view_shows_what_its_homography_says(clip: demo.Clip, u: float) -> None:
    H = clip.path.view(u)
    error = demo.render_view(clip.photo, H, SIZE) - seen(H, SIZE)
    assert np.abs(error).max() < 2.0
    assert abs(error.mean()) < 0.05


def test_shrinking_view_is_not_shifted(photo: np.ndarray) -> None:
    """Rendered larger and averaged down: half a pixel of shift would show as 27 grey levels."""
    H = np.array([[0.4, 0.02, 3.3], [-0.01, 0.45, 2.7], [0, 0, 1.0]])
    size = (80, 60)
    inside = (slice(8, -8), slice(8, -8))
    assert np.abs(demo.render_view(photo, H, size) - seen(H, size))[inside].max() < 4.0


def test_truth_carries_one_frame_onto_the_next(clip: demo.Clip) -> None:
    first, second = clip.path.view(0.2), clip.path.view(0.25)
    H = demo.between(first, second)
    view0, view1 = (demo.render_view(clip.photo, view, SIZE) for view in (first, second))
    warped = cv2.warpPerspective(view0, H, SIZE, flags=cv2.INTER_CUBIC, borderValue=float("nan"))
    inside = ~cv2.dilate(np.isnan(warped).astype(np.uint8), np.ones((9, 9))).astype(bool)
    assert inside.mean() > 0.8
    assert np.abs(warped - view1)[inside].max() < 4.0
    assert np.abs(view0 - view1)[inside].mean() > 8.0  # the frames do differ


def test_blur_does_not_move_the_image(clip: demo.Clip) -> None:
    """Exposure is centred on the pose that truth names: the smeared frame aligns best at zero shift."""
    image = demo.expose(clip, 0.4, 1 / 20, np.random.default_rng(0)).astype(np.float64)
    sharp = demo.render_view(clip.photo, clip.path.view(0.4), SIZE).astype(np.float64)
    shift, response = cv2.phaseCorrelate(sharp - sharp.mean(), image - image.mean(),
                                         cv2.createHanningWindow(SIZE, cv2.CV_64F))
    assert np.hypot(*shift) < 0.1
    assert response > 0.5


def test_camera_never_sees_past_the_photograph() -> None:
    rng = np.random.default_rng(1)
    for width, height in ((300, 100), (100, 300), (640, 480)):
        clip = demo.make_clips([("p", rng.integers(0, 255, (height, width), np.uint8))], SIZE, seed=3)[0]
        corners = np.concatenate([demo.view_corners(clip.path.view(u), SIZE) for u in np.linspace(0, 1, 40)])
        assert corners.min() >= 0
        assert (corners <= np.array([width - 1, height - 1])).all()


def test_frames_stamps_and_scene_changes(photo: np.ndarray) -> None:
    clips = demo.make_clips([("a", photo), ("b", photo[::-1])], SIZE)
    images, truths = zip(*demo.render_clips(clips, 3))
    assert [truth.photo for truth in truths] == ["a"] * 3 + ["b"] * 3
    assert [truth.scene_change for truth in truths] == [False, False, False, True, False, False]
    assert [truth.H_previous_to_current is None for truth in truths] == [True, False, False, True, False, False]
    assert np.allclose(np.diff([truth.stamp_ns for truth in truths]), 1e9 / 15, atol=1)
    assert all(image.shape == (120, 160) and image.dtype == np.uint8 for image in images)
    assert np.allclose(truths[1].H_previous_to_current,
                       demo.between(clips[0].path.view(0), clips[0].path.view(1 / 3)))


def test_same_seed_same_frames(photo: np.ndarray) -> None:
    def images(seed: int) -> list[np.ndarray]:
        return [image for image, _ in demo.render_clips(demo.make_clips([("a", photo)], SIZE, seed), 2, seed)]

    assert np.array_equal(images(5), images(5))
    assert not np.array_equal(images(5), images(6))


def test_photographs_ship_with_the_library() -> None:
    photos = demo.load_photos()
    assert [name for name, _ in photos] == ["astronaut", "coffee", "rocket", "brick"]
    assert all(min(photo.shape) >= 400 and photo.dtype == np.uint8 for _, photo in photos)


def test_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SourceError, match="scikit-image.*pip install"):
        demo.load_photos()


def test_missing_photograph_is_named() -> None:
    with pytest.raises(SourceError, match="nowhere.png"):
        demo.load_photos(["nowhere.png"])


def test_tiny_photograph_is_refused() -> None:
    with pytest.raises(SourceError, match="dot is 20x10"):
        demo.make_clips([("dot", np.zeros((10, 20), np.uint8))], SIZE)


def test_one_frame_is_no_clip(clip: demo.Clip) -> None:
    with pytest.raises(ValueError, match="two frames"):
        list(demo.render_clips([clip], 1))
