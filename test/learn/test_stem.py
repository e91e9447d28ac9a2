"""The half stem: no full-resolution map, the same outputs' shapes, and the same function once deployed."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from efficient_matcher.core.backend import open_model  # noqa: E402
from efficient_matcher.learn.extractor_graph import extractor_model  # noqa: E402
from efficient_matcher.learn.stem import with_half_stem  # noqa: E402
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig, score_map  # noqa: E402

CONFIG = SuperPointConfig(widths=(8, 8, 8, 8, 8, 8, 16, 16), detector_width=16, descriptor_width=16, descriptor_dim=16,
                          batch_norm=True, location_width=8)


@pytest.fixture(scope="module")
def halved() -> SuperPoint:
    torch.manual_seed(0)
    return with_half_stem(SuperPoint(CONFIG)).eval()


def test_what_fits_is_kept_and_the_first_layer_is_new(halved: SuperPoint) -> None:
    torch.manual_seed(0)
    network = SuperPoint(CONFIG)
    assert halved.config.half_stem and halved.location is not None and halved.location.full is None
    assert torch.equal(halved.conv2b.weight, network.conv2b.weight)
    assert tuple(halved.conv1a.weight.shape) == (8, 1, 6, 6)


def test_a_shift_by_a_cell_shifts_the_scores_by_a_cell(halved: SuperPoint) -> None:
    image = torch.rand(1, 1, 96, 128)
    with torch.no_grad():
        scores = score_map(halved(image)[0])[0]
        shifted = score_map(halved(image.roll(8, dims=3))[0])[0]
    inside = slice(40, 80)  # away from borders: the receptive field is some 30 pixels wide
    assert scores.shape == (96, 128)
    torch.testing.assert_close(shifted[40:56, 48:80], scores[40:56, 40:72], atol=1e-5, rtol=1e-3)
    assert not torch.allclose(scores[40:56, inside], shifted[40:56, inside])


def test_the_deployed_graph_equals_the_network(halved: SuperPoint, tmp_path: object) -> None:
    import onnx
    path = tmp_path / "extractor.onnx"  # type: ignore[operator]
    onnx.save(extractor_model(halved), str(path))
    image = np.random.default_rng(0).integers(0, 256, (1, 1, 48, 64), dtype=np.uint8)
    deployed = open_model(path, threads=1).run({"image": image})
    with torch.no_grad():
        logits, coarse = halved(torch.from_numpy(image).float() / 255)
    np.testing.assert_allclose(deployed["scores"], score_map(logits).numpy(), atol=2e-5)
    np.testing.assert_allclose(deployed["descriptors"], coarse.permute(0, 2, 3, 1).numpy(), atol=2e-4)
