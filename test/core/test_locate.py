"""Patches cut by hand, and a network that says what it was asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from efficient_matcher.config import ExtractConfig
from efficient_matcher.core.features import Extractor
from efficient_matcher.core.locate import Locator, inputs_of, patches
from efficient_matcher.core.runtimes import Arrays, InputSpec
from efficient_matcher.errors import BundleError
from efficient_matcher.records import Frame

pytestmark = pytest.mark.usefixtures("kernels")

COUNTED = np.arange(48, dtype=np.uint8).reshape(6, 8)  # a pixel is 8 y + x


class MovingBackend:
    """Moves all keypoints alike; their spreads are the middle pixels."""

    name, path = "moving", Path("locator.onnx")

    def __init__(self, move: tuple[float, float], pixels: int = 9) -> None:
        self._move, self.asked = np.float32(move), 0
        self.specs = (InputSpec("patches", (None, pixels), np.dtype(np.uint8)),
                      InputSpec("hints", (None, 3), np.dtype(np.float32)))

    def run(self, inputs: Arrays) -> Arrays:
        self.asked += 1
        cut = inputs["patches"]
        return {"moves": np.tile(self._move, (len(cut), 1)), "spreads": cut[:, cut.shape[1] // 2].astype(np.float32)}


def test_patches_are_the_pixels_about_a_point_row_by_row() -> None:
    found = patches(COUNTED, np.array([[3, 2], [6, 4]]), 1)
    assert found.tolist() == [[10, 11, 12, 18, 19, 20, 26, 27, 28], [29, 30, 31, 37, 38, 39, 45, 46, 47]]
    assert found.dtype == np.uint8


def test_beyond_the_border_its_pixels_go_on() -> None:
    found = patches(COUNTED, np.array([[0, 0], [7, 5]]), 1)
    assert found.tolist() == [[0, 0, 1, 0, 0, 1, 8, 8, 9], [38, 39, 39, 46, 47, 47, 46, 47, 47]]
    assert patches(COUNTED, np.array([[4, 3]]), 9).reshape(19, 19)[0].tolist() == [0] * 5 + list(range(8)) + [7] * 6


def test_the_network_is_told_where_in_its_pixel_a_keypoint_lies() -> None:
    inputs = inputs_of(COUNTED, np.float32([[2.75, 2.25], [6, 3.5]]), np.float32([0.5, 2]), 1)
    np.testing.assert_allclose(inputs["hints"], [[-0.25, 0.25, 0.5], [0, -0.5, 2]])  # halves to the even pixel
    assert inputs["patches"][:, 4].tolist() == [8 * 2 + 3, 8 * 4 + 6]
    assert inputs["hints"].dtype == np.float32


def test_keypoints_move_and_stay_inside_the_image() -> None:
    points, spreads = Locator(MovingBackend((1.5, -0.5)))(COUNTED, np.float32([[3.2, 2.1], [6.8, 0.2]]), np.float32([1, 1]))
    np.testing.assert_allclose(points, [[4.7, 1.6], [7, 0]], rtol=1e-6)
    assert spreads.tolist() == [19, 7]
    assert points.dtype == np.float32


def test_without_keypoints_nothing_runs() -> None:
    backend = MovingBackend((1, 1))
    points, spreads = Locator(backend)(COUNTED, np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
    assert len(points) == len(spreads) == backend.asked == 0


@pytest.mark.parametrize("pixels", [8, 16, 10])
def test_patches_that_have_no_middle_are_refused(pixels: int) -> None:
    with pytest.raises(BundleError, match=f"locator.onnx: reads patches of {pixels} pixels, which are no square"):
        Locator(MovingBackend((0, 0), pixels))


class OneSpot:
    """A score map with one keypoint at (20, 12), and descriptors that tell the column of the cell."""

    name, path, specs = "spot", Path("extractor.onnx"), ()

    def run(self, inputs: Arrays) -> Arrays:
        scores = np.zeros((1, 32, 48), np.float32)
        scores[0, 12, 20] = 0.9
        descriptors = np.zeros((1, 4, 6, 6), np.float32)
        descriptors[0, :, range(6), range(6)] = 1
        return {"scores": scores, "descriptors": descriptors}


def extracted(config: ExtractConfig, scale: tuple[float, float] = (1, 1)) -> tuple[list[float], list[float] | None]:
    """Keypoint and spread that the spot becomes when the locator moves it by (1.5, -0.5)."""
    frame = Frame(np.full((32, 48), 7, np.uint8), 0, "camera", scale)
    found = Extractor(OneSpot(), config, locator=Locator(MovingBackend((1.5, -0.5))))(frame)
    return found.keypoints[0].tolist(), None if found.spreads is None else found.spreads.tolist()


def test_an_extractor_asks_its_locator() -> None:
    assert extracted(ExtractConfig()) == ([21.5, 11.5], [7])


def test_places_and_spreads_come_in_pixels_of_the_input() -> None:
    assert extracted(ExtractConfig(), (2, 2)) == ([43.5, 23.5], [14])


def test_it_is_not_asked_where_the_settings_say_so() -> None:
    assert extracted(ExtractConfig(locate=False))[0] == [20, 12]
    assert extracted(ExtractConfig(subpixel=False)) == ([20, 12], None)
