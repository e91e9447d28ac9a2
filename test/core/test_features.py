"""Score maps made by hand -> keypoints and descriptors that can be worked out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from efficient_matcher.config import ExtractConfig
from efficient_matcher.core import features
from efficient_matcher.core.features import Extractor, detect, sample_descriptors
from efficient_matcher.errors import ImageError
from efficient_matcher.records import Frame

pytestmark = pytest.mark.usefixtures("kernels")

WHOLE_PIXELS = ExtractConfig(subpixel=False)


def score_map(points: dict[tuple[int, int], float], height: int = 48, width: int = 64) -> NDArray[np.float32]:
    """[height,width] of zeros with a score at each (x, y)."""
    scores = np.zeros((height, width), np.float32)
    for (x, y), score in points.items():
        scores[y, x] = score
    return scores


def found(scores: NDArray[np.float32], config: ExtractConfig = WHOLE_PIXELS) -> list[tuple[float, float]]:
    """Keypoints as a list of (x, y)."""
    return [tuple(point) for point in detect(scores, config)[0].tolist()]


class FixedBackend:
    """Answers the same whatever the image, and keeps what it was asked."""

    name = "fixed"

    def __init__(self, scores: NDArray[np.float32], descriptors: NDArray[np.float32]) -> None:
        self.outputs = {"scores": scores[None], "descriptors": descriptors[None]}
        self.inputs: dict[str, NDArray[np.uint8]] = {}

    def run(self, inputs: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """The fixed answer."""
        self.inputs = inputs
        return self.outputs


def test_keypoints_come_best_first() -> None:
    scores = score_map({(10, 20): 0.3, (40, 8): 0.9, (50, 40): 0.5})
    points, values, _ = detect(scores, WHOLE_PIXELS)
    assert points.tolist() == [[40, 8], [50, 40], [10, 20]]
    np.testing.assert_array_equal(values, np.float32([0.9, 0.5, 0.3]))
    assert points.dtype == values.dtype == np.float32


class PixelBackend:
    """Scores are the image's pixels, but for a place of its own where it always sees something; one descriptor for all."""

    name = "pixels"
    asked = 0

    def run(self, inputs: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """The answer to one image."""
        self.asked += 1
        scores = inputs["image"][:, 0].astype(np.float32) / 255
        scores[0, 20, 12] = 0.8
        return {"scores": scores, "descriptors": np.ones((1, 6, 8, 4), np.float32)}


def test_mirrored_keypoints_are_those_all_four_images_have() -> None:
    frame = Frame((score_map({(50, 40): 200, (20, 10): 100})).astype(np.uint8))
    backend = PixelBackend()
    plain = Extractor(backend, ExtractConfig(subpixel=False, max_keypoints=8))(frame)
    assert plain.keypoints.tolist() == [[12, 20], [50, 40], [20, 10]] and backend.asked == 1
    mirrored = Extractor(backend, ExtractConfig(subpixel=False, max_keypoints=8, mirrored=True))(frame)
    assert backend.asked == 5
    assert mirrored.keypoints[:2].tolist() == [[50, 40], [20, 10]]
    np.testing.assert_allclose(mirrored.scores, np.float32([200 / 255, 100 / 255, 0.2, 0.2, 0.2, 0.2]), rtol=1e-6)
    assert sorted(mirrored.keypoints[2:].tolist()) == [[12, 20], [12, 27], [51, 20], [51, 27]]


def test_black_frame_gives_no_keypoints() -> None:
    points, values, _ = detect(score_map({}), ExtractConfig(score_threshold=0.0))
    assert points.shape == (0, 2) and values.shape == (0,)


def test_threshold_keeps_what_reaches_it() -> None:
    scores = score_map({(10, 20): 0.25, (40, 8): 0.2499, (50, 40): 0.5})
    config = ExtractConfig(score_threshold=0.25, subpixel=False)
    assert found(scores, config) == [(50, 40), (10, 20)]


@pytest.mark.parametrize("distance, expected", [(4, 1), (5, 2)])
@pytest.mark.parametrize("diagonal", [0, 1])
def test_weaker_neighbours_are_suppressed(distance: int, expected: int, diagonal: int) -> None:
    scores = score_map({(20, 20): 0.9, (20 + distance, 20 + diagonal * distance): 0.8})
    assert len(found(scores)) == expected


def test_no_suppression_with_radius_zero() -> None:
    config = ExtractConfig(nms_radius_px=0, subpixel=False)
    assert found(score_map({(20, 20): 0.5, (21, 20): 0.5}), config) == [(20, 20), (21, 20)]


def test_equal_neighbours_leave_the_first() -> None:
    scores = score_map({(20, 20): 0.5, (23, 20): 0.5, (20, 23): 0.5, (40, 30): 0.5})
    assert found(scores) == [(20, 20), (40, 30)]


def test_no_two_keypoints_within_the_radius_on_plateaus() -> None:
    scores = np.random.default_rng(0).integers(0, 40, (64, 64)).astype(np.float32) / 40
    points = np.array(found(scores))
    distances = np.abs(points[:, None] - points[None]).max(2) + 99 * np.eye(len(points))
    assert len(points) > 20 and distances.min() > WHOLE_PIXELS.nms_radius_px


def test_ties_leave_the_same_whether_compared_or_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(1).integers(0, 200, (96, 96)).astype(np.float32) / 200
    left = []
    for most in (1, 10_000):  # all by rank, all by comparison
        monkeypatch.setattr(features, "MOST_TIES", most)
        left.append(found(scores, ExtractConfig(nms_radius_px=2, subpixel=False, max_keypoints=8192)))
    assert left[0] == left[1] and len(left[0]) > 100


@pytest.mark.parametrize("border", [0, 1, 4, 9])
def test_border(border: int) -> None:
    config = ExtractConfig(border_px=border, nms_radius_px=0, subpixel=False, max_keypoints=8192)
    points = detect(np.full((48, 64), 0.5, np.float32), config)[0]
    assert points.min(0).tolist() == [border, border]
    assert points.max(0).tolist() == [63 - border, 47 - border]


def test_border_larger_than_the_image() -> None:
    assert found(score_map({(20, 20): 0.9}), ExtractConfig(border_px=64)) == []


def test_top_k_of_equal_scores_is_the_raster_order() -> None:
    places = {(x, y): 0.5 for y in range(6, 44, 6) for x in range(6, 60, 6)}
    config = ExtractConfig(max_keypoints=8, subpixel=False)
    assert found(score_map({**places, (54, 42): 0.7}), config) == [(54, 42), *list(places)[:7]]


def test_the_best_are_kept() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((120, 160)).astype(np.float32)
    everything, all_values, _ = detect(scores, ExtractConfig(max_keypoints=8192, sharp_first=False))
    points, values, _ = detect(scores, ExtractConfig(max_keypoints=50, sharp_first=False))
    assert len(everything) > 100
    np.testing.assert_array_equal(points, everything[:50])
    np.testing.assert_array_equal(values, np.sort(all_values)[::-1][:50])


def test_of_half_again_as_many_the_sharp_ones_are_kept() -> None:
    """By score the order is 0 to 12; the even ones are spread over two pixels more, with seven times the variance."""
    scores, places = score_map({}, 48, 320), [(12 + 20 * i, 20) for i in range(13)]
    for i, (x, y) in enumerate(places):
        side = 2 if i % 2 == 0 else 1
        scores[y, x], scores[y, x - side], scores[y, x + side] = 0.5 - 0.01 * i, 0.2, 0.2
    config = ExtractConfig(max_keypoints=8)
    points, values, spreads = detect(scores, config)
    assert np.round(points[:, 0]).astype(int).tolist() == [places[i][0] for i in (1, 3, 5, 7, 9, 11, 0, 2)]
    np.testing.assert_allclose(values[:3], [0.49, 0.47, 0.45], atol=1e-6)
    np.testing.assert_array_equal(np.argsort(-values / spreads, kind="stable"), np.arange(8))
    by_score = detect(scores, ExtractConfig(max_keypoints=8, sharp_first=False))[0]
    assert np.round(by_score[:, 0]).astype(int).tolist() == [x for x, _ in places[:8]]
    assert found(scores, ExtractConfig(max_keypoints=8, subpixel=False)) == places[:8]


def test_centroid_of_known_weights() -> None:
    scores = score_map({(20, 20): 0.5, (21, 20): 0.25, (20, 18): 0.25})
    points = detect(scores, ExtractConfig())[0]
    np.testing.assert_allclose(points, [[20.25, 19.5]], atol=1e-6)


def test_centroid_looks_no_further_than_two_pixels() -> None:
    scores = score_map({(20, 20): 0.5, (23, 20): 0.4, (20, 17): 0.4})
    assert found(scores, ExtractConfig()) == [(20, 20)]


def test_centroid_finds_a_peak_between_pixels() -> None:
    y, x = np.mgrid[:48, :64]
    scores = np.exp(-((x - 30.3) ** 2 + (y - 21.8) ** 2) / (2 * 0.6**2)).astype(np.float32)
    np.testing.assert_allclose(detect(scores, ExtractConfig())[0], [[30.3, 21.8]], atol=0.02)


def test_spread_is_the_variance_of_the_scores_about_the_centroid() -> None:
    scores = score_map({(20, 20): 0.4, (21, 20): 0.2, (20, 22): 0.2, (40, 30): 0.9})
    points, _, spreads = detect(scores, ExtractConfig())
    np.testing.assert_allclose(points, [[40, 30], [20.25, 20.5]], atol=1e-6)
    # Mean squares of x and of y less those of the centroid; a single pixel has next to none.
    np.testing.assert_allclose(spreads, [0.02, 0.25 * 1 - 0.25**2 + 0.25 * 4 - 0.5**2], atol=1e-6)
    assert detect(scores, WHOLE_PIXELS)[2] is None


def test_spreads_are_in_input_pixels() -> None:
    scores = score_map({(20, 20): 0.4, (21, 20): 0.2})
    backend = FixedBackend(scores, np.ones((6, 8, 4), np.float32))
    spreads = [Extractor(backend, ExtractConfig())(Frame(np.zeros((48, 64), np.uint8), scale=(scale, scale))).spreads
               for scale in (1.0, 3.0)]
    np.testing.assert_allclose(spreads[1], 3 * spreads[0])


@pytest.mark.parametrize("x, y", [(0, 0), (63, 0), (63, 47), (0, 47)])
def test_centroid_window_ends_at_the_image_border(x: int, y: int) -> None:
    scores = score_map({(x, y): 0.5, (abs(x - 1), y): 0.5})
    points = detect(scores, ExtractConfig(border_px=0))[0]
    np.testing.assert_allclose(points, [[(x + abs(x - 1)) / 2, y]], atol=1e-6)


def test_descriptor_at_a_cell_centre_is_the_cell_s() -> None:
    coarse = np.random.default_rng(0).standard_normal((6, 8, 16)).astype(np.float32)
    expected = coarse[2, 5] / np.linalg.norm(coarse[2, 5])
    sampled = sample_descriptors(coarse, np.array([[5 * 8 + 3.5, 2 * 8 + 3.5]], np.float32))
    np.testing.assert_allclose(sampled[0], expected, atol=1e-6)
    assert sampled.dtype == np.float32


def test_descriptors_between_cells_are_bilinear() -> None:
    """A map linear in x and y is met exactly; the third channel makes the norm known."""
    y, x = np.mgrid[:6, :8].astype(np.float32)
    coarse = np.stack([x, y, np.ones_like(x)], 2)
    points = np.array([[3.5 + 8 * 2.25, 3.5 + 8 * 1.75], [3.5 + 8 * 6.5, 3.5 + 8 * 4.9]], np.float32)
    expected = np.array([[2.25, 1.75, 1], [6.5, 4.9, 1]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(sample_descriptors(coarse, points), expected, atol=1e-6)


@pytest.mark.parametrize("point, cell", [((0, 0), (0, 0)), ((63, 0), (0, 7)), ((63, 47), (5, 7)), ((0, 47), (5, 0))])
def test_descriptors_are_clamped_at_the_border(point: tuple[int, int], cell: tuple[int, int]) -> None:
    coarse = np.random.default_rng(0).standard_normal((6, 8, 16)).astype(np.float32)
    expected = coarse[cell] / np.linalg.norm(coarse[cell])
    np.testing.assert_allclose(sample_descriptors(coarse, np.array([point], np.float32))[0], expected, atol=1e-6)


def test_descriptors_in_bytes_mean_the_same() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(-128, 128, (6, 8, 16))
    points = rng.uniform(0, 40, (20, 2)).astype(np.float32)
    sampled = sample_descriptors((numbers + 128).astype(np.uint8), points)
    np.testing.assert_allclose(sampled, sample_descriptors(3e-3 * numbers.astype(np.float32), points), atol=1e-5)


def test_no_points_no_descriptors() -> None:
    assert sample_descriptors(np.ones((6, 8, 16), np.float32), np.zeros((0, 2), np.float32)).shape == (0, 16)


def test_a_descriptor_of_zeros_stays_finite() -> None:
    sampled = sample_descriptors(np.zeros((6, 8, 16), np.float32), np.array([[20, 20]], np.float32))
    np.testing.assert_array_equal(sampled, np.zeros((1, 16)))


def test_extractor_answers_in_input_pixels() -> None:
    backend = FixedBackend(score_map({(10, 20): 0.9, (40, 8): 0.5}), np.ones((6, 8, 4), np.float32))
    frame = Frame(np.zeros((48, 64), np.uint8), scale=(2.0, 1.5))
    features = Extractor(backend, ExtractConfig())(frame)
    np.testing.assert_allclose(features.keypoints, [[20.5, 30.25], [80.5, 12.25]])
    np.testing.assert_allclose(features.descriptors, np.full((2, 4), 0.5))
    assert features.keypoints.dtype == np.float32 and features.image_size == (128, 72)
    assert backend.inputs["image"].shape == (1, 1, 48, 64) and backend.inputs["image"].dtype == np.uint8


def test_extractor_without_keypoints() -> None:
    backend = FixedBackend(score_map({}), np.ones((6, 8, 4), np.float32))
    features = Extractor(backend, ExtractConfig())(Frame(np.zeros((48, 64), np.uint8)))
    assert len(features) == 0
    assert (features.keypoints.shape, features.scores.shape, features.descriptors.shape) == ((0, 2), (0,), (0, 4))


def test_extractor_is_deterministic_and_leaves_the_maps_alone() -> None:
    rng = np.random.default_rng(0)
    scores = (rng.integers(0, 50, (48, 64)) / 50).astype(np.float32)
    coarse = rng.standard_normal((6, 8, 4)).astype(np.float32)
    extractor = Extractor(FixedBackend(scores.copy(), coarse.copy()), ExtractConfig())
    first, second = (extractor(Frame(np.zeros((48, 64), np.uint8))) for _ in range(2))
    np.testing.assert_array_equal(first.keypoints, second.keypoints)
    np.testing.assert_array_equal(first.descriptors, second.descriptors)
    np.testing.assert_array_equal(extractor.backend.outputs["scores"][0], scores)


def test_config_may_be_replaced_between_calls() -> None:
    backend = FixedBackend(score_map({(10, 20): 0.9, (40, 8): 0.5}), np.ones((6, 8, 4), np.float32))
    extractor = Extractor(backend, ExtractConfig())
    extractor.config = ExtractConfig(score_threshold=0.6)
    assert len(extractor(Frame(np.zeros((48, 64), np.uint8)))) == 1


def test_frame_of_odd_size_is_an_error() -> None:
    extractor = Extractor(FixedBackend(score_map({}), np.ones((6, 8, 4), np.float32)), ExtractConfig())
    with pytest.raises(ImageError, match="frame is 63 x 48 pixels, sides must be multiples of 8"):
        extractor(Frame(np.zeros((48, 63), np.uint8)))
