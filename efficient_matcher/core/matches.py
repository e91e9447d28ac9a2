"""Two sets of features to matches: the matcher network, optimal transport, the neighbours' motion, the mutual check.

Indices 0 and 1 are the two images; N and M their keypoints.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import MatchConfig
from efficient_matcher.core.motion_prior import Side, consistent_matches
from efficient_matcher.core.stages import Network
from efficient_matcher.core.transport import CERTAIN, OVER_RELAXATION, Assignment, optimal_transport
from efficient_matcher.records import Features, Matches


class FeatureMatcher:
    """The matching stage: `matcher(features0, features1) -> (Matches, depth)`."""

    def __init__(self, network: Network, config: MatchConfig) -> None:
        self._network = network
        self._config = config

    def __call__(self, features0: Features, features1: Features) -> tuple[Matches, int]:
        """Mutual matches above the score threshold, best first, and the layer pairs that were run.

        None and 0 when either side has no keypoints. In its first half, where it pays to ask, the network is left as
        soon as the share `early_stop` of the keypoints is paired; else it goes on without those that surely have no
        partner. Raises MatcherError when the network fails.
        """
        counts = len(features0), len(features1)
        if not min(counts):
            return no_matches(), 0
        run, config = self._network.start(features0, features1), self._config
        rows: list[NDArray[np.int32]] = []  # of the keypoints still in the run, where some were left out
        for depth in range(1, self._network.depth + 1):
            run.advance()
            if not self._asks_at(depth):
                continue
            assignment = optimal_transport(*run.similarity(), config.transport_iterations, config.transport_tolerance,
                                           OVER_RELAXATION)
            if self._ends(depth, assignment, min(counts)):
                break
            kept = assignment.hopeful(config.drop_above if config.drop_above < 1 else np.inf)
            if not (kept[0].any() and kept[1].any()):
                break
            run.keep(*kept)
            rows = [own[keep] for own, keep in zip(rows or map(_numbers, counts), kept)]
        if not rows:
            return self._matches(assignment, _side(features0), _side(features1)), depth
        matches = self._matches(assignment, *map(_side, (features0, features1), rows))
        indices = np.stack([own[column] for own, column in zip(rows, matches.indices.T)], axis=1)
        return replace(matches, indices=indices), depth

    def _matches(self, assignment: Assignment, side0: Side, side1: Side) -> Matches:
        if self._config.motion_prior:
            return consistent_matches(assignment.values, side0, side1, self._config.score_threshold)
        return mutual_matches(assignment, self._config.score_threshold)

    def _asks_at(self, depth: int) -> bool:
        whole, config = self._network.depth, self._config
        return depth == whole or (depth <= whole // 2 and min(config.early_stop, config.drop_above) < 1)

    def _ends(self, depth: int, assignment: Assignment, possible: int) -> bool:
        early_stop = self._config.early_stop
        return depth == self._network.depth or (early_stop < 1 and assignment.paired() >= early_stop * possible)


def _numbers(count: int) -> NDArray[np.int32]:
    return np.arange(count, dtype=np.int32)


def _side(features: Features, rows: NDArray[np.int32] | slice = slice(None)) -> Side:
    return Side(features.keypoints[rows], features.image_size)


def mutual_matches(assignment: Assignment, threshold: float) -> Matches:
    """Pairs that are each other's best and match with a probability of at least `threshold`."""
    return _mutual(assignment.values[:-1, :-1], assignment.best, threshold, CERTAIN)


def nearest_neighbour_matches(features0: Features, features1: Features, threshold: float = 0.0) -> Matches:
    """Mutual nearest neighbours by descriptor alone; the score is the cosine, negative ones are no match."""
    if not len(features0) or not len(features1):
        return no_matches()
    cosines = features0.descriptors @ features1.descriptors.T
    best1 = cosines.argmax(axis=1)
    return _mutual(cosines, (best1, cosines[np.arange(len(best1)), best1]), threshold)


def no_matches() -> Matches:
    """Matches with K = 0."""
    return Matches(np.zeros((0, 2), np.int32), np.zeros(0, np.float32))


def _mutual(values: NDArray[np.float32], best: tuple[NDArray[np.intp], NDArray[np.float32]], threshold: float,
            certain: float = np.inf) -> Matches:
    """best: of each row the column and value of its largest entry. certain: a larger one is its column's as well."""
    best1, scores = best
    index0 = np.flatnonzero(scores >= threshold)
    asked = index0[scores[index0] <= certain]
    # Comparing with the column's maximum is much faster than an argmax across the memory's order.
    beaten = asked[scores[asked] != values[:, best1[asked]].max(axis=0)]
    if len(beaten):
        index0 = np.setdiff1d(index0, beaten, assume_unique=True)
    if np.bincount(best1[index0], minlength=1).max() > 1:
        # Equal entries in a column pass that comparison together; the first row keeps the column.
        index0 = index0[np.sort(np.unique(best1[index0], return_index=True)[1])]
    order = index0[np.argsort(-scores[index0], kind="stable")]
    indices = np.stack([order, best1[order]], axis=1).astype(np.int32)
    return Matches(indices, np.clip(scores[order], 0, 1).astype(np.float32))
