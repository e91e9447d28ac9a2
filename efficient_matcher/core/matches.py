"""Two sets of features to matches: the matcher network, optimal transport, the mutual check.

Indices 0 and 1 are the two images; N and M their keypoints.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import MatchConfig
from efficient_matcher.core.stages import Network
from efficient_matcher.core.transport import optimal_transport
from efficient_matcher.records import Features, Matches


class FeatureMatcher:
    """The matching stage: `matcher(features0, features1) -> (Matches, depth)`."""

    def __init__(self, network: Network, config: MatchConfig) -> None:
        self._network = network
        self._config = config

    def __call__(self, features0: Features, features1: Features) -> tuple[Matches, int]:
        """Mutual matches above the score threshold, best first, and the layer pairs that were run.

        None and 0 when either side has no keypoints. In its first half, where it pays to ask, the network is left as
        soon as the share `early_stop` of the keypoints is paired. Raises MatcherError when the network fails.
        """
        if not len(features0) or not len(features1):
            return no_matches(), 0
        run, config = self._network.start(features0, features1), self._config
        whole = self._network.depth
        for depth in range(1, whole + 1):
            run.advance()
            if depth == whole or (depth <= whole // 2 and config.early_stop < 1):
                assignment = optimal_transport(*run.similarity(), config.transport_iterations,
                                               config.transport_tolerance)
                if assignment.paired_share() >= config.early_stop:
                    break
        return mutual_matches(assignment.values, config.score_threshold), depth
def mutual_matches(assignment: NDArray[np.float32], threshold: float) -> Matches:
    """Pairs that are each other's best in assignment [N+1,M+1] with a probability of at least `threshold`."""
    return _mutual(assignment[:-1, :-1], threshold)


def nearest_neighbour_matches(features0: Features, features1: Features, threshold: float = 0.0) -> Matches:
    """Mutual nearest neighbours by descriptor alone; the score is the cosine, negative ones are no match."""
    if not len(features0) or not len(features1):
        return no_matches()
    return _mutual(features0.descriptors @ features1.descriptors.T, threshold)


def no_matches() -> Matches:
    """Matches with K = 0."""
    return Matches(np.zeros((0, 2), np.int32), np.zeros(0, np.float32))


def _mutual(values: NDArray[np.float32], threshold: float) -> Matches:
    best1 = values.argmax(axis=1)
    scores = values[np.arange(len(values)), best1]
    # Comparing with the column's maximum is much faster than a second argmax across the memory's order.
    index0 = np.flatnonzero((scores == values.max(axis=0)[best1]) & (scores >= threshold))
    if np.bincount(best1[index0], minlength=1).max() > 1:
        # Equal entries in a column pass that comparison together; the first row keeps the column.
        index0 = index0[np.sort(np.unique(best1[index0], return_index=True)[1])]
    order = index0[np.argsort(-scores[index0], kind="stable")]
    indices = np.stack([order, best1[order]], axis=1).astype(np.int32)
    return Matches(indices, np.clip(scores[order], 0, 1).astype(np.float32))
