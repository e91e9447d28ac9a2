"""Features of images and matches of pairs in two HDF5 files, laid out as hloc (Hierarchical-Localization) reads them.

`features.h5`, a group of each image's name: keypoints [N,2] px, pixel centres at integers, scores [N], descriptors
[D,N], image_size (width, height), and spreads [N] where they are known. `matches.h5`, a group `name0/name1` of each
pair, slashes within names as `-`: matches0 [N], the keypoint of image 1 or -1, and matching_scores0 [N].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.errors import MatcherError, SourceError
from efficient_matcher.records import Features, Matches

FEATURES, MATCHES = "features.h5", "matches.h5"
_MADE_BY = "made_by"
_LAST_OF_FEATURES, _LAST_OF_MATCHES = "image_size", "matching_scores0"  # written last: without it a group is not whole


class MatchFiles:
    """The two files of a folder. Each is closed after every image and pair, so that what an interrupted run has written
    is whole and a second one goes on."""

    def __init__(self, folder: Path, made_by: str) -> None:
        """folder: exists. made_by: networks and settings, in which all that goes into the files must agree.

        Raises MatcherError where h5py is missing, a file is damaged, or one was made by other networks or settings.
        """
        try:
            import h5py
        except ImportError:
            raise MatcherError("h5py is missing: pip install 'efficient_matcher[sfm]', or h5py itself") from None
        self._h5py = h5py
        self.features_path, self.matches_path = folder / FEATURES, folder / MATCHES
        for path in (self.features_path, self.matches_path):
            with self._opened(path) as file:
                if file.attrs.setdefault(_MADE_BY, made_by) != made_by:
                    raise MatcherError(f"{path}: was made by another bundle or other settings; choose another --out, "
                                       "or --overwrite")

    def features(self, name: str) -> Features | None:
        """What was written of an image, to the last bit; None of one that is not there."""
        with self._opened(self.features_path) as file:
            if f"{name}/{_LAST_OF_FEATURES}" not in file:
                return None
            found = {key: np.asarray(file[name][key]) for key in file[name]}
        width, height = found[_LAST_OF_FEATURES].tolist()
        descriptors = np.ascontiguousarray(found["descriptors"].T)
        return Features(found["keypoints"], found["scores"], descriptors, (width, height), found.get("spreads"))

    def write_features(self, name: str, features: Features) -> None:
        """Raises MatcherError where they cannot be written."""
        spreads = {} if features.spreads is None else {"spreads": features.spreads}
        self._write(self.features_path, name, {
            "keypoints": features.keypoints, "scores": features.scores, "descriptors": features.descriptors.T,
            **spreads, _LAST_OF_FEATURES: np.array(features.image_size)})

    def has_matches(self, name0: str, name1: str) -> bool:
        """Whether the pair is there, this way or the other way round."""
        with self._opened(self.matches_path) as file:
            return any(f"{key}/{_LAST_OF_MATCHES}" in file for key in (_key(name0, name1), _key(name1, name0)))

    def write_matches(self, name0: str, name1: str, matches: Matches, keypoints0: int) -> None:
        """keypoints0: how many image 0 has. Raises MatcherError where they cannot be written."""
        partners = np.full(keypoints0, -1, np.int32)
        scores = np.zeros(keypoints0, np.float32)
        partners[matches.indices[:, 0]] = matches.indices[:, 1]
        scores[matches.indices[:, 0]] = matches.scores
        self._write(self.matches_path, _key(name0, name1), {"matches0": partners, _LAST_OF_MATCHES: scores})

    def _write(self, path: Path, group: str, arrays: dict[str, NDArray[Any]]) -> None:
        with self._opened(path) as file:
            if group in file:  # half of it, by a run that failed
                del file[group]
            written = file.create_group(group)
            for key, values in arrays.items():
                written.create_dataset(key, data=values)

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Any]:
        try:
            with self._h5py.File(path, "a") as file:
                yield file
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise MatcherError(f"{path}: cannot be read or written: {reason}") from None


def check_names(names: Iterable[str]) -> None:
    """Raise SourceError naming two images whose pairs the layout could not tell apart."""
    told: dict[str, str] = {}
    for name in names:
        if (other := told.setdefault(_plain(name), name)) != name:
            raise SourceError(f"{other} and {name}: are one name in {MATCHES}, where slashes become '-'; rename one")


def _key(name0: str, name1: str) -> str:
    return f"{_plain(name0)}/{_plain(name1)}"


def _plain(name: str) -> str:
    return name.replace("/", "-")
