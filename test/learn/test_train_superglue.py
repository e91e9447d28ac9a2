"""SuperGlue's training: views that fit their homographies, ground truth by hand, a loss that falls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from efficient_matcher.errors import MatcherError
from efficient_matcher.learn.data import ImageSet
from efficient_matcher.learn.keypoints import warp_points
from efficient_matcher.learn.recipe import read_recipe
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig
from efficient_matcher.learn.train_superglue import (
    MatchBatch, SuperGlueTraining, draw_pairs, ground_truth, superglue_loss, train_superglue)
from efficient_matcher.learn.training import LoopConfig
from efficient_matcher.learn.homographies import HomographyRange, squeezed_homography
from efficient_matcher.learn.views import (
    ViewConfig, ViewSet, extract_views, gather_views, gather_views_of_all)

VIEWS = ViewConfig(width=96, height=64, views=3, keypoints=12)
CONFIG = SuperGlueTraining(
    network=SuperGlueConfig(16, (8,), layers=1, heads=2, residual_init=True), views=VIEWS, pairs=2, pairs_then=1,
    keypoints=8, loop=LoopConfig(steps=4, warmup_steps=1, log_every=1))
SIZE = (96, 64)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    rng = np.random.default_rng(0)
    pictures = [cv2.GaussianBlur(rng.integers(0, 256, (100, 140), np.uint8), (0, 0), 2) for _ in range(2)]
    return ImageSet(["a", "b"], pictures, {})


@pytest.fixture(scope="module")
def extractor() -> SuperPoint:
    torch.manual_seed(0)
    return SuperPoint(SuperPointConfig((8,) * 8, 8, 8, 16, batch_norm=True, location_width=4)).eval()


@pytest.fixture(scope="module")
def views(extractor: SuperPoint, images: ImageSet) -> ViewSet:
    return extract_views(extractor, images, VIEWS, 0)


def by_hand() -> MatchBatch:
    """Shift by (10, 0): point 0 matches, point 1 is near but ambiguous, point 2 leaves the image, 3 has none."""
    H = torch.eye(3)[None].clone()
    H[0, 0, 2] = 10
    points0 = torch.tensor([[[20.0, 20], [40, 20], [90, 20], [60, 50]]])
    points1 = torch.tensor([[[30.0, 21], [53.5, 20], [5, 5], [80, 10]]])
    filler = torch.zeros(1, 4, 16)
    return MatchBatch(points0, torch.ones(1, 4), filler, points1, torch.ones(1, 4), filler, H)


def test_ground_truth_by_hand() -> None:
    matched, alone0, alone1 = ground_truth(by_hand(), 3.0, 4.0, SIZE)
    assert torch.nonzero(matched[0]).tolist() == [[0, 0]]
    assert alone0[0].tolist() == [False, False, True, True]
    assert alone1[0].tolist() == [False, False, True, True]


def test_views_of_an_image_are_related_by_their_homographies(views: ViewSet) -> None:
    assert views.keypoints.shape == (2, 3, 12, 2) and views.descriptors.shape == (2, 3, 12, 16)
    batch = draw_pairs(views, 4, 12, np.random.default_rng(0))
    back = warp_points(warp_points(batch.keypoints0, batch.H_0to1), torch.linalg.inv(batch.H_0to1))
    assert torch.allclose(back, batch.keypoints0, atol=1e-2)
    assert torch.allclose(batch.descriptors0.norm(dim=-1), torch.ones(4, 12), atol=1e-2)


def test_a_perfect_matcher_has_no_loss_to_speak_of() -> None:
    class Perfect(torch.nn.Module):
        bin_score = torch.tensor(5.0)

        def tokens(self, *inputs: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
            return [(inputs[2], inputs[5])]

        def similarity(self, *tokens: torch.Tensor) -> torch.Tensor:
            similarity = torch.full((1, 4, 4), -20.0)
            similarity[0, 0, 0] = 25.0
            similarity[0, 1, 1] = 25.0
            return similarity
    loss, parts = superglue_loss(Perfect(), by_hand(), CONFIG)
    assert loss.item() < 0.05
    assert parts["recall"] == 1.0 and parts["precision"] == 0.5  # the ambiguous one counts against it


def test_every_parameter_but_the_dead_ends_gets_a_gradient(views: ViewSet) -> None:
    torch.manual_seed(0)
    network = SuperGlue(replace(CONFIG.network, residual_init=False))
    loss, _ = superglue_loss(network, draw_pairs(views, 2, 12, np.random.default_rng(0)), CONFIG)
    loss.backward()
    assert bool(loss.isfinite())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize("text, told", [
    ("network: {heads: 3}", "not a multiple of heads 3"), ("network: {layers: 0}", "must be at least 1"),
    ("views: {width: 500}", "width and height must be multiples of 8"), ("pairs: 0", "pairs must be at least 1"),
    ("transport_iterations: 1", "transport_iterations must be at least 2")])
def test_settings_that_cannot_be_are_told_at_once(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(MatcherError, match=told):
        read_recipe(tmp_path / "recipe.yaml", SuperGlueTraining)


def test_the_same_seed_gives_the_same_weights(views: ViewSet, tmp_path: Path) -> None:
    first, second = (train_superglue(views, CONFIG, tmp_path / name)[0].state_dict() for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_views_are_kept_until_the_extractor_changes(extractor: SuperPoint, images: ImageSet, tmp_path: Path) -> None:
    made: list[int] = []
    first = gather_views(extractor, images, VIEWS, 0, tmp_path, lambda done, of: made.append(done))
    second = gather_views(extractor, images, VIEWS, 0, tmp_path, lambda done, of: made.append(done))
    assert made == [1, 2] and torch.equal(first.keypoints, second.keypoints)
    other = SuperPoint(extractor.config).eval()
    gather_views(other, images, VIEWS, 0, tmp_path, lambda done, of: made.append(done))
    assert made == [1, 2, 1, 2]


def test_views_of_several_extractors_stand_one_after_the_other(extractor: SuperPoint, images: ImageSet,
                                                               tmp_path: Path) -> None:
    other = SuperPoint(extractor.config).eval()
    both = gather_views_of_all([extractor, other], images, VIEWS, 0, tmp_path)
    first, second = (gather_views(network, images, VIEWS, 0, tmp_path / name)
                     for name, network in (("a", extractor), ("b", other)) if not (tmp_path / name).mkdir())
    count = len(first.keypoints)
    assert len(both.keypoints) == 2 * count and not torch.equal(first.descriptors, second.descriptors)
    for joined, one, two in zip(vars(both).values(), vars(first).values(), vars(second).values()):
        assert torch.equal(joined[:count], one) and torch.equal(joined[count:], two)
    assert torch.equal(first.H, second.H)  # the same views of both


def test_views_that_cannot_be_written_are_one_line_and_leave_nothing(extractor: SuperPoint, images: ImageSet,
                                                                     tmp_path: Path) -> None:
    (tmp_path / "views-0-of-1.partial").mkdir()  # what a full disk is to the writer: an OSError
    with pytest.raises(MatcherError, match=r"views-0-of-1\.safetensors: cannot be written") as caught:
        gather_views(extractor, images, VIEWS, 0, tmp_path)
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("*.safetensors"))


def test_a_turn_of_a_portrait_becomes_a_shear_in_a_squeezed_view() -> None:
    """A turn by up to 25 degrees in the image's own frame: S H S^-1 keeps its determinant, not its right angles."""
    turn = HomographyRange(0, 0, 0, 25.0, (1.0, 1.0), 0, 0.0)
    H = squeezed_homography(np.random.default_rng(3), (640, 480), (480, 360), turn)
    squeeze = np.diag([480 / 480, 360 / 640])
    native = np.linalg.inv(squeeze) @ H[:2, :2] @ squeeze
    assert np.allclose(native @ native.T, np.eye(2)) and abs(native[0, 1]) > 0.02
    assert not np.allclose(H[:2, :2] @ H[:2, :2].T, np.eye(2), atol=0.01)


def test_an_early_pair_of_layers_learns_to_match_too(views: ViewSet) -> None:
    config = replace(CONFIG, network=replace(CONFIG.network, layers=2), early_weight=0.4)
    batch = draw_pairs(views, 2, 12, np.random.default_rng(0))
    network = SuperGlue(config.network)
    both, parts = superglue_loss(network, batch, config)
    last, _ = superglue_loss(network, batch, replace(config, early_weight=0.0))
    assert both.item() == pytest.approx(last.item() + 0.4 * parts["early"], rel=1e-4)
    assert parts["early"] > 0
