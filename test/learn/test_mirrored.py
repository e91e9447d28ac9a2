"""The mean over mirror images, held against single answers laid out by hand."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from efficient_matcher.learn.mirrored import MIRRORS, mirrored, mirrored_answers
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig, score_map

SMALL = SuperPointConfig(widths=(4,) * 8, detector_width=8, descriptor_width=8, descriptor_dim=8, location_width=4)


def image(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(seed))


@pytest.fixture()
def network() -> SuperPoint:
    torch.manual_seed(0)
    return SuperPoint(SMALL).eval()


@pytest.mark.parametrize("axes", MIRRORS)
def test_a_pixel_goes_where_the_mirror_shows_it(axes: tuple[int, ...]) -> None:
    probabilities = torch.rand(1, 65, 3, 4).softmax(1)
    back = mirrored(probabilities, axes)
    pixels = torch.nn.functional.pixel_shuffle(probabilities[:, :-1], 8)
    assert torch.equal(torch.nn.functional.pixel_shuffle(back[:, :-1], 8), pixels.flip(axes))
    assert torch.equal(back[:, -1], probabilities[:, -1].flip([axis - 1 for axis in axes]))


@torch.no_grad()
def test_the_mean_is_that_of_the_four_score_maps(network: SuperPoint) -> None:
    logits, descriptors = mirrored_answers(network, image())
    maps = [score_map(network(image().flip(axes))[0]).flip([axis - 1 for axis in axes]) if axes
            else score_map(network(image())[0]) for axes in ((), *MIRRORS)]
    torch.testing.assert_close(score_map(logits), torch.stack(maps).mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(descriptors, network(image())[1])


def test_mirroring_the_image_mirrors_the_answer(network: SuperPoint) -> None:
    for axes in MIRRORS:
        there, back = mirrored_answers(network, image().flip(axes))[0], mirrored_answers(network, image())[0]
        torch.testing.assert_close(score_map(there), score_map(back).flip([axis - 1 for axis in axes]), rtol=1e-4, atol=1e-6)
