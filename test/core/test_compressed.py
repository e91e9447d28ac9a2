"""What is compressed comes back bit by bit, by Python's own means; what is damaged is one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from onnx import helper, numpy_helper  # noqa: E402

from efficient_matcher.core.bundle import load_bundle  # noqa: E402
from efficient_matcher.core.compressed import from_planes, is_compressed, restored, to_planes, unpacked  # noqa: E402
from efficient_matcher.core.pipeline import Matcher  # noqa: E402
from efficient_matcher.errors import BundleError, MatcherError  # noqa: E402
from efficient_matcher.learn.pack import _gaps, pack_bundle, packed, stored_bytes, unpack_bundle  # noqa: E402

RNG = np.random.default_rng(0)
CODES = RNG.normal(size=16).astype(np.float32)
SPARSE = np.where(RNG.random(9000) < 0.1, RNG.normal(size=9000), 0).astype(np.float32)
SPARSE[3:3000] = 0  # a gap of more than 255
ODD = np.array([0.0, -0.0, np.inf, np.nan, 1e-45] * 40, np.float32)
TENSORS = {
    "normal": RNG.normal(size=(30, 40)).astype(np.float32), "codes": CODES[RNG.integers(0, 16, (60, 50))],
    "four_codes": CODES[RNG.integers(0, 4, 1003)], "sparse": SPARSE,
    "many_codes": RNG.normal(size=700).astype(np.float32)[RNG.integers(0, 700, 4000)],
    "sparse_codes": np.where(SPARSE == 0, 0, CODES[RNG.integers(0, 16, 9000)]).astype(np.float32), "odd": ODD,
    "half": RNG.normal(size=500).astype(np.float16).astype(np.float32), "zeros": np.zeros((40, 40), np.float32),
    "int8": RNG.integers(-128, 128, (20, 30)).astype(np.int8), "small": np.arange(5, dtype=np.int64),
    "sparse_int8": np.where(SPARSE == 0, 0, 7).astype(np.int8), "wide": RNG.normal(size=300),
    "negative_zeros": np.full(400, -0.0, np.float32),
}


def model(tensors: dict[str, np.ndarray]) -> bytes:
    constants = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    return helper.make_model(helper.make_graph([], "g", [], [], constants)).SerializeToString()


def coded_bytes(**tensors: np.ndarray) -> int:
    return len(packed(model(tensors)))


@pytest.mark.parametrize("name", TENSORS)
def test_each_kind_of_tensor_comes_back_exactly(name: str) -> None:
    original = model({name: TENSORS[name]})
    assert unpacked(packed(original)) == original


def test_a_model_of_all_kinds_and_twice_the_same_tensor_comes_back_exactly() -> None:
    original = model({**TENSORS, "again": TENSORS["codes"], "once_more": TENSORS["zeros"]})
    assert unpacked(packed(original)) == original


def test_sixteen_values_take_about_four_bits() -> None:
    codes = CODES[RNG.integers(0, 16, 40000)]
    assert 20000 <= coded_bytes(codes=codes) < 1.05 * 20000  # 16 equally frequent values: 4 bits each


def test_a_tenth_of_sixteen_values_is_near_its_entropy() -> None:
    mask = RNG.random(100_000) < 0.1
    values = np.where(mask, CODES[RNG.integers(0, 16, 100_000)], 0).astype(np.float32)
    entropy = 100_000 * (0.469 + 0.1 * 4) / 8  # of a biased coin, and of the values
    assert entropy <= coded_bytes(values=values) < 1.06 * entropy


def test_gaps_of_known_places() -> None:
    assert list(_gaps(np.array([0, 1, 4, 259, 515]))) == [0, 0, 2, 254, 255, 0]


def test_planes_of_known_values() -> None:
    planes = to_planes(np.array([0x0102, 0x0304], "<u2"))
    assert planes == bytes([2, 4, 1, 3])
    assert list(from_planes(planes, np.dtype("<u2"))) == [0x0102, 0x0304]


def test_a_compressed_bundle_runs_as_the_original_does(
        tiny_bundle: Path, tmp_path: Path, warped_pair: object) -> None:
    card = pack_bundle(tiny_bundle, tmp_path / "small", lambda card: replace(card, measured={"note": "packed"}))
    bundle = load_bundle(tmp_path / "small")
    assert card == bundle.card and card.measured["note"] == "packed"
    assert all(is_compressed(bundle.path / name) for name in card.files)
    assert all(restored(bundle.path / name) == (tiny_bundle / name).read_bytes() for name in card.files)
    assert stored_bytes(tmp_path / "small") == sum(path.stat().st_size for path in bundle.path.iterdir())
    expected = Matcher.from_bundle(tiny_bundle).match(warped_pair.image0, warped_pair.image1)
    found = Matcher.from_bundle(tmp_path / "small").match(warped_pair.image0, warped_pair.image1)
    np.testing.assert_array_equal(found.matches.indices, expected.matches.indices)
    np.testing.assert_array_equal(found.features1.descriptors, expected.features1.descriptors)


def test_packing_twice_and_unpacking_in_place(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    before = {path.name: path.read_bytes() for path in folder.glob("*.onnx")}
    pack_bundle(folder, folder)
    pack_bundle(folder, folder)
    unpack_bundle(folder, folder)
    assert {path.name: path.read_bytes() for path in folder.glob("*.onnx")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.fixture
def variants(tmp_path: Path) -> tuple[bytes, Path]:
    """A model for another runtime that shares two tensors with the packed one beside it, and its packed file."""
    main = model({name: TENSORS[name] for name in ("normal", "sparse", "int8")})
    other = model({name: TENSORS[name] for name in ("int8", "half", "normal")})
    (tmp_path / "net.onnx").write_bytes(packed(main))
    (tmp_path / "net_openvino.onnx").write_bytes(packed(other, ("net.onnx", main)))
    return other, tmp_path / "net_openvino.onnx"


def test_a_variant_holds_only_what_its_neighbour_lacks(variants: tuple[bytes, Path]) -> None:
    original, path = variants
    assert restored(path) == original
    assert path.stat().st_size < coded_bytes(half=TENSORS["half"]) + 200 < len(packed(original)) / 3


def test_a_variant_with_another_neighbour_or_none_is_one_line(variants: tuple[bytes, Path]) -> None:
    _, path = variants
    main = path.with_name("net.onnx")
    main.write_bytes(packed(model({"other": TENSORS["wide"]})))
    with pytest.raises(BundleError, match="^[^\n]*net_openvino.onnx: compressed model is damaged[^\n]*$"):
        restored(path)
    main.write_bytes(path.read_bytes())
    with pytest.raises(BundleError, match="shares tensors in turn"):
        restored(path)
    main.unlink()
    with pytest.raises(BundleError, match="^[^\n]*net.onnx: cannot be read: No such file[^\n]*$"):
        restored(path)


def test_openvino_names_the_outputs_of_a_packed_model_as_the_file_does(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from efficient_matcher.core.runtimes import OpenVino
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["constant"], ["given"]), helper.make_node("Relu", ["in"], ["out"])], "g",
        [value("in", 1, [2])], [value("out", 1, [2]), value("given", 1, [])],
        [numpy_helper.from_array(np.float32(3), "constant")])
    (tmp_path / "m.onnx").write_bytes(packed(helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()))
    model = OpenVino(tmp_path / "m.onnx", 1)
    assert sorted(model.outputs) == ["given", "out"]
    assert model.run({"in": np.array([-1, 2], np.float32)})["given"] == 3


def test_a_folder_of_something_else_is_not_touched(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MatcherError, match="exists and is not a bundle"):
        pack_bundle(tiny_bundle, tmp_path)


def test_what_is_no_model_is_not_packed() -> None:
    with pytest.raises(MatcherError, match="is not an ONNX model"):
        packed(b"\xff" * 100)


@pytest.fixture(scope="module")
def whole() -> bytes:
    return packed(model({name: TENSORS[name] for name in ("codes", "sparse", "half")}))


@pytest.mark.parametrize("kept", [8, 11, 40, 200, -1])
def test_cut_short_is_one_line(whole: bytes, tmp_path: Path, kept: int) -> None:
    (tmp_path / "m.onnx").write_bytes(whole[:kept])
    with pytest.raises(BundleError, match="^[^\n]*m.onnx: compressed model is damaged or cut short[^\n]*$"):
        restored(tmp_path / "m.onnx")


def test_any_altered_byte_is_found(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for at in range(len(whole) - 1, 0, -len(whole) // 60):
        data = bytearray(whole)
        data[at] ^= 0x55
        path.write_bytes(data)
        try:
            assert restored(path) == unpacked(whole)  # a byte that no decoder looks at
        except BundleError as error:
            assert "damaged or cut short" in str(error) and "\n" not in str(error)


def test_a_damaged_bundle_names_its_file(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    pack_bundle(folder, folder)
    path = folder / "matcher.onnx"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BundleError, match="matcher.onnx: SHA-256 is .* altered or cut short"):
        Matcher.from_bundle(folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert not is_compressed(tmp_path / "none.onnx")
    with pytest.raises(BundleError, match="none.onnx: cannot be read"):
        restored(tmp_path / "none.onnx")
