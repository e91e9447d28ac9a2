"""Features and matches on disk, in the layout of hloc."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from efficient_matcher.errors import MatcherError, SourceError
from efficient_matcher.records import Features, Matches
from efficient_matcher.sources.match_files import MatchFiles, check_names

h5py = pytest.importorskip("h5py")


@pytest.fixture()
def features() -> Features:
    rng = np.random.default_rng(0)
    return Features(rng.random((5, 2), np.float32), rng.random(5, np.float32), rng.random((5, 3), np.float32), (64, 48),
                    rng.random(5, np.float32))


def test_features_come_back_to_the_last_bit(tmp_path: Path, features: Features) -> None:
    files = MatchFiles(tmp_path, "me")
    assert files.features("cam/a.png") is None
    files.write_features("cam/a.png", features)
    files.write_features("b.png", replace(features, spreads=None))
    found = files.features("cam/a.png")
    for name in ("keypoints", "scores", "descriptors", "spreads"):
        assert np.array_equal(getattr(found, name), getattr(features, name))
        assert getattr(found, name).dtype == np.float32 and getattr(found, name).flags.c_contiguous
    assert found.image_size == (64, 48) and files.features("b.png").spreads is None


def test_the_layout_is_that_of_hloc(tmp_path: Path, features: Features) -> None:
    files = MatchFiles(tmp_path, "me")
    files.write_features("cam/a.png", features)
    files.write_matches("cam/a.png", "b.png", Matches(np.array([[3, 1], [0, 2]], np.int32), np.array([0.9, 0.5], np.float32)), 5)
    with h5py.File(tmp_path / "features.h5") as stored:
        assert stored["cam/a.png/descriptors"].shape == (3, 5) and stored["cam/a.png/image_size"][:].tolist() == [64, 48]
    with h5py.File(tmp_path / "matches.h5") as stored:
        pair = stored["cam-a.png/b.png"]
        assert pair["matches0"][:].tolist() == [2, -1, -1, 1, -1]
        assert pair["matching_scores0"][:] == pytest.approx([0.5, 0, 0, 0.9, 0])
    assert files.has_matches("cam/a.png", "b.png") and files.has_matches("b.png", "cam/a.png")
    assert not files.has_matches("cam/a.png", "c.png")


def test_files_of_others_and_damaged_ones_are_refused(tmp_path: Path, features: Features) -> None:
    MatchFiles(tmp_path, "me").write_features("a.png", features)
    assert MatchFiles(tmp_path, "me").features("a.png") is not None
    with pytest.raises(MatcherError, match="features.h5: was made by another bundle or other settings"):
        MatchFiles(tmp_path, "you")
    (tmp_path / "matches.h5").write_bytes(b"no HDF5")
    with pytest.raises(MatcherError, match="matches.h5: cannot be read or written: .*signature not found"):
        MatchFiles(tmp_path, "me")


def test_what_cannot_be_written_is_named_and_half_of_it_counts_for_nothing(
        tmp_path: Path, features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    files, matches = MatchFiles(tmp_path, "me"), Matches(np.array([[3, 1]], np.int32), np.array([0.9], np.float32))
    create = h5py.Group.create_dataset

    def full(group: h5py.Group, name: str, **values: object) -> object:
        if name in ("descriptors", "matching_scores0"):
            raise OSError(28, "No space left on device")
        return create(group, name, **values)

    with monkeypatch.context() as patched:
        patched.setattr(h5py.Group, "create_dataset", full)
        with pytest.raises(MatcherError, match="features.h5: cannot be read or written: .*No space left"):
            files.write_features("a.png", features)
        with pytest.raises(MatcherError, match="matches.h5: cannot be read or written: .*No space left"):
            files.write_matches("a.png", "b.png", matches, 5)
    assert files.features("a.png") is None and not files.has_matches("a.png", "b.png")
    files.write_features("a.png", features)
    files.write_matches("a.png", "b.png", matches, 5)
    assert len(files.features("a.png")) == 5 and files.has_matches("b.png", "a.png")


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MatcherError, match="h5py is missing"):
        MatchFiles(tmp_path, "me")


def test_images_that_share_a_name_in_the_file_are_refused() -> None:
    check_names(["a/b.png", "b.png", "a/b.png"])
    with pytest.raises(SourceError, match="a/b.png and a-b.png: are one name in matches.h5"):
        check_names(["a/b.png", "c.png", "a-b.png"])
