"""SuperGlue: published size and key names, interleaved attention, batch norm over tokens, initialisation."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from efficient_matcher.learn.superglue import (  # noqa: E402
    INITIAL_SIMILARITY, MultiHeadedAttention, SuperGlue, SuperGlueConfig, TokenBatchNorm, TokenLinear,
    normalize_keypoints)

SMALL = SuperGlueConfig(descriptor_dim=16, keypoint_encoder=(8, 16), layers=2, heads=4)


def features(count: int, dim: int = 16, batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    descriptors = torch.randn(batch, count, dim, generator=generator)
    return (torch.rand(batch, count, 2, generator=generator) - 0.5, torch.rand(batch, count, generator=generator),
            nn.functional.normalize(descriptors, dim=-1))


def official_shapes() -> dict[str, tuple[int, ...]]:
    """Keys and shapes of superglue_indoor.pth and superglue_outdoor.pth."""
    shapes: dict[str, tuple[int, ...]] = {"bin_score": ()}

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs, 1), (outputs,)

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    widths = (3, 32, 64, 128, 256, 256)
    for index, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        linear(f"kenc.encoder.{3 * index}", inputs, outputs)
        if index < 4:
            norm(f"kenc.encoder.{3 * index + 1}", outputs)
    for index in range(18):
        for part in ("merge", "proj.0", "proj.1", "proj.2"):
            linear(f"gnn.layers.{index}.attn.{part}", 256, 256)
        linear(f"gnn.layers.{index}.mlp.0", 512, 512)
        norm(f"gnn.layers.{index}.mlp.1", 512)
        linear(f"gnn.layers.{index}.mlp.3", 512, 256)
    linear("final_proj", 256, 256)
    return shapes


def test_default_size_is_the_published_one() -> None:
    count = sum(parameter.numel() for parameter in SuperGlue().parameters())
    assert count == 12_023_297
    assert round(count / 1e6, 2) == 12.02


def test_default_keys_and_shapes_are_the_official_ones() -> None:
    assert {key: tuple(value.shape) for key, value in SuperGlue().state_dict().items()} == official_shapes()


def test_config_survives_plain_values() -> None:
    assert SuperGlueConfig.from_dict(SMALL.to_dict()) == SMALL


def test_heads_must_divide_the_descriptor() -> None:
    with pytest.raises(ValueError, match="16 is not a multiple of heads 3"):
        SuperGlue(SuperGlueConfig(descriptor_dim=16, keypoint_encoder=(8,), layers=1, heads=3))


def test_linear_equals_a_pointwise_convolution() -> None:
    layer, reference = TokenLinear(5, 7), nn.Conv1d(5, 7, 1)
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(2, 9, 5)
    torch.testing.assert_close(layer(x), reference(x.transpose(1, 2)).transpose(1, 2))


def test_batch_norm_equals_the_one_over_channels_first() -> None:
    norm, reference = TokenBatchNorm(5), nn.BatchNorm1d(5)
    x = 3 * torch.randn(2, 9, 5) + 1
    torch.testing.assert_close(norm(x), reference(x.transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(norm.running_var, reference.running_var)
    norm.eval(), reference.eval()
    torch.testing.assert_close(norm(x), reference(x.transpose(1, 2)).transpose(1, 2))


def test_attention_interleaves_heads_as_the_published_weights_do() -> None:
    torch.manual_seed(0)
    dim, heads = 12, 3
    attention = MultiHeadedAttention(dim, heads)
    x, source = torch.randn(5, dim), torch.randn(7, dim)
    query, key, value = (tokens @ layer.weight[:, :, 0].t() + layer.bias
                         for layer, tokens in zip(attention.proj, (x, source, source)))
    message = torch.zeros(5, dim)
    for head in range(heads):
        channels = [d * heads + head for d in range(dim // heads)]
        for token in range(5):
            scores = torch.stack([query[token, channels] @ key[j, channels] for j in range(7)])
            weights = (scores / (dim // heads) ** 0.5).softmax(dim=0)
            message[token, channels] = weights @ value[:, channels]
    expected = message @ attention.merge.weight[:, :, 0].t() + attention.merge.bias
    torch.testing.assert_close(attention(x[None], source[None])[0], expected)


def test_images_of_equal_and_unequal_counts_go_the_same_way() -> None:
    torch.manual_seed(0)
    gnn = SuperGlue(SMALL).eval().gnn
    x0, x1 = torch.randn(2, 6, 16), torch.randn(2, 6, 16)
    together = gnn(x0, x1)[-1]
    # A layer is not told how many sources there are: a repeated one weighs double, so repeat them all.
    apart = gnn(x0, torch.cat([x1, x1], dim=1))[-1]
    torch.testing.assert_close(apart[0], together[0])
    torch.testing.assert_close(apart[1][:, :6], together[1])


def test_even_layers_see_their_own_image_only() -> None:
    torch.manual_seed(0)
    gnn = SuperGlue(SMALL).eval().gnn
    x0, x1 = torch.randn(1, 5, 16), torch.randn(1, 5, 16)
    expected = x0 + gnn.layers[0](x0, x0)
    for part in (gnn.layers[1].mlp[-1].weight, gnn.layers[1].mlp[-1].bias):  # the cross layer adds nothing
        torch.nn.init.zeros_(part)
    torch.testing.assert_close(gnn(x0, x1)[0][0], expected)
    torch.testing.assert_close(gnn(x0, 2 * x1)[0][0], expected)


def test_the_network_compares_the_tokens_of_its_last_pair_of_layers() -> None:
    network = SuperGlue(SMALL).eval()
    first, second = features(6, seed=1), features(7, seed=2)
    tokens = network.tokens(*first, *second)
    assert len(tokens) == SMALL.layers
    torch.testing.assert_close(network(*first, *second), network.similarity(*tokens[-1]))


def test_residual_initialisation_matches_by_descriptor() -> None:
    network = SuperGlue(SuperGlueConfig(16, (8, 16), 2, 4, residual_init=True))
    first, second = features(6, seed=1), features(6, seed=2)
    cosine = first[2] @ second[2].transpose(1, 2)
    torch.testing.assert_close(network(*first, *second), INITIAL_SIMILARITY * cosine, atol=1e-4, rtol=1e-4)


def test_every_parameter_gets_a_gradient() -> None:
    network = SuperGlue(SMALL)
    (network(*features(6), *features(7, seed=1)).square().sum() + network.bin_score).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_keypoints_are_centred_and_scaled_by_the_longer_side() -> None:
    corners = torch.tensor([[320.0, 240.0], [0.0, 0.0], [640.0, 480.0]])
    expected = torch.tensor([[0.0, 0.0], [-320 / 448, -240 / 448], [320 / 448, 240 / 448]])
    torch.testing.assert_close(normalize_keypoints(corners, 640, 480), expected)


def test_keypoints_after_the_keys_are_matched_but_never_attended_to() -> None:
    torch.manual_seed(0)
    network = SuperGlue(replace(SMALL, keys=6)).eval()
    points, scores, descriptors = features(9)
    others = features(7, seed=1)
    similarity = network(points, scores, descriptors, *others)
    changed = descriptors.clone()
    changed[:, 8] = descriptors[:, 0]
    apart = (network(points, scores, changed, *others) - similarity).abs().amax(dim=(0, 2))
    assert bool((apart[:8] == 0).all()) and apart[8] > 1e-3
    changed = descriptors.clone()
    changed[:, 5] = descriptors[:, 0]
    assert bool(((network(points, scores, changed, *others) - similarity).abs().amax(dim=(0, 2)) > 0).all())


def test_as_many_keys_as_keypoints_change_nothing() -> None:
    torch.manual_seed(0)
    network = SuperGlue(SMALL).eval()
    limited = SuperGlue(replace(SMALL, keys=9)).eval()
    limited.load_state_dict(network.state_dict())
    assert torch.equal(network(*features(9), *features(7, seed=1)), limited(*features(9), *features(7, seed=1)))
