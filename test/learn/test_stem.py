"""The half stem: no full-resolution map, the same outputs' shapes, and the same function once deployed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from efficient_matcher.core.backend import open_model  # noqa: E402
from efficient_matcher.learn.channels import narrow  # noqa: E402
from efficient_matcher.learn.export import extractor_parity  # noqa: E402
from efficient_matcher.learn.extractor_graph import extractor_model  # noqa: E402
from efficient_matcher.learn.stem import with_fewer_layers, with_half_stem  # noqa: E402
from efficient_matcher.learn.superpoint import DirectLocation, SuperPoint, SuperPointConfig, score_map  # noqa: E402

CONFIG = SuperPointConfig(widths=(8, 8, 8, 8, 8, 8, 16, 16), detector_width=16, descriptor_width=16, descriptor_dim=16,
                          batch_norm=True, location_width=8)
LEFT_OUT = ("2a", "2b", "3a")


@pytest.fixture(scope="module", params=[0, 12], ids=["narrow", "wide"])
def halved(request: pytest.FixtureRequest) -> SuperPoint:
    torch.manual_seed(0)
    return with_half_stem(SuperPoint(CONFIG), width=request.param).eval()


@pytest.fixture(scope="module", params=[False, True], ids=["gated", "direct"])
def shallow(request: pytest.FixtureRequest, halved: SuperPoint) -> SuperPoint:
    return with_fewer_layers(halved, LEFT_OUT, request.param).eval()


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


@pytest.mark.parametrize("settings", [{"half_stem": False}, {"half_stem": True, "location_width": 4}])
def test_a_direct_location_goes_with_a_half_stem_alone(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="direct_location goes with a half stem"):
        SuperPointConfig(direct_location=True, **settings)


def test_layers_left_out_are_gone_and_what_fits_is_kept(halved: SuperPoint, shallow: SuperPoint) -> None:
    assert list(shallow.config.encoder) == ["1a", "1b", "3b", "4a", "4b"]
    assert shallow.config.pooled == ("3b", "4a")
    assert shallow.config.scales == {2: "1b", 4: "3b", 8: "4b"}
    assert not any(name.startswith("conv2") or name.startswith("conv3a") for name, _ in shallow.named_parameters())
    for name in ("conv1a", "conv1b", "bn1b", "conv4a", "convPb", "convDb"):
        assert torch.equal(getattr(shallow, name).weight, getattr(halved, name).weight), name
    assert SuperPointConfig.from_dict(shallow.config.to_dict()) == shallow.config


def test_a_direct_location_adds_up_what_two_maps_say(shallow: SuperPoint) -> None:
    config = with_fewer_layers(shallow, direct_location=True).config
    branch, maps = DirectLocation(config), {2: torch.zeros(1, config.widths[1], 16, 24), 4: torch.zeros(1, 8, 8, 12)}
    with torch.no_grad():
        branch.fuse.bias.copy_(torch.arange(4.0))  # pixel (y, x) of a half-resolution site: 2 y + x
        branch.coarse.bias.copy_(10 * torch.arange(16.0))  # of a block of 4x4: 10 (4 y + x)
        logits = branch(maps)[0, :, 0, 0].view(8, 8)
    y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    torch.testing.assert_close(logits, (2 * (y % 2) + x % 2 + 10 * (4 * (y % 4) + x % 4)).float())


def test_fewer_layers_can_be_narrowed_and_learn(shallow: SuperPoint) -> None:
    smaller = narrow(shallow, {"1b": 4, "3b": 4, "4a": 8, "Da": 8})
    assert smaller.config.widths == (shallow.config.widths[0], 4, 0, 0, 0, 4, 8, 16)
    assert smaller.config.direct_location == shallow.config.direct_location
    logits, coarse = smaller.train()(torch.rand(2, 1, 48, 64))
    (logits.square().mean() + coarse.square().mean()).backward()
    assert all(parameter.grad is not None for parameter in smaller.parameters())


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


def test_the_deployed_graph_of_fewer_layers_equals_the_network(trained: Any, shallow: SuperPoint) -> None:
    network = trained(shallow)
    assert max(extractor_parity(extractor_model(network), network, ((48, 64), (40, 88))).values()) < 1e-5


def test_a_stem_width_without_a_half_stem_is_refused_in_one_line() -> None:
    from efficient_matcher.errors import RecipeError
    from efficient_matcher.learn.finetune_recipes import SuperPointFinetuning
    from efficient_matcher.learn.recipe import from_mapping
    with pytest.raises(RecipeError, match="^stem_width is that of a half stem; set half_stem as well$"):
        from_mapping({"stem_width": 8}, SuperPointFinetuning)


def test_layers_that_no_network_can_do_without_are_refused_in_one_line() -> None:
    from efficient_matcher.errors import RecipeError
    from efficient_matcher.learn.finetune import rebuilt
    from efficient_matcher.learn.finetune_recipes import SuperPointFinetuning
    from efficient_matcher.learn.recipe import from_mapping
    with pytest.raises(RecipeError, match=r"^without\[0\].*2a.*2b.*3a"):
        from_mapping({"without": ["4b"]}, SuperPointFinetuning)
    with pytest.raises(RecipeError, match="^without and direct_location are for a half stem; set half_stem as well$"):
        rebuilt(SuperPoint(CONFIG), SuperPointFinetuning(without=("3a",)))
    small = rebuilt(SuperPoint(CONFIG), SuperPointFinetuning(half_stem=True, without=("3a",), sizes={"3b": 4}))
    assert small.config.widths == (8, 8, 8, 8, 0, 4, 16, 16)
