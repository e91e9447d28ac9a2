"""Centroids where the weights are, zeros exact, and clusters that stay together while their values learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from efficient_matcher.errors import RecipeError  # noqa: E402
from efficient_matcher.learn.cluster import Codebooks, CodebookRecipe, SharedValues, centroids, cluster  # noqa: E402
from efficient_matcher.learn.fold import folded  # noqa: E402
from efficient_matcher.learn.prune import MagnitudePruning, prune_magnitude, weight_layers  # noqa: E402
from efficient_matcher.learn.recipe import read_recipe  # noqa: E402
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig  # noqa: E402

GLUE = SuperGlueConfig(16, (8, 16), 2, 4)


def network(ratio: float = 0.0) -> SuperGlue:
    torch.manual_seed(0)
    result = folded(SuperGlue(GLUE))
    if ratio:
        prune_magnitude(result, MagnitudePruning(ratio))
    return result


def distinct(tensor: torch.Tensor) -> int:
    return len(torch.unique(tensor[tensor != 0]))


def test_centroids_of_known_groups() -> None:
    rng = np.random.default_rng(0)
    groups = ((-1, 300), (0.2, 200), (3, 280))
    values = np.concatenate([centre + 0.01 * rng.normal(size=count) for centre, count in groups])
    np.testing.assert_allclose(centroids(values, 3), [-1, 0.2, 3], atol=0.01)
    np.testing.assert_allclose(centroids(values, 3, "linear"), [-1, 0.2, 3], atol=0.01)


def test_centroids_are_a_fixed_point_of_k_means() -> None:
    values = np.random.default_rng(1).standard_t(4, size=5000)
    found = centroids(values, 8)
    nearest = np.abs(values[:, None] - found).argmin(axis=1)
    np.testing.assert_allclose(found, [values[nearest == index].mean() for index in range(8)], atol=1e-9)


def test_density_beats_linear_where_tails_are_wide() -> None:
    values = np.random.default_rng(1).standard_t(2, size=5000)

    def error(placement: str) -> float:
        return float((np.abs(values[:, None] - centroids(values, 16, placement, rounds=1)).min(axis=1) ** 2).mean())

    assert centroids(values, 16).shape == (16,)
    typical = np.abs(values) < 1
    close = [np.abs(values[typical, None] - centroids(values, 16, placement, rounds=1)).min(axis=1).mean()
             for placement in ("density", "linear")]
    assert close[0] < 0.5 * close[1] and error("density") > 0


def test_few_distinct_values_are_kept_as_they_are() -> None:
    values = np.array([3.0, -1.0, 3.0, 0.5])
    np.testing.assert_array_equal(centroids(values, 4), [-1.0, 0.5, 3.0])


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_each_layer_has_at_most_so_many_values(bits: int) -> None:
    glue = network()
    before = {name: layer.weight.clone() for name, layer in weight_layers(glue).items()}
    facts = cluster(glue, Codebooks(bits))
    for name, layer in weight_layers(glue).items():
        assert distinct(layer.weight) == facts[name].values <= 2 ** bits
        with torch.no_grad():
            error = float((layer.weight - before[name]).norm() / before[name].norm())
        assert error == pytest.approx(facts[name].relative_error, rel=1e-3, abs=1e-6)
    assert max(entry.relative_error for entry in facts.values()) < {2: 0.5, 3: 0.3, 8: 0.01}[bits]


def test_zeros_stay_and_no_other_appears() -> None:
    glue = network(0.8)
    zeros = {name: layer.weight == 0 for name, layer in weight_layers(glue).items()}
    facts = cluster(glue, Codebooks(3))
    for name, layer in weight_layers(glue).items():
        assert torch.equal(layer.weight == 0, zeros[name])
        assert distinct(layer.weight) <= 8 and facts[name].nonzero == int((~zeros[name]).sum())


def test_clustering_twice_changes_nothing() -> None:
    glue = network(0.5)
    cluster(glue, Codebooks(3))
    before = {name: value.clone() for name, value in glue.state_dict().items()}
    cluster(glue, Codebooks(3))
    assert all(torch.equal(value, before[name]) for name, value in glue.state_dict().items())


def test_layers_have_bits_of_their_own_and_biases_are_halves() -> None:
    glue = network()
    glue.gnn.layers[0].mlp[0].bias.data.fill_(0.1)
    cluster(glue, Codebooks(3, {"gnn.layers.*.mlp.*": 5, "gnn.layers.1.mlp.0": 2}))
    assert distinct(glue.gnn.layers[0].mlp[0].weight) == 32 and distinct(glue.gnn.layers[1].mlp[0].weight) == 4
    assert distinct(glue.final_proj.weight) == 8
    assert glue.gnn.layers[0].mlp[0].bias[0].item() == float(np.float16(0.1))


def test_unknown_layer_is_named() -> None:
    with pytest.raises(RecipeError, match=r"layers: unknown layer 'gnn.x' \(known: kenc"):
        cluster(network(), Codebooks(4, {"gnn.x": 3}))


@pytest.mark.parametrize(("text", "message"), [
    ("superglue: {bits: 1}", "superglue.bits must be at least 2, got 1"),
    ("superglue: {layers: {a: 9}}", "superglue.layers.a must be at most 8, got 9"),
    ("superpoint: {bit: 4}", "unknown key 'superpoint.bit'")])
def test_bad_recipes_name_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=f"r.yaml: .*{message}"):
        read_recipe(tmp_path / "r.yaml", CodebookRecipe)


def test_gradients_are_summed_over_clusters() -> None:
    glue = network()
    weight = glue.final_proj.weight
    weight.data = torch.tensor([[1.0, 2.0], [0.0, 1.0]])[:, :, None]
    SharedValues(glue)
    (weight * torch.tensor([[3.0, 5.0], [7.0, 11.0]])[:, :, None]).sum().backward()
    assert weight.grad[:, :, 0].tolist() == [[14.0, 5.0], [0.0, 14.0]]  # 3 + 11 together; a zero stays


def test_clusters_learn_as_one_and_zeros_stay() -> None:
    glue = network(0.6)
    cluster(glue, Codebooks(2))
    zeros = glue.final_proj.weight == 0
    shared = SharedValues(glue)
    before = glue.final_proj.weight.detach().clone()
    optimizer = torch.optim.AdamW(glue.parameters(), lr=0.01)
    for seed in range(3):
        torch.manual_seed(seed)
        sides = [torch.randn(1, 6, *rest) for _ in range(2) for rest in ((2,), (), (16,))]
        optimizer.zero_grad()
        glue(*sides).square().mean().backward()
        optimizer.step()
    shared.hold()
    assert distinct(glue.final_proj.weight) <= 4 and torch.equal(glue.final_proj.weight == 0, zeros)
    assert not torch.equal(glue.final_proj.weight, before)
    other = network(0.6)
    shared.hold(other)
    assert distinct(other.final_proj.weight) <= 4


def test_recipes_that_ship_are_of_their_kind() -> None:
    from efficient_matcher.evaluate.compression import Rows
    from efficient_matcher.learn.finetune_recipes import JointFinetuning
    from efficient_matcher.learn.recipe import find_recipe
    assert read_recipe(find_recipe("kmeans-4bit"), CodebookRecipe).superglue.bits == 4
    assert read_recipe(find_recipe("finetune-centroids"), JointFinetuning).keep_codebooks
    assert len(read_recipe(find_recipe("report-compression"), Rows).rows) == 21
