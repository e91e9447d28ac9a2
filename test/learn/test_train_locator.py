"""Pairs of patches whose truth is known, and a locator that learns from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from efficient_matcher.core.locate import inputs_of  # noqa: E402
from efficient_matcher.core.settle import NOISE  # noqa: E402
from efficient_matcher.errors import MatcherError, RecipeError  # noqa: E402
from efficient_matcher.learn import patches, train_locator  # noqa: E402
from efficient_matcher.learn.augment import AugmentConfig  # noqa: E402
from efficient_matcher.learn.data import ImageSet  # noqa: E402
from efficient_matcher.learn.keypoints import warp_points  # noqa: E402
from efficient_matcher.learn.locator import Locator  # noqa: E402
from efficient_matcher.learn.patches import PatchSet, patch_pairs  # noqa: E402
from efficient_matcher.learn.prune import Ramp  # noqa: E402
from efficient_matcher.learn.recipe import from_mapping  # noqa: E402
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig  # noqa: E402
from efficient_matcher.learn.train_locator import LocatorTraining, locator_loss, magnified, with_locator  # noqa: E402
from efficient_matcher.learn.training import LoopConfig  # noqa: E402
from efficient_matcher.learn.views import MILD, ViewConfig  # noqa: E402

TINY = SuperPointConfig((4,) * 8, 8, 8, 16)
VIEWS = ViewConfig(width=128, height=96, views=4, keypoints=40, tiled=0.0, warp=MILD, photometric=AugmentConfig(probability=0.0))
RECIPE = LocatorTraining(widths=(32, 16), reach_px=4, views=VIEWS, pairs=256,
                         loop=LoopConfig(steps=150, learning_rate=5e-3, warmup_steps=10, average_decay=0.9))


def dots(count: int = 600, error_px: float = 0.6, reach_px: int = 4) -> PatchSet:
    """Pairs of round dots at known places, whose keypoints are off by `error_px` along each axis."""
    rng, side = np.random.default_rng(0), 2 * reach_px + 21
    y, x = np.mgrid[:side, :side]

    def views() -> list[NDArray[np.float32]]:
        columns: list[list[NDArray[np.float32]]] = [[], [], []]
        for place in side / 2 + rng.uniform(-0.5, 0.5, (count, 2)):
            image = (40 + 180 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / 8)).astype(np.uint8)
            point = (place + rng.normal(0, error_px, 2)).astype(np.float32)[None]
            inputs = inputs_of(image, point, np.ones(1, np.float32), reach_px)
            for column, value in zip(columns, (inputs["patches"], inputs["hints"], point - place.astype(np.float32))):
                column.append(value)
        return [torch.from_numpy(np.concatenate(column)) for column in columns]

    return PatchSet(*views(), *views(), torch.eye(3).expand(count, 3, 3))


def pictures(make_textured, count: int = 2) -> ImageSet:
    return ImageSet([str(i) for i in range(count)], [make_textured(96, 128, i) for i in range(count)], {})


@pytest.fixture()
def network() -> SuperPoint:
    torch.manual_seed(0)
    return SuperPoint(TINY).eval()


def test_pairs_show_the_same_point_under_the_warp(network: SuperPoint, make_textured) -> None:
    found = patch_pairs(network, pictures(make_textured), VIEWS, 1.0, 4, seed=0)
    assert len(found) > 10 and found.patches0.shape[1] == 81 and found.patches0.dtype == torch.uint8
    apart = (warp_points(found.points0[:, None], found.H_0to1)[:, 0] - found.points1).norm(dim=1)
    assert apart.max() < patches.SAME_PX
    np.testing.assert_allclose(found.hints0[:, :2], found.points0 - found.points0.round(), atol=1e-6)
    again = patch_pairs(network, pictures(make_textured), VIEWS, 1.0, 4, seed=0)
    assert torch.equal(found.patches1, again.patches1)  # a function of the seed
    halves = [patch_pairs(network, pictures(make_textured), VIEWS, 1.0, 4, 0, part, 2) for part in range(2)]
    assert torch.equal(found.patches1, torch.cat([half.patches1 for half in halves]))


def test_clean_views_keep_their_light(network: SuperPoint, make_textured) -> None:
    loud = replace(VIEWS, photometric=AugmentConfig(probability=1.0))
    plain, kept, changed = (patch_pairs(network, pictures(make_textured), views, clean, 4, seed=0)
                            for views, clean in ((VIEWS, 1.0), (loud, 1.0), (loud, 0.0)))
    assert torch.equal(plain.patches1, kept.patches1) and not torch.equal(plain.patches1, changed.patches1)


def test_images_that_show_nothing_are_named(network: SuperPoint, tmp_path: Path) -> None:
    black = ImageSet(["a"], [np.zeros((96, 128), np.uint8)], {})
    network.convPb.bias.data[-1] = 99.0  # no keypoint anywhere
    with pytest.raises(MatcherError, match="no keypoint of these images was found again"):
        patches.gather_patches(network, black, replace(VIEWS, views=2), 1.0, 4, 0, tmp_path)


def test_the_loss_is_the_likelihood_of_how_far_points_are_apart() -> None:
    batch = PatchSet(torch.zeros(1, 81, dtype=torch.uint8), torch.zeros(1, 3), torch.tensor([[3.0, 4.0]]),
                     torch.zeros(1, 81, dtype=torch.uint8), torch.zeros(1, 3), torch.tensor([[6.5, 8.0]]),
                     torch.diag(torch.tensor([2.0, 2.0, 1.0]))[None])
    still = Locator((8,), 4)  # moves 0, spreads 1
    torch.nn.init.zeros_(still.layers[-1].weight)
    loss, figures = locator_loss(still, batch)
    variance = NOISE**2 * (4 + 1) + 1e-4  # the map doubles lengths
    assert loss.item() == pytest.approx(np.log(variance / 2) + 3 * np.log1p(0.25 / (4 * variance / 2)), rel=1e-5)
    assert figures == {"apart_px": pytest.approx(0.5), "before_px": pytest.approx(0.5)}


def test_what_a_homography_magnifies() -> None:
    H = torch.tensor([[[1.1, 0.1, 5], [0, 0.9, 2], [1e-3, 2e-3, 1]]], dtype=torch.float64)
    point, step = torch.tensor([[30.0, 40.0]], dtype=torch.float64), 1e-4
    corners = point + step * torch.tensor([[0, 0], [1, 0], [0, 1]], dtype=torch.float64)
    a, b, c = warp_points(corners[None], H)[0]
    area = torch.linalg.det(torch.stack([b - a, c - a])) / step**2
    assert magnified(point, H).item() == pytest.approx(area.item(), rel=1e-5)


@pytest.fixture()
def on_dots(monkeypatch: pytest.MonkeyPatch, network: SuperPoint):
    """`train(recipe, folder)` on dots in place of photographs."""
    monkeypatch.setattr(train_locator, "gather_patches", lambda *given: dots())
    nothing = ImageSet([], [], {})
    return lambda recipe, folder: train_locator.train_locator(network, nothing, recipe, folder)[0]


def test_a_locator_learns_where_points_are_and_how_sure_that_is(on_dots, network: SuperPoint, tmp_path: Path) -> None:
    trained, others = on_dots(RECIPE, tmp_path), network.state_dict()
    with torch.no_grad():
        loss, figures = locator_loss(trained.locator, dots())
        _, spreads = trained.locator(dots().patches0, dots().hints0)
    assert figures["apart_px"] < 0.3 * figures["before_px"]
    assert spreads.median() < 0.5
    assert all(torch.equal(trained.state_dict()[name], value) for name, value in others.items())


def test_zeros_come_by_a_ramp_and_stay(on_dots, tmp_path: Path) -> None:
    sparse = replace(RECIPE, prune=Ramp(ratio=0.8, end=0.5, every=5), loop=replace(RECIPE.loop, steps=40))
    layers = on_dots(sparse, tmp_path).locator.layers
    assert [round((layer.weight == 0).float().mean().item(), 1) for layer in layers] == [0.8, 0.8, 0.8]


def test_a_run_goes_on_and_keeps_to_its_settings(on_dots, tmp_path: Path) -> None:
    short = replace(RECIPE, loop=replace(RECIPE.loop, steps=3))
    first = on_dots(short, tmp_path)
    again = on_dots(short, tmp_path)  # nothing is left to do
    assert torch.equal(first.locator.layers[0].weight, again.locator.layers[0].weight)
    with pytest.raises(MatcherError, match=r"another configuration \(pairs: 256 there, 8 here\)"):
        on_dots(replace(short, pairs=8), tmp_path)


@pytest.mark.parametrize(("told", "error"), [
    ({"widths": []}, "widths: a locator needs a hidden layer"), ({"widths": [0]}, "widths.*1"), ({"clean": 1.5}, "clean.*1"),
    ({"reach_px": 99}, "reach_px.*32"), ({"wide": 3}, "unknown key 'wide'")])
def test_recipes_that_cannot_be_are_refused(told: dict, error: str) -> None:
    with pytest.raises(RecipeError, match=error):
        from_mapping(told, LocatorTraining)


def test_one_that_is_there_is_trained_on(network: SuperPoint) -> None:
    located = with_locator(network, RECIPE)
    assert located.config.locator_widths == (32, 16) and located.locator is not None
    assert with_locator(located, replace(RECIPE, widths=(5,))) is located
