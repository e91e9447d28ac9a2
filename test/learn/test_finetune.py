"""Finetuning: the teacher is approached, zeros stay, a rerun and a resumed run end alike, the matching loss arrives."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from efficient_matcher.errors import RecipeError
from efficient_matcher.learn.channels import PruneError
from efficient_matcher.learn.data import ImageSet, PairConfig
from efficient_matcher.learn.distill import ExtractorDistillation, assignment_distillation, extractor_distillation
from efficient_matcher.learn.finetune import finetune_superpoint
from efficient_matcher.learn.finetune_matching import (
    as_batch, finetune_both, finetune_superglue, matching_loss, read_features)
from efficient_matcher.learn.finetune_recipes import JointFinetuning, SuperGlueFinetuning, SuperPointFinetuning
from efficient_matcher.learn.fold import folded
from efficient_matcher.learn.prune import Ramp, Regrowth, sparsity, weight_layers
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig
from efficient_matcher.learn.train_superglue import SuperGlueTraining
from efficient_matcher.learn.training import Loop, LoopConfig, TrainingError
from efficient_matcher.learn.views import ViewConfig, extract_views

LOOP = LoopConfig(steps=4, warmup_steps=1, learning_rate=5e-3, log_every=1, average_decay=0.5)
PAIRS = PairConfig(width=96, height=64, pairs=1)
VIEWS = ViewConfig(width=96, height=64, views=3, keypoints=12)
SMALL = {"1b": 4, "3a": 6}


def extractor() -> SuperPoint:
    torch.manual_seed(0)
    return SuperPoint(SuperPointConfig((8,) * 8, 8, 8, 16, batch_norm=True, location_width=4)).eval()


def matcher() -> SuperGlue:
    torch.manual_seed(0)
    return SuperGlue(SuperGlueConfig(16, (8,), layers=1, heads=2, residual_init=True)).eval()


@pytest.fixture(scope="module")
def images() -> ImageSet:
    rng = np.random.default_rng(0)
    pictures = [cv2.GaussianBlur(rng.integers(0, 256, (100, 140), np.uint8), (0, 0), 2) for _ in range(2)]
    return ImageSet(["a", "b"], pictures, {})


def test_a_twin_has_nothing_to_learn_and_another_has() -> None:
    outputs = torch.randn(2, 65, 4, 5), torch.randn(2, 16, 4, 5)
    loss, parts = extractor_distillation(outputs, (outputs[0] + 3.0, 2 * outputs[1]), ExtractorDistillation())
    assert loss.item() == pytest.approx(0, abs=1e-5)  # neither a constant logit nor a length says anything
    _, parts = extractor_distillation(outputs, (outputs[0], -outputs[1]), ExtractorDistillation())
    assert parts["distilled_descriptors"] == pytest.approx(2.0, abs=1e-4)
    certain = torch.full((1, 3, 3), -9.0)
    certain[0, 0, 0] = certain[0, 1, 1] = certain[0, 2, 2] = 9.0
    assert assignment_distillation(certain, certain).item() == pytest.approx(0, abs=1e-6)
    assert assignment_distillation(certain.flip(1), certain).item() > 5


def test_descriptors_of_another_width_are_compared_by_which_cells_look_alike() -> None:
    torch.manual_seed(0)
    logits, coarse = torch.zeros(2, 65, 6, 8), torch.randn(2, 8, 6, 8)
    turned, _ = torch.linalg.qr(torch.randn(16, 8))  # the same in another space
    same = torch.einsum("dc,bchw->bdhw", turned, coarse)

    def apart(teacher: torch.Tensor) -> float:
        return extractor_distillation((logits, coarse), (logits, teacher), ExtractorDistillation())[1]["distilled_descriptors"]
    assert apart(same) == pytest.approx(0, abs=1e-5)
    assert apart(same.flip(3)) > 0.5  # other cells are alike
    assert 0.001 < apart(same + 0.2 * torch.randn_like(same)) < 0.3


def test_a_narrowed_student_nears_its_teacher_and_a_resumed_run_ends_like_an_unbroken_one(
        images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = SuperPointFinetuning(loop=replace(LOOP, steps=8), pairs=PAIRS, sizes=SMALL, task=0.0)
    whole, _ = finetune_superpoint(extractor(), images, None, recipe, tmp_path / "whole", extractor())
    assert whole.config.widths == (8, 4, 8, 8, 6, 8, 8, 8)
    told = [json.loads(line)["distilled_descriptors"] for line
            in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert sum(told[-3:]) < sum(told[:3])
    one_step = Loop._one_step

    def interrupted(loop: Loop, *arguments: object) -> object:
        figures, _ = one_step(loop, *arguments)
        return figures, loop.step == 3
    monkeypatch.setattr(Loop, "_one_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finetune_superpoint(extractor(), images, None, recipe, tmp_path / "broken", extractor())
    monkeypatch.setattr(Loop, "_one_step", one_step)
    again, _ = finetune_superpoint(extractor(), images, None, recipe, tmp_path / "broken", extractor())
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), whole.state_dict().values()))
    with pytest.raises(TrainingError, match="belongs to another configuration .teacher"):
        finetune_superpoint(extractor(), images, None, recipe, tmp_path / "broken")


def test_the_new_channels_of_a_wider_network_come_to_count_and_zeros_stay(images: ImageSet, tmp_path: Path) -> None:
    start = extractor()
    with torch.no_grad():
        start.conv2b.weight[:, :2] = 0  # pruned before
    recipe = SuperPointFinetuning(loop=LOOP, pairs=PAIRS, wider={"1a": 12, "2a": 12}, task=0.0)
    wide, _ = finetune_superpoint(start, images, None, recipe, tmp_path, extractor())
    assert wide.conv2b.weight[:8, :2].abs().max() == 0
    for layer in (wide.conv1b, wide.conv2b):
        assert layer.weight[:, 8:].abs().max() > 1e-3 and (layer.weight[:, 8:] != 0).all()


def test_pruning_ramps_up_while_the_matcher_learns_and_the_average_has_the_zeros(
        images: ImageSet, tmp_path: Path) -> None:
    views = extract_views(extractor(), images, VIEWS, 0)
    ramp = Ramp(0.75, "layer", {"kenc.*": 0.0}, end=0.5, every=1)
    recipe = SuperGlueFinetuning(loop=LOOP, views=VIEWS, pairs=2, keypoints=12, prune=ramp)
    network, _ = finetune_superglue(matcher(), views, recipe, tmp_path / "ramp", matcher())
    shares = sparsity(network)
    assert shares["final_proj"] >= 0.75 and shares["kenc.encoder.0"] == 0.0  # it began as an identity
    again, _ = finetune_superglue(matcher(), views, recipe, tmp_path / "ramp", matcher())  # the run is done already
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))
    zeros = [parameter == 0 for parameter in network.parameters()]
    kept, _ = finetune_superglue(network, views, replace(recipe, prune=None), tmp_path / "kept")
    assert all(bool((p == 0)[zero].all()) for p, zero in zip(kept.parameters(), zeros) if p.dim() == 3)
    assert kept.bin_score.item() != matcher().bin_score.item()


def test_zeros_that_change_places_are_as_many_and_a_resumed_run_moves_the_same_ones(
        images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = extract_views(extractor(), images, VIEWS, 0)
    pruned = SuperGlueFinetuning(loop=LOOP, views=VIEWS, pairs=2, keypoints=12,
                                 prune=Ramp(0.5, "layer", {"kenc.*": 0.0}, end=0.5, every=1))
    sparse, _ = finetune_superglue(matcher(), views, pruned, tmp_path / "sparse")
    recipe = replace(pruned, prune=None, loop=replace(LOOP, steps=8, average_decay=0.0),
                     regrow=Regrowth(0.5, every=3, until=0.9))
    moved, _ = finetune_superglue(copy.deepcopy(sparse), views, recipe, tmp_path / "whole")
    with pytest.raises(RecipeError, match="regrow: the weights to begin with have no zeros"):
        finetune_superglue(SuperGlue(SuperGlueConfig(16, (8,), layers=1, heads=2)), views, recipe, tmp_path / "dense")
    assert not (tmp_path / "dense").exists()
    layer = "gnn.layers.0.mlp.0"
    old, new = (weight_layers(network)[layer].weight == 0 for network in (sparse, moved))
    assert int((old & ~new).sum()) == int((~old & new).sum()) > 0
    one_step = Loop._one_step

    def interrupted(loop: Loop, *arguments: object) -> object:
        figures, _ = one_step(loop, *arguments)
        return figures, loop.step in (2, 4)  # between two regrowths, and right after one
    for _ in range(2):
        monkeypatch.setattr(Loop, "_one_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finetune_superglue(copy.deepcopy(sparse), views, recipe, tmp_path / "broken")
    monkeypatch.setattr(Loop, "_one_step", one_step)
    again, _ = finetune_superglue(copy.deepcopy(sparse), views, recipe, tmp_path / "broken")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), moved.parameters(), strict=True))


def test_what_regrew_beyond_the_ramp_s_share_stays_after_an_interruption(
        images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = extract_views(extractor(), images, VIEWS, 0)
    recipe = SuperGlueFinetuning(loop=replace(LOOP, steps=8, average_decay=0.0), views=VIEWS, pairs=2, keypoints=12,
                                 prune=Ramp(0.5, "layer", {"kenc.*": 0.0}, end=0.1, every=1),
                                 regrow=Regrowth(0.2, every=3, until=0.9, more=0.5))
    whole, _ = finetune_superglue(matcher(), views, recipe, tmp_path / "whole")
    one_step = Loop._one_step

    def interrupted(loop: Loop, *arguments: object) -> object:
        figures, _ = one_step(loop, *arguments)
        return figures, loop.step == 5
    monkeypatch.setattr(Loop, "_one_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finetune_superglue(matcher(), views, recipe, tmp_path / "broken")
    monkeypatch.setattr(Loop, "_one_step", one_step)
    again, _ = finetune_superglue(matcher(), views, recipe, tmp_path / "broken")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True))


def test_the_matching_loss_alone_reaches_the_extractor(images: ImageSet) -> None:
    superpoint, superglue = extractor(), matcher()
    with torch.no_grad():  # positions and scores count for nothing in a matcher that has just begun
        torch.nn.init.normal_(superglue.kenc.encoder[-1].weight, std=0.1)
    outputs = superpoint(torch.rand(2, 1, 64, 96))
    config = SuperGlueTraining(network=superglue.config, views=VIEWS)
    batch = as_batch(read_features(*outputs, 12), torch.eye(3)[None])
    matching_loss(superglue, batch, config, 1.0, None, None, 0.0)[0].backward()
    for name in ("conv1a", "convPb", "convDb"):
        gradient = superpoint.get_submodule(name).weight.grad
        assert gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any())


def test_both_together_with_teachers(images: ImageSet, tmp_path: Path) -> None:
    recipe = JointFinetuning(loop=replace(LOOP, steps=2), pairs=PAIRS, keypoints=12, prune_superglue=Ramp(0.5, end=0.4))
    labels = [np.float32([[40, 40, 1.0], [60, 50, 0.9]])] * 2
    superpoint, superglue, _ = finetune_both(extractor(), matcher(), images, labels, recipe, tmp_path / "a",
                                             (extractor(), matcher()))
    again = finetune_both(extractor(), matcher(), images, labels, recipe, tmp_path / "b", (extractor(), matcher()))
    assert all(torch.equal(a, b) for network, twin in zip((superpoint, superglue), again)
               for a, b in zip(network.state_dict().values(), twin.state_dict().values()))
    assert not torch.equal(superpoint.conv1a.weight, extractor().conv1a.weight)
    assert sparsity(superglue)["gnn.layers.0.mlp.0"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("keep", [True, False])
def test_both_together_keep_the_statistics_of_their_batch_norms(images: ImageSet, tmp_path: Path, keep: bool) -> None:
    recipe = JointFinetuning(loop=replace(LOOP, steps=2), pairs=PAIRS, keypoints=12, keep_statistics=keep)
    labels = [np.float32([[40, 40, 1.0], [60, 50, 0.9]])] * 2
    *networks, _ = finetune_both(extractor(), matcher(), images, labels, recipe, tmp_path)
    for network, begun in zip(networks, (extractor(), matcher()), strict=True):
        before, after = begun.state_dict(), network.state_dict()
        statistics = [name for name in before if "running" in name]
        assert statistics and all(torch.equal(before[name], after[name]) == keep for name in statistics)
        assert any(not torch.equal(before[name.replace("running_mean", "weight")], after[name.replace("running_mean", "weight")])
                   for name in statistics if name.endswith("mean"))


def test_what_learns_under_rounding_is_a_float_network_with_its_zeros(images: ImageSet, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    recipe = SuperPointFinetuning(loop=LOOP, pairs=PAIRS, task=0.0, rounded_bits=8, prune=Ramp(0.5, end=0.5, every=1))
    network, _ = finetune_superpoint(extractor(), images, None, recipe, tmp_path / "run", extractor())
    folded_before = folded(extractor())
    assert not network.config.batch_norm and set(network.state_dict()) == set(folded_before.state_dict())
    assert min(sparsity(network).values()) == pytest.approx(0.5, abs=0.02)
    moved = [float((after - before)[after != 0].abs().max()) for (name, after), before
             in zip(network.state_dict().items(), folded_before.state_dict().values()) if name.endswith("weight")]
    assert min(moved) > 0
    again, _ = finetune_superpoint(extractor(), images, None, recipe, tmp_path / "run", extractor())
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))


def test_a_share_of_the_start_stays_in_what_was_learned(images: ImageSet, tmp_path: Path) -> None:
    recipe = SuperPointFinetuning(loop=LOOP, pairs=PAIRS, task=0.0)
    learned, _ = finetune_superpoint(extractor(), images, None, recipe, tmp_path / "all", extractor())
    half, _ = finetune_superpoint(extractor(), images, None, replace(recipe, start_share=0.25), tmp_path / "part",
                                  extractor())
    for name, value in half.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * learned.state_dict()[name] + 0.25 * extractor().state_dict()[name])
    again, _ = finetune_superpoint(extractor(), images, None, replace(recipe, start_share=0.25), tmp_path / "part",
                                   extractor())  # the run is done already, and what it gives is not mixed twice
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), half.state_dict().values()))


@pytest.mark.parametrize("settings, told", [
    ({"start_share": 0.5, "half_stem": True}, "start_share mixes two networks of one build"),
    ({"start_share": 0.5, "without": ("3a",)}, "start_share mixes two networks of one build"),
    ({"start_share": 0.5, "rounded_bits": 8}, "start_share mixes two networks of one build"),
    ({"keep_codebooks": True, "rounded_bits": 8}, "choose one"),
    ({"keep_codebooks": True, "regrow": Regrowth()}, "without keep_codebooks"),
    ({"keep_codebooks": True, "prune": Ramp(0.5)}, "prune first"),
    ({"keep_zeros": False, "regrow": Regrowth()}, "with keep_zeros")])
def test_settings_that_contradict_each_other(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SuperPointFinetuning(**settings)


def test_sizes_that_cannot_be_start_no_run(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(PruneError, match="unknown layer '9z'"):
        finetune_superpoint(extractor(), images, None, SuperPointFinetuning(sizes={"9z": 4}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_matcher_pruned_while_finetuning_keeps_its_zeros_in_the_graph(images: ImageSet, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from efficient_matcher.learn.matcher_graph import matcher_model
    from onnx import numpy_helper
    views = extract_views(extractor(), images, VIEWS, seed=0)
    recipe = SuperGlueFinetuning(loop=replace(LOOP, steps=3), views=VIEWS, pairs=1, keypoints=12,
                                 prune=Ramp(0.75, end=0.5, every=1))
    network, _ = finetune_superglue(matcher(), views, recipe, tmp_path / "ramp", matcher())
    assert network.config.folded and sparsity(network)["gnn.layers.0.mlp.0"] == 0.75
    assert min(sparsity(network).values()) == pytest.approx(0.75, abs=0.02)
    later, _ = finetune_superglue(network, views, replace(recipe, prune=None), tmp_path / "after")
    assert sparsity(later) == sparsity(network)
    constants = [numpy_helper.to_array(entry) for entry in matcher_model(later).graph.initializer
                 if entry.name.endswith(".weight")]
    weights = [layer.weight.detach().numpy() for layer in weight_layers(later).values()]
    assert sum((value == 0).sum() for value in constants) == sum((value == 0).sum() for value in weights)
