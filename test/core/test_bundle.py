"""Bundles that are whole load; each way of being wrong is named with its file and field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from efficient_matcher.core import bundle as bundle_module
from efficient_matcher.core.bundle import file_sha256, load_bundle, read_card, shipped_bundles, write_card
from efficient_matcher.errors import BundleError


@pytest.fixture()
def folder(tmp_path: Path, make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(tmp_path / "own")


def change_card(folder: Path, **values: object) -> None:
    card = yaml.safe_load((folder / "model.yaml").read_text())
    card.update(values)
    (folder / "model.yaml").write_text(yaml.safe_dump(card))


def test_a_whole_bundle_loads(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    assert bundle.card.name == "tiny"
    assert bundle.card.input_size == (320, 240)
    assert bundle.extractor == tiny_bundle / "extractor.onnx"
    assert bundle.matcher == (tiny_bundle / "matcher.onnx",)
    assert bundle.path == tiny_bundle


@pytest.mark.parametrize("version", [1, 2])
def test_bundles_of_both_versions_load(folder: Path, version: int) -> None:
    change_card(folder, format_version=version)
    assert load_bundle(folder).card.format_version == version


def test_a_matcher_in_stages(folder: Path) -> None:
    names = ["matcher_encode.onnx", *(f"matcher_pair{pair}.onnx" for pair in range(1, 12)), "matcher_assign.onnx"]
    for name in names:
        (folder / name).write_text(name)
    (folder / "matcher.onnx").unlink()
    files = {name: file_sha256(folder / name) for name in [*sorted(names), "extractor.onnx"]}
    change_card(folder, files=files)
    assert [path.name for path in load_bundle(folder).matcher] == names
    (folder / "matcher_pair7.onnx").write_text("altered")
    with pytest.raises(BundleError, match="matcher_pair7.onnx: SHA-256"):
        load_bundle(folder)


def test_an_extractor_for_one_runtime(variant_bundle: Path, tiny_bundle: Path) -> None:
    bundle = load_bundle(variant_bundle)
    assert bundle.extractor == variant_bundle / "extractor.onnx"
    assert bundle.variants == {"openvino": variant_bundle / "extractor_openvino.onnx"}
    assert load_bundle(tiny_bundle).variants == {}


def test_a_variant_the_card_does_not_list_is_not_used(variant_bundle: Path) -> None:
    files = {name: file_sha256(variant_bundle / name) for name in ("extractor.onnx", "matcher.onnx")}
    change_card(variant_bundle, files=files)
    assert load_bundle(variant_bundle).variants == {}


def test_a_variant_that_was_altered_or_is_missing(variant_bundle: Path) -> None:
    path = variant_bundle / "extractor_openvino.onnx"
    path.write_bytes(b"altered")
    with pytest.raises(BundleError, match="extractor_openvino.onnx: SHA-256 is .*, the card's field files says"):
        load_bundle(variant_bundle)
    path.unlink()
    with pytest.raises(BundleError, match="extractor_openvino.onnx: cannot be read: No such file"):
        load_bundle(variant_bundle)


def test_a_path_may_be_text(tiny_bundle: Path) -> None:
    assert load_bundle(str(tiny_bundle)).card.name == "tiny"


def test_the_card_reads_back_as_written(tiny_bundle: Path, tmp_path: Path) -> None:
    card = load_bundle(tiny_bundle).card
    assert write_card(tmp_path, card) == tmp_path / "model.yaml"
    assert read_card(tmp_path) == card
    assert [path.name for path in tmp_path.iterdir()] == ["model.yaml"]


def test_a_card_of_numpy_values_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    from dataclasses import replace
    card = replace(load_bundle(tiny_bundle).card, measured={"auc": np.float64(3)})
    with pytest.raises(BundleError, match="model.yaml: a value is not plain"):
        write_card(tmp_path, card)


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_shipped_name_wins_over_a_folder(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bundle_module, "SHIPPED", tiny_bundle.parent)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert shipped_bundles() == ["tiny"]
    assert load_bundle("tiny").path == tiny_bundle
    with pytest.raises(BundleError, match="tiny/model.yaml: cannot be read"):
        load_bundle("./tiny/")


@pytest.mark.parametrize("name", ["nowhere", "~nobody-of-this-name/bundle"])
def test_neither_name_nor_folder(name: str) -> None:
    with pytest.raises(BundleError, match=f"^{name}: no such bundle"):
        load_bundle(name)


@pytest.mark.parametrize("field", ["format_version", "name", "extractor", "matcher", "input_size", "max_keypoints",
                                   "preprocessing", "files", "licence", "training", "measured"])
def test_a_missing_field_is_named(folder: Path, field: str) -> None:
    card = yaml.safe_load((folder / "model.yaml").read_text())
    del card[field]
    (folder / "model.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(BundleError, match=f"model.yaml: field '{field}' is missing"):
        load_bundle(folder)


@pytest.mark.parametrize("version", [3, 0, "1", True, 1.0])
def test_another_format_version(folder: Path, version: object) -> None:
    change_card(folder, format_version=version)
    with pytest.raises(BundleError, match="model.yaml: format_version is .*, this program reads 1 and 2"):
        load_bundle(folder)


@pytest.mark.parametrize(("field", "value"), [
    ("input_size", [320]), ("input_size", "320x240"), ("max_keypoints", 0), ("max_keypoints", "many"),
    ("files", {}), ("files", {"extractor.onnx": "0" * 64, "matcher.onnx": 3}), ("licence", ""), ("training", [1]),
    ("files", {"extractor.onnx": "0" * 64, "matcher.onnx": "0" * 64, "../other": "0" * 64}),
    ("files", {"extractor.onnx": "0" * 64, "matcher_encode.onnx": "0" * 64, "matcher_pair1.onnx": "0" * 64}),
    ("files", {name + ".onnx": "0" * 64 for name in
               ("extractor", "matcher_encode", "matcher_pair1", "matcher_pair3", "matcher_assign")})])
def test_a_wrong_value_is_named(folder: Path, field: str, value: object) -> None:
    change_card(folder, **{field: value})
    with pytest.raises(BundleError, match=f"model.yaml: field '{field}' has a wrong value"):
        load_bundle(folder)


def test_an_unknown_field_is_named(folder: Path) -> None:
    change_card(folder, colour="red")
    with pytest.raises(BundleError, match="model.yaml: unknown field 'colour'"):
        load_bundle(folder)


@pytest.mark.parametrize("content", [b"a: [", b"- 1\n", b"", b"\xff\xfe\x00\x01"])
def test_a_card_that_is_no_card(folder: Path, content: bytes) -> None:
    (folder / "model.yaml").write_bytes(content)
    with pytest.raises(BundleError, match="model.yaml: is not"):
        load_bundle(folder)


def test_a_model_cut_short(folder: Path) -> None:
    path = folder / "extractor.onnx"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BundleError, match="extractor.onnx: SHA-256 is .* files says"):
        load_bundle(folder)


def test_a_model_altered_by_one_bit(folder: Path) -> None:
    path = folder / "matcher.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="matcher.onnx: SHA-256"):
        load_bundle(folder)


def test_a_model_missing(folder: Path) -> None:
    (folder / "matcher.onnx").unlink()
    with pytest.raises(BundleError, match="matcher.onnx: cannot be read: No such file"):
        load_bundle(folder)


def test_every_bundle_that_ships_is_whole() -> None:
    assert [load_bundle(name).card.name for name in shipped_bundles()] == shipped_bundles()
