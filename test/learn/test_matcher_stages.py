"""The stages of a matcher against the network, layer pair by layer pair, and against its whole graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx  # noqa: E402
from onnx import numpy_helper  # noqa: E402

from efficient_matcher.config import MatchConfig  # noqa: E402
from efficient_matcher.core.backend import open_model  # noqa: E402
from efficient_matcher.core.matches import FeatureMatcher  # noqa: E402
from efficient_matcher.core.stages import StagedNetwork, WholeNetwork, interfaces  # noqa: E402
from efficient_matcher.learn.export import ExportError, stages_parity  # noqa: E402
from efficient_matcher.learn.matcher_graph import matcher_model  # noqa: E402
from efficient_matcher.learn.matcher_stages import matcher_stages  # noqa: E402
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig  # noqa: E402
from efficient_matcher.records import Features  # noqa: E402


def network(pairs: int = 3, seed: int = 0, keys: int = 0) -> SuperGlue:
    torch.manual_seed(seed)
    config = SuperGlueConfig(descriptor_dim=16, keypoint_encoder=(8, 16), layers=pairs, heads=4, keys=keys)
    return SuperGlue(config).eval()


def save(stages: dict[str, onnx.ModelProto], folder: Path) -> list[Path]:
    for name, stage in stages.items():
        onnx.save(stage, str(folder / name))
    return [folder / name for name in stages]


def features(count: int, seed: int) -> Features:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 16))
    return Features(rng.uniform(0, 400, (count, 2)).astype(np.float32), rng.random(count, np.float32),
                    (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), (640, 480))


@pytest.mark.parametrize(("pairs", "keys"), [(1, 0), (2, 10), (4, 0)])
def test_every_depth_equals_the_network(tmp_path: Path, pairs: int, keys: int) -> None:
    own = network(pairs, keys=keys)
    paths = save(matcher_stages(matcher_model(own)), tmp_path)
    assert len(paths) == pairs + 2
    differences = stages_parity(paths, own, ((20, 30), (1, 7), (1, 1)))
    assert set(differences) == {"similarity", "dustbin"}
    assert max(differences.values()) < 1e-5


def test_another_network_is_noticed(tmp_path: Path) -> None:
    paths = save(matcher_stages(matcher_model(network())), tmp_path)
    with pytest.raises(ExportError, match="matcher in stages: similarity differs"):
        stages_parity(paths, network(seed=1), ((5, 6),))


def test_stages_match_as_the_whole_does(tmp_path: Path) -> None:
    whole = matcher_model(network())
    stages = [open_model(path, 1) for path in save(matcher_stages(whole), tmp_path)]
    onnx.save(whole, str(tmp_path / "whole.onnx"))
    config = MatchConfig(score_threshold=0.0, motion_prior=False)  # an untrained network has no likely match
    ours, depth = FeatureMatcher(StagedNetwork(stages), config)(features(40, 0), features(33, 1))
    other, _ = FeatureMatcher(WholeNetwork(open_model(tmp_path / "whole.onnx", 1)), config)(
        features(40, 0), features(33, 1))
    assert depth == 3 and len(ours)
    np.testing.assert_array_equal(ours.indices, other.indices)
    np.testing.assert_allclose(ours.scores, other.scores, atol=1e-6)


def test_files_have_the_interface_core_asks_for_and_share_no_weight() -> None:
    whole = matcher_model(network())
    stages = matcher_stages(whole)
    assert list(stages) == ["matcher_encode.onnx", "matcher_pair1.onnx", "matcher_pair2.onnx", "matcher_pair3.onnx",
                            "matcher_assign.onnx"]
    for stage, (inputs, outputs) in zip(stages.values(), interfaces(len(stages)), strict=True):
        assert tuple(entry.name for entry in stage.graph.input) == inputs
        assert tuple(entry.name for entry in stage.graph.output) == outputs
    weights = [value.name for stage in stages.values() for value in stage.graph.initializer
               if numpy_helper.to_array(value).dtype == np.float32]
    assert sorted(weights) == sorted(value.name for value in whole.graph.initializer
                                     if numpy_helper.to_array(value).dtype == np.float32)


def test_a_graph_of_something_else() -> None:
    from efficient_matcher.learn.onnx_graph import FLOAT, Graph
    graph = Graph("other")
    graph.add("Neg", "y", "x")
    with pytest.raises(ValueError, match="graph 'other' has no tokens to cut it at"):
        matcher_stages(graph.model({"x": (FLOAT, ["N"])}, {"y": (FLOAT, ["N"])}))
