"""Results on disk are whole or not there, and nothing is overwritten unasked."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from efficient_matcher.errors import MatcherError
from efficient_matcher.files import (check_writable, plain, result_folder, write_bytes_atomic, write_json,
                                     write_text_atomic)


def test_text_replaces_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text_atomic(path, "one")
    write_text_atomic(path, "zwei ä")
    assert path.read_text("utf-8") == "zwei ä"
    assert list(path.parent.iterdir()) == [path]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "kept" / "real.txt")
    write_text_atomic(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "kept" / "real.txt").read_text() == "new"


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text_atomic(pipe, "through")
    assert os.read(reader, 100) == b"through" and stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(reader)


def test_the_folder_itself_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MatcherError, match="cannot be written"):
        write_text_atomic(".", "text")


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    write_bytes_atomic(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("efficient_matcher.files.os.replace", fail)
    with pytest.raises(MatcherError, match="a.bin: cannot be written: No space left"):
        write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_takes_arrays_and_makes_nan_null(tmp_path: Path) -> None:
    value = {"m": np.eye(2), "n": float("nan"), "k": np.int64(3), "p": Path("x"), "t": (1, None)}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "m": [[1, 0], [0, 1]], "n": None, "k": 3, "p": "x", "t": [1, None]}


def test_plain_reaches_into_arrays_of_nan() -> None:
    assert plain({"a": [np.array([1.0, np.inf])]}) == {"a": [[1.0, None]]}


def test_result_folder_refuses_to_overwrite(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    with pytest.raises(MatcherError, match="bag: exists already"):
        result_folder(tmp_path, ("bag", "summary.json"))
    assert (tmp_path / "bag").exists()


def test_overwriting_spares_files_of_others(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "x").write_text("")
    (tmp_path / "notes.txt").write_text("mine")
    result_folder(tmp_path, ("bag", "summary.json"), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_result_folder_through_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MatcherError, match="cannot be used for results"):
        result_folder(tmp_path / "file" / "out", ())


def test_a_file_in_place_of_the_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no folder")
    with pytest.raises(MatcherError, match="b.txt: cannot be written"):
        write_text_atomic(tmp_path / "a" / "b.txt", "text")


def test_files_that_cannot_be_written_are_known_beforehand(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("no folder")
    with pytest.raises(MatcherError, match="cannot be written: is a folder"):
        check_writable(tmp_path)
    with pytest.raises(MatcherError, match="b.json: cannot be written: .*a is not a folder"):
        check_writable(tmp_path / "a" / "b.json")
    check_writable(tmp_path / "new" / "b.json")
    check_writable("/dev/null")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    monkeypatch.setattr("efficient_matcher.files.os.access", lambda *_: False)
    with pytest.raises(MatcherError, match="b.json: cannot be written: no permission in"):
        check_writable(tmp_path / "new" / "b.json")


def test_a_link_is_as_writable_as_what_it_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir(), own.mkdir()
    (shared / "b.json").symlink_to(own / "b.json")
    monkeypatch.setattr("efficient_matcher.files.os.access", lambda folder, _: Path(folder) == own)
    check_writable(shared / "b.json")
    with pytest.raises(MatcherError, match="c.json: cannot be written: no permission in"):
        check_writable(shared / "c.json")


@pytest.mark.parametrize("source", ["bag", "bag/run.mcap"])
def test_overwriting_spares_what_the_results_are_made_from(tmp_path: Path, source: str) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "run.mcap").write_text("precious")
    with pytest.raises(MatcherError, match="bag: is what the results are made from"):
        result_folder(tmp_path, ("bag",), overwrite=True, source=tmp_path / source)
    assert (tmp_path / "bag" / "run.mcap").read_text() == "precious"
