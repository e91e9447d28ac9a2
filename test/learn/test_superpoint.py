"""SuperPoint: published size and key names, output layout, descriptor sampling."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig, sample_descriptors, score_map  # noqa: E402

OFFICIAL_CHANNELS = {"conv1a": (1, 64), "conv1b": (64, 64), "conv2a": (64, 64), "conv2b": (64, 64), "conv3a": (64, 128),
                     "conv3b": (128, 128), "conv4a": (128, 128), "conv4b": (128, 128), "convPa": (128, 256),
                     "convPb": (256, 65), "convDa": (128, 256), "convDb": (256, 256)}


def test_default_size_is_the_published_one() -> None:
    assert sum(parameter.numel() for parameter in SuperPoint().parameters()) == 1_300_865


def test_default_keys_and_shapes_are_the_official_ones() -> None:
    expected = {}
    for name, (inputs, outputs) in OFFICIAL_CHANNELS.items():
        size = 1 if name in ("convPb", "convDb") else 3
        expected[f"{name}.weight"] = (outputs, inputs, size, size)
        expected[f"{name}.bias"] = (outputs,)
    assert {key: tuple(value.shape) for key, value in SuperPoint().state_dict().items()} == expected


def test_config_survives_plain_values() -> None:
    config = SuperPointConfig(widths=(8,) * 8, batch_norm=True, location_width=4)
    assert SuperPointConfig.from_dict(config.to_dict()) == config


def test_wrong_number_of_widths_is_refused() -> None:
    with pytest.raises(ValueError, match="8 encoder widths, got 3"):
        SuperPoint(SuperPointConfig(widths=(8, 8, 8)))


def test_score_map_lays_cells_out_row_by_row() -> None:
    logits = torch.zeros(1, 65, 2, 3)
    logits[0, 8 * 5 + 2, 1, 2] = 50.0  # row 5, column 2 of the cell in row 1, column 2
    scores = score_map(logits)
    assert scores.shape == (1, 16, 24)
    assert scores[0].argmax().item() == (8 + 5) * 24 + 16 + 2
    assert scores[0, 13, 18].item() == pytest.approx(1.0)
    assert scores[0, 0, 0].item() == pytest.approx(1 / 65)


def test_location_branch_moves_a_peak_to_the_pixel_it_saw() -> None:
    network = SuperPoint(SuperPointConfig(widths=(4,) * 8, location_width=2)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        # The first channel carries the pixel itself through both full-resolution layers to the branch.
        network.conv1a.weight[0, 0, 1, 1] = network.conv1b.weight[0, 0, 1, 1] = 1
        network.location.full.weight[0, 0, 1, 1] = 20
    image = torch.zeros(1, 1, 16, 24)
    image[0, 0, 11, 19] = 1
    scores = score_map(network(image)[0])[0]
    assert scores.argmax().item() == 11 * 24 + 19
    assert scores.max().item() > 0.99


def test_descriptors_are_sampled_between_cell_centres() -> None:
    coarse = torch.zeros(1, 2, 3, 4)
    coarse[0, 0] = 1
    coarse[0, 1] = torch.arange(4.0)
    places = torch.tensor([[[8 * 1 + 3.5, 8 * 1 + 3.5], [8 * 1 + 7.5, 11.5], [0.0, 0.0], [31.0, 23.0]]])
    sampled = sample_descriptors(coarse, places)[0]
    ratio = sampled[:, 1] / sampled[:, 0]
    assert ratio.tolist() == pytest.approx([1.0, 1.5, 0.0, 3.0], abs=1e-5)
    assert sampled.norm(dim=1).tolist() == pytest.approx([1.0] * 4)
