"""The matcher network as the matching stage drives it: as a whole, or image by image and layer pair by layer pair.

Tokens are what a network in stages keeps of an image's keypoints from one stage to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core.backend import Arrays, Backend
from efficient_matcher.core.remembered import Remembered
from efficient_matcher.records import Features

_FEATURES = ("keypoints", "scores", "descriptors")
_TOKENS, _NEXT, _ANSWER = ("tokens0", "tokens1"), ("next0", "next1"), ("similarity", "dustbin")
_WHOLE = tuple(name + side for side in "01" for name in _FEATURES), _ANSWER
_ENCODE, _PAIR, _ASSIGN = (_FEATURES, ("tokens",)), (_TOKENS, _NEXT), (_TOKENS, _ANSWER)

Similarity = tuple[NDArray[np.float32], float]  # [N,M], and that of the dustbins
Tokens = NDArray[np.float32]  # [N,D]


class PairRun(Protocol):
    """Two images on their way through the network."""

    def advance(self) -> None:
        """Run the next layer pair."""

    def similarity(self) -> Similarity:
        """Of the keypoints, after the layer pairs run so far."""

    def keep(self, rows0: NDArray[np.bool_], rows1: NDArray[np.bool_]) -> None:
        """Go on with these keypoints [N], [M] only."""


class Network(Protocol):
    """A matcher network. depth: how often a run can `advance` before its similarity is the network's last word."""

    depth: int

    def start(self, features0: Features, features1: Features) -> PairRun:
        """Begin with two images of at least one keypoint each."""


def network_of(backends: Sequence[Backend]) -> Network:
    """The network in one part, or in stages in the order they run (`bundle.matcher_files`)."""
    return WholeNetwork(backends[0]) if len(backends) == 1 else StagedNetwork(backends)


def interfaces(parts: int) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Names of inputs and outputs of each of a matcher's parts, in the order they run."""
    return [_WHOLE] if parts == 1 else [_ENCODE, *[_PAIR] * (parts - 2), _ASSIGN]


class WholeNetwork:
    """A network in one file: one step from features to similarity."""

    depth = 1

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def start(self, features0: Features, features1: Features) -> PairRun:
        """See `Network`."""
        inputs = {f"{name}{side}": value for side, features in (("0", features0), ("1", features1))
                  for name, value in _inputs(features).items()}
        return _WholeRun(self._backend, inputs)


class _WholeRun:
    def __init__(self, backend: Backend, inputs: Arrays) -> None:
        self._backend, self._inputs = backend, inputs

    def advance(self) -> None:
        """Nothing to do: the one step is `similarity`."""

    def similarity(self) -> Similarity:
        """See `PairRun`."""
        return _answer(self._backend.run(self._inputs))

    def keep(self, rows0: NDArray[np.bool_], rows1: NDArray[np.bool_]) -> None:
        """See `PairRun`."""
        rows = {"0": rows0, "1": rows1}
        self._inputs = {name: value[rows[name[-1]]] for name, value in self._inputs.items()}


class StagedNetwork:
    """A network in stages. Each image is encoded once, however often it is matched."""

    def __init__(self, stages: Sequence[Backend]) -> None:
        self._encode, *self._pairs, self._assign = stages
        self.depth = len(self._pairs)
        self._known: Remembered[Tokens] = Remembered()

    def start(self, features0: Features, features1: Features) -> PairRun:
        """See `Network`."""
        return _StagedRun(self._pairs, self._assign, self._tokens(features0), self._tokens(features1))

    def _tokens(self, features: Features) -> Tokens:
        tokens = self._known.get(features)
        if tokens is None:
            tokens = self._encode.run(_inputs(features))["tokens"]
            self._known.keep(features, tokens)
        return tokens


class _StagedRun:
    def __init__(self, pairs: Sequence[Backend], assign: Backend, tokens0: Tokens, tokens1: Tokens) -> None:
        self._pairs, self._assign = iter(pairs), assign
        self._tokens = {"tokens0": tokens0, "tokens1": tokens1}

    def advance(self) -> None:
        """See `PairRun`."""
        outputs = next(self._pairs).run(self._tokens)
        self._tokens = {name: outputs[after] for name, after in zip(_TOKENS, _NEXT)}

    def similarity(self) -> Similarity:
        """See `PairRun`."""
        return _answer(self._assign.run(self._tokens))

    def keep(self, rows0: NDArray[np.bool_], rows1: NDArray[np.bool_]) -> None:
        """See `PairRun`."""
        self._tokens = {"tokens0": self._tokens["tokens0"][rows0], "tokens1": self._tokens["tokens1"][rows1]}


def normalised_keypoints(features: Features) -> NDArray[np.float32]:
    """Keypoints [N,2] as the network takes them: about the image centre, 1 being 0.7 of the longer side."""
    size = np.asarray(features.image_size, np.float32)
    return (features.keypoints - size / 2) / (np.float32(0.7) * size.max())


def _inputs(features: Features) -> Arrays:
    return dict(zip(_FEATURES, (normalised_keypoints(features), features.scores, features.descriptors)))


def _answer(outputs: Arrays) -> Similarity:
    return outputs["similarity"], float(np.asarray(outputs["dustbin"]).reshape(()))
