"""What each stage of the matcher network is asked, and that no image is encoded twice."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from efficient_matcher.core.backend import Arrays
from efficient_matcher.core.stages import (StagedNetwork, WholeNetwork, interfaces, network_of, normalised_keypoints)
from efficient_matcher.records import Features


def features(count: int, size: tuple[int, int] = (640, 480)) -> Features:
    rng = np.random.default_rng(count)
    return Features(rng.uniform(0, 400, (count, 2)).astype(np.float32), rng.random(count, np.float32),
                    rng.normal(size=(count, 4)).astype(np.float32), size)


class Stage:
    """Gives what a function of its inputs makes, and remembers what it was asked."""

    name = "stage"

    def __init__(self, function: object) -> None:
        self.function = function
        self.asked: list[Arrays] = []

    def run(self, inputs: Arrays) -> Arrays:
        self.asked.append(inputs)
        return self.function(inputs)


@pytest.fixture()
def stages() -> list[Stage]:
    """Tokens are descriptors, doubled by the first pair, in image 1 negated by the second; their product is given."""
    return [Stage(lambda x: {"tokens": x["descriptors"]}),
            Stage(lambda x: {"next0": 2 * x["tokens0"], "next1": 2 * x["tokens1"]}),
            Stage(lambda x: {"next0": x["tokens0"], "next1": -x["tokens1"]}),
            Stage(lambda x: {"similarity": x["tokens0"] @ x["tokens1"].T, "dustbin": np.float32(3)})]


def test_stages_run_in_order(stages: list[Stage]) -> None:
    first, second = features(5), features(3)
    network = network_of(stages)
    assert network.depth == 2
    run = network.start(first, second)
    product = first.descriptors @ second.descriptors.T
    for factor in (4, -4):
        run.advance()
        for _ in range(2):
            similarity, dustbin = run.similarity()
            np.testing.assert_array_equal(similarity, factor * product)
            assert dustbin == 3.0 and isinstance(dustbin, float)


def test_a_run_goes_on_with_the_keypoints_kept(stages: list[Stage]) -> None:
    first, second = features(5), features(3)
    whole = Stage(lambda x: {"similarity": 4 * x["descriptors0"] @ x["descriptors1"].T, "dustbin": np.float32(3)})
    rows0, rows1 = np.array([True, False, True, True, False]), np.array([False, True, True])
    for network in (network_of(stages), network_of([whole])):
        run = network.start(first, second)
        run.advance()
        run.keep(rows0, rows1)
        np.testing.assert_allclose(run.similarity()[0], 4 * first.descriptors[rows0] @ second.descriptors[rows1].T)
    assert [whole.asked[0][f"scores{side}"].shape for side in "01"] == [(3,), (2,)]


def test_stages_are_asked_by_the_names_of_their_files(stages: list[Stage]) -> None:
    run = network_of(stages).start(features(1), features(1))
    run.advance()
    run.advance()
    run.similarity()
    for stage, (inputs, outputs) in zip(stages, interfaces(4), strict=True):
        assert set(stage.asked[0]) == set(inputs)
        assert set(stage.run(stage.asked[0])) == set(outputs)
    np.testing.assert_array_equal(stages[0].asked[0]["keypoints"], normalised_keypoints(features(1)))
    assert interfaces(1)[0][0][:4] == ("keypoints0", "scores0", "descriptors0", "keypoints1")


def test_an_image_is_encoded_once(stages: list[Stage]) -> None:
    network = StagedNetwork(stages)
    frames = [features(4) for _ in range(4)]
    for before, after in zip(frames, frames[1:]):
        network.start(before, after)
    assert len(stages[0].asked) == 4
    network.start(frames[0], frames[3])
    assert len(stages[0].asked) == 4
    network.start(features(4), frames[3])  # equal, but not the same: whether it was changed cannot be known
    assert len(stages[0].asked) == 5


def test_a_reference_in_use_is_not_encoded_again(stages: list[Stage]) -> None:
    network, reference = StagedNetwork(stages), features(3)
    kept = [features(4) for _ in range(40)]
    for image in kept:
        network.start(reference, image)
    assert len(stages[0].asked) == 1 + len(kept)


def test_a_place_in_memory_taken_by_another_image_is_not_mistaken(stages: list[Stage]) -> None:
    network, other = StagedNetwork(stages), features(2)
    for count in range(1, 60):
        run = network.start(features(count), other)
        run.advance()
        assert run.similarity()[0].shape == (count, 2)
        gc.collect()
    assert len(network._known) <= 16


def test_a_network_in_one_part_is_asked_once(stages: list[Stage]) -> None:
    whole = Stage(lambda x: {"similarity": x["descriptors0"] @ x["descriptors1"].T, "dustbin": np.float32(1)})
    first, second = features(2), features(3)
    network = network_of([whole])
    assert isinstance(network, WholeNetwork) and network.depth == 1
    run = network.start(first, second)
    run.advance()
    similarity, dustbin = run.similarity()
    np.testing.assert_array_equal(similarity, first.descriptors @ second.descriptors.T)
    assert dustbin == 1.0 and len(whole.asked) == 1


def test_keypoints_as_the_network_takes_them() -> None:
    points = Features(np.array([[320, 240], [768, -208]], np.float32), np.zeros(2), np.zeros((2, 1)), (640, 480))
    np.testing.assert_allclose(normalised_keypoints(points), [[0, 0], [1, -1]], atol=1e-6)


def test_positions_normalise_alike_in_both_orientations() -> None:
    wide, tall = (Features(np.array([point], np.float32), np.zeros(1), np.zeros((1, 1)), size)
                  for point, size in (([640, 480], (640, 480)), ([480, 640], (480, 640))))
    np.testing.assert_allclose(normalised_keypoints(wide)[0], normalised_keypoints(tall)[0, ::-1])
