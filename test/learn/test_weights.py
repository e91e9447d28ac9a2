"""Weight files: ours and the official ones there and back, and every way such a file can be wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig  # noqa: E402
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig  # noqa: E402
from efficient_matcher.learn.weights import (  # noqa: E402
    WeightsError, load_superglue, load_superpoint, read_weights, save_weights)

POINT = SuperPointConfig(widths=(4,) * 8, detector_width=4, descriptor_width=4, descriptor_dim=8, batch_norm=True,
                         location_width=4)
GLUE = SuperGlueConfig(descriptor_dim=8, keypoint_encoder=(4,), layers=1, heads=2)


def assert_same(network: torch.nn.Module, other: torch.nn.Module) -> None:
    state, other_state = network.state_dict(), other.state_dict()
    assert list(state) == list(other_state)
    assert all(torch.equal(value, other_state[key]) for key, value in state.items())


def assert_refused(path: Path, message: str, load: Callable = load_superglue, config: object = None) -> None:
    with pytest.raises(WeightsError, match=re.escape(str(path)) + ".*" + message) as caught:
        load(path, config)
    assert "\n" not in str(caught.value)


def saved_glue(tmp_path: Path, **changes: torch.Tensor | None) -> Path:
    """A .pth of GLUE with keys replaced, or left out where None; `__` stands for a dot."""
    state = dict(SuperGlue(GLUE).state_dict())
    for name, value in changes.items():
        key = name.replace("__", ".")
        state.pop(key, None) if value is None else state.update({key: value})
    torch.save(state, tmp_path / "glue.pth")
    return tmp_path / "glue.pth"


@pytest.mark.parametrize(("network", "load"), [(SuperPoint(POINT), load_superpoint), (SuperGlue(GLUE), load_superglue)])
def test_own_files_come_back_with_config_and_notes(tmp_path: Path, network: torch.nn.Module, load: Callable) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, network, {"licence": "Apache-2.0", "training": {"steps": 3}})
    loaded = load(path)
    assert loaded.config == network.config
    assert not loaded.training
    assert_same(loaded, network)
    assert read_weights(path).notes == {"licence": "Apache-2.0", "training": {"steps": 3}}
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["superglue_indoor.pth", "superglue_outdoor.pth"])
def test_official_superglue_files_load_without_a_config(tmp_path: Path, name: str) -> None:
    network = SuperGlue()
    torch.save(network.state_dict(), tmp_path / name)
    assert_same(load_superglue(tmp_path / name), network)


def test_official_superpoint_file_loads_without_a_config(tmp_path: Path) -> None:
    network = SuperPoint()
    torch.save(network.state_dict(), tmp_path / "superpoint_v1.pth")
    assert_same(load_superpoint(tmp_path / "superpoint_v1.pth"), network)


def test_nested_and_parallel_checkpoints_are_unwrapped(tmp_path: Path) -> None:
    network = SuperGlue(GLUE)
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "run.pth")
    assert_same(load_superglue(tmp_path / "run.pth", GLUE), network)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    network = SuperGlue(GLUE)
    torch.save({key: value.half() for key, value in network.state_dict().items()}, tmp_path / "half.pth")
    loaded = load_superglue(tmp_path / "half.pth", GLUE)
    assert loaded.final_proj.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.final_proj.weight, network.final_proj.weight, atol=1e-3, rtol=1e-3)


def test_missing_file(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.safetensors", "no such file")


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    path.write_bytes(b"x")
    assert_refused(path, "unknown kind of weight file")


@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.99])
def test_safetensors_cut_short(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, SuperGlue(GLUE))
    content = path.read_bytes()
    path.write_bytes(content[:int(keep * len(content)) if isinstance(keep, float) else keep])
    assert_refused(path, "cut short")


@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.99])
def test_pickle_cut_short(tmp_path: Path, keep: float) -> None:
    path = saved_glue(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:int(keep * len(content)) if isinstance(keep, float) else keep])
    assert_refused(path, "cut short")


class Trap:
    """What a malicious checkpoint would hold."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)


def test_pickled_code_does_not_run(tmp_path: Path) -> None:
    path, touched = tmp_path / "trap.pth", tmp_path / "touched"
    torch.save({"conv1a.weight": Trap(touched)}, path)
    assert_refused(path, "not a checkpoint of plain tensors", load_superpoint)
    assert not touched.exists()


@pytest.mark.parametrize("content", [3, [], {}, {"state_dict": {}}])
def test_pickle_without_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    assert_refused(tmp_path / "other.pth", "holds no state dict")


def test_first_missing_key_is_named(tmp_path: Path) -> None:
    assert_refused(saved_glue(tmp_path, final_proj__bias=None), "'final_proj.bias' is missing", config=GLUE)


def test_unknown_key_is_named(tmp_path: Path) -> None:
    assert_refused(saved_glue(tmp_path, extra=torch.zeros(1)), "unknown 'extra'", config=GLUE)


def test_wrong_shape_is_named(tmp_path: Path) -> None:
    path = saved_glue(tmp_path, final_proj__weight=torch.zeros(8, 8))
    assert_refused(path, r"'final_proj.weight' has shape \[8, 8\], expected \[8, 8, 1\]", config=GLUE)


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    path = saved_glue(tmp_path, bin_score=torch.tensor(float("nan")))
    assert_refused(path, "'bin_score' holds values that are not finite", config=GLUE)


def test_entry_that_is_no_tensor_is_named(tmp_path: Path) -> None:
    torch.save({"bin_score": 1.0}, tmp_path / "odd.pth")
    assert_refused(tmp_path / "odd.pth", "'bin_score' is not a tensor")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_the_other_network_is_named(tmp_path: Path, suffix: str) -> None:
    path, network = tmp_path / f"weights.{suffix}", SuperPoint(POINT)
    save_weights(path, network) if suffix == "safetensors" else torch.save(network.state_dict(), path)
    assert_refused(path, "holds a superpoint, not a superglue")


def test_pickle_of_other_sizes_names_the_first_shape(tmp_path: Path) -> None:
    assert_refused(saved_glue(tmp_path), r"'kenc.encoder.0.weight' has shape \[4, 3, 1\], expected \[32, 3, 1\]")


def tagged(tmp_path: Path, **metadata: str) -> Path:
    from safetensors.torch import save_file
    path = tmp_path / "tagged.safetensors"
    save_file({"bin_score": torch.tensor(1.0)}, path, metadata)
    return path


def test_foreign_safetensors(tmp_path: Path) -> None:
    assert_refused(tagged(tmp_path), "metadata 'architecture' is None")
    assert_refused(tagged(tmp_path, architecture="resnet"), "metadata 'architecture' is 'resnet'")


def test_damaged_metadata(tmp_path: Path) -> None:
    assert_refused(tagged(tmp_path, architecture="superglue"), "metadata 'config' is missing")
    assert_refused(tagged(tmp_path, architecture="superglue", config="{"), "metadata 'config' is missing or not JSON")
    assert_refused(tagged(tmp_path, architecture="superglue", config="[1]", notes="{}"), "'config' is not a mapping")
    assert_refused(tagged(tmp_path, architecture="superglue", config='{"depth": 3}', notes="{}"), "config does not fit")
