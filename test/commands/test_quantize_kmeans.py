"""From weight files to a small bundle that gives what the clustered networks give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("safetensors")

from efficient_matcher.commands.quantize_kmeans import KMeansOptions, run  # noqa: E402
from efficient_matcher.core.bundle import load_bundle  # noqa: E402
from efficient_matcher.core.compressed import is_compressed, restored  # noqa: E402
from efficient_matcher.core.pipeline import Matcher  # noqa: E402
from efficient_matcher.errors import MatcherError  # noqa: E402
from efficient_matcher.learn.pack import stored_bytes  # noqa: E402
from efficient_matcher.learn.superglue import SuperGlue, SuperGlueConfig  # noqa: E402
from efficient_matcher.learn.superpoint import SuperPoint, SuperPointConfig  # noqa: E402
from efficient_matcher.learn.weights import load_superglue, save_weights  # noqa: E402


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    notes = {"licence": "Apache-2.0", "training": {"steps": 7}}
    save_weights(folder / "p.safetensors", SuperPoint(SuperPointConfig((8,) * 8, 16, 16, 32, batch_norm=True)), notes)
    save_weights(folder / "g.safetensors", SuperGlue(SuperGlueConfig(32, (16,), 2, 4)), notes)
    return folder / "p.safetensors", folder / "g.safetensors"


def test_the_bundle_is_small_and_says_what_was_done(
        files: tuple[Path, Path], tmp_path: Path, textured_image: np.ndarray) -> None:
    report = run(KMeansOptions(*files, tmp_path / "small", 3, ("conv1a=5",), weights=tmp_path / "w",
                               json=tmp_path / "r.json"))
    bundle = load_bundle(tmp_path / "small")
    assert all(is_compressed(bundle.path / name) for name in bundle.card.files)
    assert report["bytes"] == stored_bytes(tmp_path / "small")
    assert bundle.card.matcher["precision"] == "float32 in codebooks of 3 bits"
    assert bundle.card.training["quantized"]["superpoint"]["layers"] == {"conv1a": 5}
    assert bundle.card.training["superpoint"] == {"steps": 7}
    assert report["layers"]["superpoint"]["conv1a"]["values"] == 32
    assert report["layers"]["superglue"]["final_proj"]["values"] == 8
    assert json.loads((tmp_path / "r.json").read_text())["bytes"] == report["bytes"]
    features = Matcher.from_bundle(tmp_path / "small").extract(textured_image)
    assert features.descriptors.shape == (len(features), 32)


def test_the_clustered_weights_give_the_same_bundle_again(files: tuple[Path, Path], tmp_path: Path) -> None:
    run(KMeansOptions(*files, tmp_path / "a", 2, weights=tmp_path / "w"))
    assert load_superglue(tmp_path / "w" / "superglue.safetensors").config.folded
    run(KMeansOptions(tmp_path / "w" / "superpoint.safetensors", tmp_path / "w" / "superglue.safetensors",
                      tmp_path / "b", 2))
    for name in load_bundle(tmp_path / "a").card.files:
        assert restored(tmp_path / "a" / name) == restored(tmp_path / "b" / name)


def test_a_run_that_breaks_off_leaves_the_earlier_bundle(
        files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(KMeansOptions(*files, tmp_path / "a", 4))
    before = (tmp_path / "a" / "model.yaml").read_bytes()

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("efficient_matcher.learn.pack.pack_bundle", broken)
    with pytest.raises(KeyboardInterrupt):
        run(KMeansOptions(*files, tmp_path / "a", 3))
    assert (tmp_path / "a" / "model.yaml").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_weights_it_begins_with_are_not_replaced(files: tuple[Path, Path], tmp_path: Path) -> None:
    named = [tmp_path / f"{name}.safetensors" for name in ("superpoint", "superglue")]
    for own, copy in zip(files, named):
        copy.write_bytes(own.read_bytes())
    with pytest.raises(MatcherError, match="is what the work begins with"):
        run(KMeansOptions(*named, tmp_path / "out", 4, weights=tmp_path))
    assert named[0].read_bytes() == files[0].read_bytes() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("bits", "layers", "message"), [
    (1, (), "--bits: 1 bits; k-means codebooks take 2 to 8"), (9, (), "--bits: 9 bits"),
    (4, ("conv1a=1",), "--layer conv1a=1: 1 bits"), (4, ("conv1a",), "--layer conv1a: must be NAME=BITS"),
    (4, ("conv9=4",), r"--layer conv9=4: unknown layer 'conv9' \(known: conv1a, ")])
def test_bad_input_is_one_line_and_writes_nothing(
        files: tuple[Path, Path], tmp_path: Path, bits: int, layers: tuple[str, ...], message: str) -> None:
    with pytest.raises(MatcherError, match=f"^{message}") as caught:
        run(KMeansOptions(*files, tmp_path / "out", bits, layers))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
