"""Training under rounding: as coarse as the deployed graph, gradients alive, and an ordinary network at the end."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from efficient_matcher.errors import MatcherError  # noqa: E402
from efficient_matcher.learn.calibrate import chosen_range, histograms, observed_tensors, with_outputs  # noqa: E402
from efficient_matcher.learn.extractor_phases import phased_extractor_model  # noqa: E402
from efficient_matcher.learn.qdq import layers_of, quantized  # noqa: E402
from efficient_matcher.learn.quantization_aware import RoundedWeight, as_deployed, rounded, unrounded  # noqa: E402
from efficient_matcher.learn.quantize import opened  # noqa: E402
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig, score_map  # noqa: E402

POINT = SuperPointConfig((4, 4, 8, 8, 8, 8, 16, 16), 8, 8, 16, batch_norm=True, location_width=4)


@pytest.fixture(scope="module")
def network() -> SuperPoint:
    torch.manual_seed(0)
    return SuperPoint(POINT).eval()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, 1, 48, 64), np.uint8)


@pytest.fixture(scope="module")
def ranges(network: SuperPoint, image: np.ndarray) -> dict[str, tuple[float, float]]:
    model = phased_extractor_model(network)
    names = observed_tensors(model)
    seen = histograms(opened(with_outputs(model, names)).run, [{"image": image}], names)
    return {**{name: chosen_range(entry, "min-max") for name, entry in seen.items()}, "image/float": (0.0, 255.0)}


def test_the_rounded_network_is_nearer_the_8_bit_graph_than_the_float_one(
    network: SuperPoint, image: np.ndarray, ranges: dict[str, tuple[float, float]]
) -> None:
    model = phased_extractor_model(network)
    deployed = opened(quantized(model, ranges, layers_of(model))).run({"image": image})
    errors = []
    for candidate in (rounded(network, ranges), network):
        with torch.no_grad():
            logits, coarse = candidate(torch.from_numpy(image).float() / 255)
        errors.append((np.abs(score_map(logits).numpy() - deployed["scores"]).mean(),
                       np.abs(coarse.permute(0, 2, 3, 1).numpy() - deployed["descriptors"]).mean()))
    assert errors[0][0] < 0.7 * errors[1][0] and errors[0][1] < 0.7 * errors[1][1]


def test_weights_are_on_the_grid_of_their_channel() -> None:
    weight = torch.randn(3, 2, 3, 3, requires_grad=True)
    found = RoundedWeight(4)(weight)
    scale = (weight.detach().abs().flatten(1).amax(1) / 7).half().float()  # as it is stored
    levels = found.detach().flatten(1) / scale[:, None]
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    found.sum().backward()
    assert weight.grad.abs().min() == 1


def test_taking_the_rounding_off_gives_the_network_back(
    network: SuperPoint, image: np.ndarray, ranges: dict[str, tuple[float, float]]
) -> None:
    with torch.no_grad():
        given = torch.from_numpy(image).float() / 255
        for wanted, found in zip(network(given), unrounded(rounded(network, ranges, wider=("conv1a",)))(given)):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_as_deployed_calibrates_on_what_images_show(network: SuperPoint) -> None:
    images = [np.random.default_rng(seed).integers(0, 256, (96, 128), np.uint8) for seed in range(3)]
    candidate = as_deployed(network, images)
    image = np.random.default_rng(5).integers(0, 256, (1, 1, 96, 128), np.uint8)
    with torch.no_grad():
        given = torch.from_numpy(image).float() / 255
        (wanted, _), (found, _) = network(given), candidate(given)
    apart = (score_map(found) - score_map(wanted)).abs().mean() / score_map(wanted).mean()
    assert 0 < apart < 0.1  # rounded, and in the right ranges
    with pytest.raises(MatcherError, match="every image is of one brightness"):
        as_deployed(network, [np.zeros((96, 128), np.uint8)])
