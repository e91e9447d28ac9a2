"""Pictures against numbers worked out by hand: where a spot lies, how deep a wall is, what hides what."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from efficient_matcher.scenes.render import NOTHING, Camera, Lamp, Rectangle, depth_map, rasterize, render

K = np.array([[300.0, 0, 100], [0, 310.0, 75], [0, 0, 1]])
SIZE = (200, 150)
EVEN = Lamp(np.array([0.0, 0, 0]), even=1.0, point=0.0)


def wall(z: float, half: float = 10.0, texture: np.ndarray | None = None, centre: tuple[float, float] = (0, 0),
         turn_deg: float = 0.0) -> Rectangle:
    """A square across the optical axis at depth z, turned about its upright middle line."""
    angle = np.radians(turn_deg)
    edge_x = 2 * half * np.array([np.cos(angle), 0, np.sin(angle)])
    edge_y = np.array([0, 2 * half, 0])
    picture = np.full((64, 64), 100, np.uint8) if texture is None else texture
    return Rectangle(np.array([*centre, z]) - (edge_x + edge_y) / 2, edge_x, edge_y, lambda: picture)


def camera(pose: np.ndarray | None = None) -> Camera:
    return Camera(K, np.eye(4) if pose is None else pose, SIZE)


def spot(x: float, y: float, side: int = 512) -> np.ndarray:
    """A bright blob at texture pixel (x, y) on black."""
    ys, xs = np.mgrid[:side, :side]
    return np.rint(250 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 50)).astype(np.uint8)


def centroid(image: np.ndarray) -> np.ndarray:
    weights = image.astype(float)
    ys, xs = np.mgrid[:image.shape[0], :image.shape[1]]
    return np.array([(weights * xs).sum(), (weights * ys).sum()]) / weights.sum()


@pytest.mark.parametrize(("z", "turn_deg"), [(2.0, 0.0), (3.0, 40.0), (1.0, -50.0)])
def test_a_spot_lies_where_the_camera_projects_it(z: float, turn_deg: float) -> None:
    half = 0.2 * z
    rectangle = wall(z, half, spot(300, 200), turn_deg=turn_deg)
    image, depth = render([rectangle], camera(), EVEN)
    place = rectangle.corner + (300.5 / 512) * rectangle.edge_x + (200.5 / 512) * rectangle.edge_y
    expected = (K @ place)[:2] / place[2]
    assert centroid(image) == pytest.approx(expected, abs=0.1)
    assert depth[round(expected[1]), round(expected[0])] == pytest.approx(place[2], rel=2e-3)


def test_depth_of_a_wall_askew_is_exact() -> None:
    depth = depth_map([wall(4.0, turn_deg=30.0)], camera())
    x = (np.arange(SIZE[0]) - 100) / 300
    slope = np.tan(np.radians(30))  # z = 4 + slope X and X = x z
    assert np.allclose(depth, np.broadcast_to(4 / (1 - slope * x), depth.shape), rtol=1e-5)


def test_the_nearer_hides_the_farther_and_ends_where_it_should() -> None:
    surfaces, inverse = rasterize([wall(4.0), wall(2.0, half=0.1), wall(-2.0)], camera())
    ys, xs = np.nonzero(surfaces == 1)
    # half = 0.1 m at 2 m is 15 px by 15.5 px about the principal point
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (85, 115, 60, 90)
    assert (surfaces == 0).sum() == surfaces.size - 31 * 31
    assert np.allclose(inverse[surfaces == 1], 0.5) and np.allclose(inverse[surfaces == 0], 0.25)


def test_nothing_is_seen_beside_a_small_wall_and_of_one_edge_on() -> None:
    assert (depth_map([wall(2.0, half=0.1)], camera())[:, :80] == 0).all()
    edge_on = Rectangle(np.array([0, -1, 1.0]), np.array([0, 0, 2.0]), np.array([0, 2.0, 0]), lambda: spot(1, 1))
    assert (rasterize([edge_on], camera())[0] == NOTHING).all()


def test_the_corner_of_a_wall_that_shows_one_column_of_four_rows() -> None:
    size = np.array([2.0, 2.0, 0])  # metres, at 256 px a metre: between two mips
    end = np.array([(0.0 - 100) / 300, (1.5 - 75) / 310, 1]) * 3  # of half pixels, four in one column
    corner = Rectangle(end - size, size * [1, 0, 0], size * [0, 1, 0], lambda: np.full((512, 512), 100, np.uint8))
    image, _ = render([corner], camera(), EVEN)
    assert image[:2, 0].tolist() == [50, 50] and np.count_nonzero(image) == 2


def test_a_fine_pattern_far_away_is_grey_not_moire() -> None:
    stripes = np.zeros((512, 512), np.uint8)
    stripes[:, ::2] = 200
    image, _ = render([wall(2.0, half=0.4, texture=stripes)], camera(), EVEN)
    inner = image[40:110, 60:140]
    assert inner.mean() == pytest.approx(100, abs=2) and inner.std() < 3


def test_a_lamp_lights_what_is_near_it() -> None:
    lamp = Lamp(np.array([-1.0, 0, 1.5]), even=0.2, point=1.0, reach_m=1.0)
    image, _ = render([wall(2.0)], camera(), lamp)
    assert image[75, 10] > 1.3 * image[75, 190] > 20


def test_a_camera_that_moves_right_sees_the_wall_move_left() -> None:
    texture = cv2.resize(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8), (512, 512))
    moved = np.eye(4)
    moved[0, 3] = -0.1  # 0.1 m to the right
    image0, _ = render([wall(3.0, half=1.5, texture=texture)], camera(), EVEN)
    image1, _ = render([wall(3.0, half=1.5, texture=texture)], camera(moved), EVEN)
    # 300 px * 0.1 m / 3 m are 10 px
    assert np.abs(image0[:, 30:190].astype(float) - image1[:, 20:180]).mean() < 0.5
