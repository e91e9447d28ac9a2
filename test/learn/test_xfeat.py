"""XFeat: its published layout, where its keypoints are, and both ways to run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from efficient_matcher.errors import ImageError
from efficient_matcher.learn.superpoint import SuperPoint
from efficient_matcher.learn.weights import WeightsError
from efficient_matcher.learn.xfeat import (XFeatExtractor, XFeatNetwork, _peaks, _sampled, load_xfeat, mutual_nearest)
from efficient_matcher.records import Features

# Some of the keys and shapes of the published file.
PUBLISHED = {
    "skip1.1.weight": (24, 1, 1, 1), "block1.0.layer.0.weight": (4, 1, 3, 3), "block1.3.layer.1.running_var": (24,),
    "block3.2.layer.0.weight": (64, 64, 1, 1), "block5.3.layer.0.weight": (64, 128, 1, 1), "block_fusion.2.bias": (64,),
    "heatmap_head.2.weight": (1, 64, 1, 1), "keypoint_head.3.weight": (65, 64, 1, 1),
    "fine_matcher.0.weight": (512, 128), "fine_matcher.12.bias": (64,)}


def features(descriptors: list[list[float]]) -> Features:
    count = len(descriptors)
    return Features(np.zeros((count, 2), np.float32), np.zeros(count, np.float32),
                    np.array(descriptors, np.float32).reshape(count, 2), (64, 64))


def test_keys_and_shapes_are_the_published_ones() -> None:
    state = XFeatNetwork().state_dict()
    assert {key: tuple(state[key].shape) for key in PUBLISHED} == PUBLISHED
    assert not [key for key in state if key.endswith("layer.1.weight")]  # normalization without scale


def test_answers_have_an_eighth_of_the_size() -> None:
    descriptors, logits, reliability = XFeatNetwork().eval()(torch.rand(1, 1, 64, 96))
    assert descriptors.shape == (1, 64, 8, 12) and logits.shape == (1, 65, 8, 12)
    assert reliability.shape == (1, 1, 8, 12) and 0 < reliability.min() and reliability.max() < 1


def test_light_changes_nothing() -> None:
    image, network = torch.rand(1, 1, 64, 64) * 100, XFeatNetwork().eval()
    for dim, bright in zip(network(image), network(2 * image + 30)):
        assert torch.allclose(dim, bright, atol=1e-3)


def test_a_file_is_read_whole(xfeat_weights: Path) -> None:
    first, again = load_xfeat(xfeat_weights), load_xfeat(xfeat_weights)
    assert torch.equal(first.skip1[1].weight, torch.load(xfeat_weights)["skip1.1.weight"]) and not again.training


def test_a_file_without_the_semi_dense_part_is_read(xfeat_weights: Path, tmp_path: Path) -> None:
    state = {key: value for key, value in torch.load(xfeat_weights).items() if not key.startswith("fine_matcher.")}
    torch.save(state, tmp_path / "sparse.pt")
    assert torch.equal(load_xfeat(tmp_path / "sparse.pt").skip1[1].weight, state["skip1.1.weight"])


@pytest.mark.parametrize(("change", "said"), [
    (lambda state: state.pop("block2.0.layer.0.weight"), "'block2.0.layer.0.weight' is missing"),
    (lambda state: state.update({"skip1.1.bias": torch.zeros(7)}), r"'skip1.1.bias' has shape \[7\], expected \[24\]"),
    (lambda state: state.update({"skip1.1.bias": torch.full((24,), torch.nan)}), "'skip1.1.bias' holds values"),
    (lambda state: state.update({"more": torch.zeros(1)}), "unknown 'more'")])
def test_other_files_are_refused(xfeat_weights: Path, tmp_path: Path, change: object, said: str) -> None:
    state = torch.load(xfeat_weights)
    change(state)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=f"other.pt: {said}"):
        load_xfeat(tmp_path / "other.pt")


def test_superpoint_is_not_xfeat(tmp_path: Path) -> None:
    torch.save(SuperPoint().state_dict(), tmp_path / "superpoint.pth")
    with pytest.raises(WeightsError, match="superpoint.pth: 'skip1.1.weight' is missing"):
        load_xfeat(tmp_path / "superpoint.pth")


def test_keypoints_are_where_the_logits_say_best_first() -> None:
    logits = torch.full((1, 65, 4, 4), -20.0)
    logits[:, 64] = 0.0
    logits[0, 8 * 3 + 5, 1, 2] = 2.0  # x 21, y 11
    logits[0, 8 * 6 + 1, 2, 1] = 8.0  # x 9, y 22
    logits[0, 8 * 6 + 3, 2, 1] = 7.0  # two pixels beside a higher one
    logits[0, 0, 0, 3] = -4.0  # under the least score
    points, scores = _peaks(logits, torch.full((1, 1, 4, 4), 0.5), 10)
    assert points.tolist() == [[21.0, 11.0], [9.0, 22.0]]
    shares = [np.exp(2.0) / (np.exp(2.0) + 1), np.exp(8.0) / (np.exp(8.0) + np.exp(7.0) + 1)]
    assert scores.tolist() == pytest.approx([0.5 * share for share in shares], rel=1e-4)
    assert len(_peaks(logits, torch.ones(1, 1, 4, 4), 1)[0]) == 1
    assert _peaks(logits[..., :1, :1], torch.ones(1, 1, 1, 1), 10)[0].shape == (0, 2)


def test_maps_are_looked_up_where_the_published_code_looks() -> None:
    columns = torch.arange(8.0).expand(1, 1, 8, 8)
    found = _sampled(columns, torch.tensor([[31.5, 10.0], [16.0, 40.0]]), (64, 64), "bilinear")
    assert found[:, 0].tolist() == pytest.approx([3.5, 16 * 8 / 63 - 0.5])


def test_pairs_are_each_others_nearest() -> None:
    matches = mutual_nearest(features([[1, 0], [0, 1], [0.8, 0.6]]), features([[0, 1], [0.96, 0.28]]))
    assert matches.indices.tolist() == [[1, 0], [0, 1]]
    assert matches.scores.tolist() == pytest.approx([1.0, 0.96])
    assert len(mutual_nearest(features([]), features([[1, 0]]))) == 0


def test_keypoints_stay_in_images_whose_sides_are_no_multiples(
        xfeat_weights: Path, textured_image: np.ndarray) -> None:
    image = textured_image[:233, :301]
    found = XFeatExtractor(load_xfeat(xfeat_weights), 50, 1).extract(image)
    assert len(found) == 50 and found.image_size == (301, 233)
    assert found.keypoints.min() >= 0 and (found.keypoints < [301, 233]).all()
    assert np.allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)
    assert (np.diff(found.scores) <= 0).all()


def test_the_session_answers_as_torch(xfeat_weights: Path, textured_image: np.ndarray) -> None:
    pytest.importorskip("onnx")
    network = load_xfeat(xfeat_weights)
    session = XFeatExtractor(network, 50, 1, session=True)
    assert len(session.extract(textured_image)) == 50
    images = torch.from_numpy(textured_image[:64, :96])[None, None].float()
    for found, expected in zip(session._run(images), network(images)):
        assert torch.allclose(found, expected, atol=1e-3)


def test_images_without_a_cell_are_refused(xfeat_weights: Path) -> None:
    with pytest.raises(ImageError, match="40x20 is too small for XFeat"):
        XFeatExtractor(load_xfeat(xfeat_weights), 50, 1).extract(np.zeros((20, 40), np.uint8))
