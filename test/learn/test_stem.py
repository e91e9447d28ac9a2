"""The half stem: no full-resolution map, the same outputs' shapes, and the same function once deployed."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from efficient_matcher.core.backend import open_model  # noqa: E402
from efficient_matcher.learn.channels import narrow  # noqa: E402
from efficient_matcher.learn.extractor_graph import extractor_model  # noqa: E402
from efficient_matcher.learn.stem import with_half_stem  # noqa: E402
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig, score_map  # noqa: E402

CONFIG = SuperPointConfig(widths=(8, 8, 8, 8, 8, 8, 16, 16), detector_width=16, descriptor_width=16, descriptor_dim=16,
                          batch_norm=True, location_width=8)


@pytest.fixture(scope="module", params=[0, 12], ids=["narrow", "wide"])
def halved(request: pytest.FixtureRequest) -> SuperPoint:
    torch.manual_seed(0)
    return with_half_stem(SuperPoint(CONFIG), width=request.param).eval()


def test_what_fits_is_kept_and_the_first_layer_is_new(halved: SuperPoint) -> None:
    torch.manual_seed(0)
    network = SuperPoint(CONFIG)
    width = halved.config.widths[0]
    assert halved.config.half_stem and halved.location is not None and halved.location.full is None
    assert torch.equal(halved.conv3a.weight, network.conv3a.weight)
    assert torch.equal(halved.conv2b.weight, network.conv2b.weight) == (width == 8)
    assert tuple(halved.conv1a.weight.shape) == (width, 1, 6, 6)


def test_a_wide_stem_has_two_layers_before_2b(halved: SuperPoint) -> None:
    wide = halved.config.widths[0] == 12
    assert hasattr(halved, "conv2a") != wide
    assert list(halved.config.encoder)[:3] == (["1a", "1b", "2b"] if wide else ["1a", "1b", "2a"])
    assert SuperPointConfig.from_dict(halved.config.to_dict()) == halved.config


@pytest.mark.parametrize(("widths", "half_stem"), [((8, 8, 0, 8, 8, 8, 8, 8), False), ((8, 0, 8, 8, 8, 8, 8, 8), True)])
def test_other_layers_cannot_be_left_out(widths: tuple[int, ...], half_stem: bool) -> None:
    with pytest.raises(ValueError, match="has no channels"):
        SuperPointConfig(widths=widths, half_stem=half_stem)


def test_a_half_stem_can_be_narrowed(halved: SuperPoint) -> None:
    smaller = narrow(halved, {"1b": 4, "2b": 4})
    assert smaller.config.widths[1] == smaller.config.widths[3] == 4
    assert smaller.config.widths[2] == halved.config.widths[2]


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


def test_a_stem_width_without_a_half_stem_is_refused_in_one_line() -> None:
    from efficient_matcher.errors import RecipeError
    from efficient_matcher.learn.finetune import SuperPointFinetuning
    from efficient_matcher.learn.recipe import from_mapping
    with pytest.raises(RecipeError, match="^stem_width is that of a half stem; set half_stem as well$"):
        from_mapping({"stem_width": 8}, SuperPointFinetuning)
