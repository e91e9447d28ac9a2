"""The command info: the card as printed and as JSON, and a bundle that was altered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from efficient_matcher.commands import info
from efficient_matcher.core import native
from efficient_matcher.errors import BundleError


def test_card_is_printed_and_written(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = info.run(str(tiny_bundle), tmp_path / "info.json")
    printed = capsys.readouterr().out
    assert "blobs" in printed and "320 x 240 px" in printed
    assert report["bytes"]["extractor.onnx"] == (tiny_bundle / "extractor.onnx").stat().st_size
    assert json.loads((tmp_path / "info.json").read_text())["card"]["extractor"]["descriptor_dim"] == 49


def test_a_variant_and_all_bytes_are_shown(variant_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = info.run(str(variant_bundle))
    assert report["variants"] == {"openvino": "extractor_openvino.onnx"}
    assert report["inner_loops"] == native.kind()
    assert report["total_bytes"] == sum(path.stat().st_size for path in variant_bundle.glob("*.onnx"))
    printed = capsys.readouterr().out
    assert "extractor on openvino" in printed and "all files" in printed


def test_altered_file_is_named_and_nothing_written(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    with (folder / "matcher.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(BundleError, match="matcher.onnx: SHA-256 is"):
        info.run(str(folder), tmp_path / "info.json")
    assert not (tmp_path / "info.json").exists()


def test_nested_values_become_rows_of_their_own() -> None:
    card = {"a": {"b": 0.123456, "c": [1, 2]}, "d": "text", "begun_with": {"seed": 3}}
    assert info._flat("x", card) == {"x a b": "0.123", "x a c": "1, 2", "x d": "text"}


@pytest.mark.parametrize("bundle", ["default", "fast", "accurate"])
def test_the_licence_of_what_ships_is_legible_in_a_narrow_terminal(
        bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    info.run(bundle)
    assert "Apache-2.0" in capsys.readouterr().out
