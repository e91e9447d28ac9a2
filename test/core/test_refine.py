"""Matched points moved to where the images agree: known warps, changes of light, and what must stay as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from efficient_matcher.config import Config, RefineConfig
from efficient_matcher.core import align
from efficient_matcher.core.geometry import warp_points
from efficient_matcher.core.refine import Refiner, View
from efficient_matcher.core.remembered import Remembered
from efficient_matcher.records import Features, Frame, Matches

pytestmark = pytest.mark.usefixtures("kernels")

CONFIG = RefineConfig()
SIZE = (320, 240)
ABOUT = np.array([[1, 0, 160], [0, 1, 120], [0, 0, 1.0]])


def moved_by(zoom: float = 1.0, angle: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    return ABOUT @ np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]], [0, 0, 1]]) @ np.linalg.inv(ABOUT)


def features(points: np.ndarray, descriptors: np.ndarray | None = None, size: tuple[int, int] = SIZE) -> Features:
    descriptors = np.eye(len(points), dtype=np.float32) if descriptors is None else descriptors
    return Features(points.astype(np.float32), np.ones(len(points), np.float32), descriptors, size)


def view_of(image0: np.ndarray, image1: np.ndarray, points0: np.ndarray, points1: np.ndarray) -> View:
    return View(Frame(image0), Frame(image1), features(points0), features(points1))


def all_matched(count: int) -> Matches:
    return Matches(np.repeat(np.arange(count, dtype=np.int32)[:, None], 2, axis=1), np.linspace(0.9, 0.5, count,
                                                                                                dtype=np.float32))


def grid(margin: int = 30, step: int = 26) -> np.ndarray:
    x, y = np.meshgrid(np.arange(margin, SIZE[0] - margin, step), np.arange(margin, SIZE[1] - margin, step))
    return np.stack([x.ravel(), y.ravel()], 1).astype(np.float64)


class Case:
    """A textured image, what H makes of it, and matched points whose partners are 0.4 px off in each axis."""

    def __init__(self, image: np.ndarray, H: np.ndarray, error: float = 0.4, points: np.ndarray | None = None) -> None:
        self.H, self.image0 = H, image
        self.image1 = cv2.warpPerspective(image, H, SIZE, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        points = grid() if points is None else points
        true = warp_points(points, H)
        inside = ((true > 12) & (true < np.array(SIZE) - 13)).all(1)
        self.points0, self.true = points[inside], true[inside]
        self.points1 = self.true + np.random.default_rng(0).normal(0, error, self.true.shape)

    def refined(self, image1: np.ndarray | None = None, H: np.ndarray | None = None,
                config: RefineConfig = CONFIG) -> np.ndarray:
        view = view_of(self.image0, self.image1 if image1 is None else image1, self.points0, self.points1)
        return Refiner(view, config).refine(all_matched(len(self.points0)), self.H if H is None else H).points1

    def errors(self, points1: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points1 - self.true, axis=1)


@pytest.fixture()
def image(make_textured: Callable[..., np.ndarray]) -> np.ndarray:
    return make_textured()


@pytest.mark.parametrize("H", [moved_by(shift=(7.3, -4.6)), moved_by(angle=0.4), moved_by(zoom=1.7), moved_by(zoom=0.6),
                               moved_by(1.3, 2.5, (3.5, 0.25))])
def test_points_move_to_the_known_place(image: np.ndarray, H: np.ndarray) -> None:
    case = Case(image, H)
    errors = case.errors(case.refined())
    assert np.median(case.errors(case.points1)) > 0.4
    assert np.median(errors) < 0.06 and (errors < 0.15).mean() > 0.8


def dimmed(image: np.ndarray) -> np.ndarray:
    return (0.5 * image + 60).astype(np.uint8)


def gamma(image: np.ndarray) -> np.ndarray:
    return (255 * (image / 255.0) ** 0.6).astype(np.uint8)


def blurred(image: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), 1.2)


def noisy(image: np.ndarray) -> np.ndarray:
    return np.clip(image + np.random.default_rng(1).normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def as_jpeg(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_GRAYSCALE)


@pytest.mark.parametrize("change", [dimmed, gamma, blurred, noisy, as_jpeg])
def test_light_blur_and_noise_are_borne(image: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> None:
    case = Case(image, moved_by(1.1, 0.2, (2.5, 1.25)))
    errors = case.errors(case.refined(change(case.image1)))
    assert np.median(errors) < 0.15
    assert (errors <= case.errors(case.points1) + 0.2).all()


def test_noise_hardly_moves_what_is_in_place(image: np.ndarray) -> None:
    case = Case(image, moved_by(shift=(4.0, 2.0)), error=0.0)
    errors = case.errors(case.refined(noisy(case.image1)))
    assert errors.max() < 0.15 and np.median(errors) < 0.05


def test_flat_patches_stay(image: np.ndarray) -> None:
    case = Case(np.full_like(image, 100), moved_by(shift=(4.0, 2.0)))
    np.testing.assert_array_equal(case.refined(), case.points1.astype(np.float32))
    grainy = noisy(case.image0)  # noise is texture, but not the same in both
    np.testing.assert_array_equal(replaced(case, grainy).refined(noisy(case.image1)[::-1].copy()),
                                  case.points1.astype(np.float32))


def replaced(case: Case, image0: np.ndarray) -> Case:
    case.image0 = image0
    return case


def test_an_edge_says_nothing_along_itself_and_points_stay() -> None:
    stripes = np.repeat(np.where(np.arange(SIZE[0]) // 20 % 2, 200, 60)[None], SIZE[1], axis=0).astype(np.uint8)
    case = Case(cv2.GaussianBlur(stripes, (0, 0), 2.0), moved_by(shift=(3.0, 0.0)))
    np.testing.assert_array_equal(case.refined(), case.points1.astype(np.float32))


def test_points_do_not_move_far(image: np.ndarray) -> None:
    case = Case(image, np.eye(3), error=0.0)
    case.points1 = case.true + [2.5, 0]
    moves = np.linalg.norm(case.refined(H=moved_by(shift=(2.5, 0))) - case.points1, axis=1)
    assert moves.max() < CONFIG.max_move_px + 1e-3


def test_points_at_the_border_are_no_trouble(image: np.ndarray) -> None:
    edge = np.array([[0, 0], [319, 239], [319, 0], [5, 120], [160, 2], [160, 239], [314, 120]], np.float64)
    case = Case(image, np.eye(3), points=np.concatenate([grid(), edge]))
    case.points0, case.true = np.concatenate([grid(), edge]), np.concatenate([grid(), edge])
    case.points1 = case.true + np.random.default_rng(0).normal(0, 0.4, case.true.shape)
    found = case.refined()
    assert np.isfinite(found).all()
    assert (case.errors(found) <= case.errors(case.points1) + 0.1).all()


class TwoPlanes:
    """The left half moves by (3, 1), the right half is zoomed and turned."""

    left, right = moved_by(shift=(3.0, 1.0)), moved_by(1.15, 0.15, (20.0, 5.0))

    def __init__(self, image: np.ndarray) -> None:
        points = grid(24, 16)
        points = points[np.abs(points[:, 0] - 160) > 40]
        on_left = points[:, 0] < 160
        true = np.where(on_left[:, None], warp_points(points, self.left), warp_points(points, self.right))
        shown = [cv2.warpPerspective(image, H, SIZE, borderMode=cv2.BORDER_REFLECT) for H in (self.left, self.right)]
        inside = ((true > 12) & (true < np.array(SIZE) - 13)).all(1) & (on_left | (true[:, 0] > 175))
        self.true, self.on_left = true[inside], on_left[inside]
        self.points1 = self.true + np.random.default_rng(0).normal(0, 0.3, self.true.shape)
        self.view = view_of(image, np.where(np.arange(SIZE[0]) < 160, *shown), points[inside], self.points1)


def test_two_planes_each_have_their_own_motion(image: np.ndarray) -> None:
    case = TwoPlanes(image)
    found = Refiner(case.view, CONFIG).refine(all_matched(len(case.true)), TwoPlanes.left).points1
    before, after = (np.linalg.norm(points - case.true, axis=1) for points in (case.points1, found))
    for side in (case.on_left, ~case.on_left):
        assert side.sum() > 20 and np.median(after[side]) < 0.5 * np.median(before[side])
    assert (after <= before + 0.25).all()


def test_nothing_is_added_where_the_scene_is_not_one_plane(image: np.ndarray) -> None:
    case = TwoPlanes(image)
    everything = all_matched(len(case.true))
    most = Matches(everything.indices[10:], everything.scores[10:])
    refiner = Refiner(case.view, CONFIG)
    assert len(refiner.guide(most, TwoPlanes.left, 0.2)) > len(most)
    assert refiner.guide(refiner.refine(most, TwoPlanes.left), TwoPlanes.left, 0.2).indices is most.indices


def test_a_frame_of_two_pairs_is_blurred_once_unless_the_zoom_asks_for_more(
        image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = Case(image, moved_by(1.0, 0.1)), Case(image, moved_by(1.6))
    expected = [case.refined() for case in (near, near, far)]
    asked: list[float] = []
    monkeypatch.setattr("efficient_matcher.core.refine.blurred",
                        lambda picture, ratio: asked.append(ratio) or align.blurred(picture, ratio))
    blurs: Remembered[np.ndarray] = Remembered()
    frames = Frame(image), Frame(near.image1), Frame(far.image1)
    for case, other, points in ((near, frames[1], expected[0]), (near, frames[1], expected[1]), (far, frames[2], expected[2])):
        view = View(frames[0], other, features(case.points0), features(case.points1))
        got = Refiner(view, CONFIG, blurs).refine(all_matched(len(case.true)), case.H).points1
        np.testing.assert_array_equal(got, points)
    assert asked == [1, 1, pytest.approx(1.6, abs=0.01)] and len(blurs) == 2


def test_surroundings_that_differ_leave_a_point_alone(
        image: np.ndarray, make_textured: Callable[..., np.ndarray]) -> None:
    case = Case(image, np.eye(3))
    np.testing.assert_array_equal(case.refined(make_textured(seed=9)), case.points1.astype(np.float32))


def test_without_a_homography_neighbours_tell_the_motion(image: np.ndarray) -> None:
    case = Case(image, moved_by(1.2, 0.5))
    view = view_of(case.image0, case.image1, case.points0, case.points1)
    found = Refiner(view, CONFIG).refine(all_matched(len(case.true)), None).points1
    assert np.median(case.errors(found)) < 0.1


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_few_matches(image: np.ndarray, count: int) -> None:
    view = view_of(image, image, grid()[:count], grid()[:count] + 0.3)
    found = Refiner(view, CONFIG).refine(all_matched(count), None)
    assert found.points0.shape == found.points1.shape == (count, 2) and found.points1.dtype == np.float32
    assert len(Refiner(view, CONFIG).refine(all_matched(count), np.eye(3))) == count


@pytest.mark.parametrize("H", [np.diag([1.0, -1.0, 1.0]), np.diag([1e-6, 1e-6, 1]), np.diag([1e6, 1e6, 1]),
                               np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1.0]]), np.zeros((3, 3))])
def test_senseless_homographies_do_no_harm(image: np.ndarray, H: np.ndarray) -> None:
    case = Case(image, np.eye(3))
    found = case.refined(H=H)
    assert np.isfinite(found).all() and (case.errors(found) <= case.errors(case.points1) + 0.2).all()


def test_points_all_in_one_place(image: np.ndarray) -> None:
    points = np.tile([[100.0, 100.0]], (30, 1))
    found = Refiner(view_of(image, image, points, points), CONFIG).refine(all_matched(30), None)
    assert np.isfinite(found.points1).all()


def test_the_same_gives_the_same_and_the_rest_stays(image: np.ndarray) -> None:
    case = Case(image, moved_by(angle=0.1))
    view = view_of(case.image0, case.image1, case.points0, case.points1)
    first, second = (Refiner(view, CONFIG).refine(all_matched(len(case.true)), case.H) for _ in range(2))
    np.testing.assert_array_equal(first.points1, second.points1)
    np.testing.assert_array_equal(first.points0, view.features0.keypoints)
    np.testing.assert_array_equal(first.scores, all_matched(len(case.true)).scores)


def test_points_are_in_input_pixels_whatever_the_frames_are(image: np.ndarray) -> None:
    """Frame 0 is half as wide as its input, frame 1 twice as large as its own."""
    case = Case(image, moved_by(shift=(3.25, 1.5)))
    scale0, scale1 = np.array([2.0, 1.0]), np.array([0.5, 0.5])
    into0, into1 = (case.points0 + 0.5) * scale0 - 0.5, (case.points1 + 0.5) * scale1 - 0.5
    lift0, lift1 = (np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1]]) for x, y in (scale0, scale1))
    view = View(Frame(case.image0, scale=tuple(scale0)), Frame(case.image1, scale=tuple(scale1)),
                features(into0, size=(640, 240)), features(into1, size=(160, 120)))
    found = Refiner(view, CONFIG).refine(all_matched(len(into0)), lift1 @ case.H @ np.linalg.inv(lift0)).points1
    assert np.median(case.errors((found + 0.5) / scale1 - 0.5)) < 0.06


def guided_case(image: np.ndarray) -> tuple[Case, View, Matches]:
    """All keypoints have their partners, at the same index; only the first 20 are matched yet."""
    case = Case(image, moved_by(1.1, 0.1, (2.0, 3.0)))
    known = all_matched(len(case.true))
    return case, view_of(case.image0, case.image1, case.points0, case.points1), Matches(known.indices[:20],
                                                                                       known.scores[:20])


def test_guided_matches_are_the_ones_left_out(image: np.ndarray) -> None:
    case, view, known = guided_case(image)
    found = Refiner(view, CONFIG).guide(known, case.H, 0.2)
    assert len(found) > 0.9 * len(case.true) > 25
    np.testing.assert_array_equal(found.indices[:20], known.indices)
    np.testing.assert_array_equal(found.indices[:, 0], found.indices[:, 1])
    assert (np.diff(found.scores) <= 0).all() and found.scores[20:].max() <= 0.2
    assert len(np.unique(found.indices[:, 0])) == len(found)
    added = found.indices[20:, 0]
    assert np.median(np.linalg.norm(found.points1[20:] - case.true[added], axis=1)) < 0.06


def test_guided_matches_need_descriptors_place_and_image(image: np.ndarray) -> None:
    case, view, known = guided_case(image)
    strangers = replace(view, features1=replace(view.features1, descriptors=np.roll(view.features1.descriptors, 1, 1)))
    far = moved_by(1.1, 0.1, (14.0, 3.0))
    other = replace(view, frame1=Frame(image[::-1].copy()))
    for seen, H in ((strangers, case.H), (view, far), (other, case.H)):
        assert len(Refiner(seen, CONFIG).guide(known, H, 0.2)) == 20


def test_nothing_left_to_guide(image: np.ndarray) -> None:
    case, view, _ = guided_case(image)
    everything = all_matched(len(case.true))
    assert Refiner(view, CONFIG).guide(everything, case.H, 0.2) is everything


def test_settings_are_heeded(image: np.ndarray) -> None:
    case = Case(image, moved_by(shift=(2.0, 2.0)))
    for name, value in (("max_move_px", 0.0), ("min_correlation", 1.0), ("prior_px", 0.05)):
        config = Config().with_values({f"refine.{name}": value}).refine
        far = np.linalg.norm(case.refined(config=config) - case.points1.astype(np.float32), axis=1)
        assert np.median(far) < 0.1
