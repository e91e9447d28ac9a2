"""Optimal transport with dustbins (Sarlin et al., SuperGlue, 2020, section 3.2): similarities to an assignment.

A row and a column of dustbins take what has no partner. Row i and column j of the assignment sum to 1, the dustbin row
to M and the dustbin column to N; entry [i,j] is the probability that i and j match.

Works on exponentials instead of logarithms: an iteration is two matrix-vector products, not two log-sum-exp passes, so
that 20 of them cost less than an ONNX graph of the same steps, and the transport is here and not in the bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.core import native

# Scalings beyond this are moved into the kernel. One iteration changes a scaling by at most a factor N + M, so for
# up to 8192 + 8192 keypoints both stay below e^25, and what float32 lost in the kernel (under e^-87) stays under
# e^-37 of a match.
_ABSORB_ABOVE = np.float32(np.exp(15.0))

# Of features of real images: 8 iterations are as near to the end as 20 plain ones, and 1.7 overshoots at first.
OVER_RELAXATION = 1.5

_HALF, _TWICE = np.float32(0.5), np.float32(2)

CERTAIN = 0.5  # a larger entry is the largest of its row and column, whose sums are 1


@dataclass(frozen=True)
class Assignment:
    """values [N+1,M+1] float32, the dustbins last. iterations: how many were made. pairs: what `paired` says, where it is
    known already."""

    values: NDArray[np.float32]
    iterations: int
    pairs: int | None = None

    @cached_property
    def best(self) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Of each keypoint [N] the likeliest partner, and how likely it is."""
        partners = self.values[:-1, :-1].argmax(axis=1)
        return partners, self.values[np.arange(len(partners)), partners]

    def paired(self) -> int:
        """How many keypoints have a partner more likely than not."""
        if self.pairs is not None:
            return self.pairs
        return int(np.count_nonzero(self.values[:-1, :-1] > CERTAIN))  # at most one of a row

    def hopeful(self, drop_above: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The keypoints [N] and [M] whose probability of having no partner is at most `drop_above`."""
        return self.values[:-1, -1] <= drop_above, self.values[-1, :-1] <= drop_above


def optimal_transport(similarity: NDArray[np.floating], dustbin: float, iterations: int, tolerance: float = 0.0,
                      relaxation: float = 1.0) -> Assignment:
    """Sinkhorn's algorithm: similarity [N,M] and the dustbins' similarity -> assignment.

    Ends after `iterations`, or when the share of all mass by which rows are off is at most `tolerance`; columns are
    exact. N, M >= 1 and finite values are required. relaxation: 1 is Sinkhorn's own step; a step up to twice as long
    in the logarithms ends in the same place, and near OVER_RELAXATION in half as many iterations. The kernel is
    exp(similarity - row maximum); the scalings it is multiplied by are moved into it when they grow, so similarities
    of +-60 and more neither overflow nor starve.
    """
    if native.available():
        return Assignment(*native.transport(similarity, dustbin, iterations, tolerance, relaxation, float(_ABSORB_ABOVE)))
    log_u = -np.append(np.maximum(similarity.max(axis=1), dustbin), dustbin).astype(np.float32)
    log_v = np.zeros(similarity.shape[1] + 1, np.float32)
    kernel = _kernel(similarity, dustbin, log_u, log_v)
    rows, columns = np.ones_like(log_u), np.ones_like(log_v)
    rows[-1], columns[-1] = len(log_v) - 1, len(log_u) - 1
    least = tolerance * rows.sum()
    u, v, done = np.ones_like(log_u), np.ones_like(log_v), 0
    while done < iterations:
        balanced = rows / (kernel @ v)
        excess = u / balanced  # as it is, row i sums to rows[i] * excess[i]
        if done and rows @ np.abs(excess - 1) <= least:
            break
        ahead = np.float32(relaxation - 1 if done else 0)  # the first step is long enough
        u = _stepped(balanced, excess, ahead)
        balanced = columns / (u @ kernel)
        v = _stepped(balanced, v / balanced, ahead)
        done += 1
        if max(u.max(), v.max(), 1 / u.min(), 1 / v.min()) > _ABSORB_ABOVE:
            log_u, log_v = log_u + np.log(u), log_v + np.log(v)
            kernel = _kernel(similarity, dustbin, log_u, log_v)
            u, v = np.ones_like(u), np.ones_like(v)
    if relaxation != 1:
        v = columns / (u @ kernel)
    kernel *= v
    kernel *= u[:, None]
    return Assignment(kernel, done)


def _stepped(balanced: NDArray[np.float32], excess: NDArray[np.float32], ahead: np.float32) -> NDArray[np.float32]:
    """From scalings `excess` times too large to `balanced` ones, and on by the share `ahead` of that step in
    logarithms, at most by a factor of 2."""
    if not ahead:
        return balanced
    return balanced * np.minimum(np.maximum(excess ** -ahead, _HALF), _TWICE)


def _kernel(similarity: NDArray[np.floating], dustbin: float, log_u: NDArray[np.float32],
            log_v: NDArray[np.float32]) -> NDArray[np.float32]:
    """exp of the similarity with dustbins [N+1,M+1], of which log_u is added to the rows and log_v to the columns."""
    kernel = np.empty((len(log_u), len(log_v)), np.float32)
    np.add(similarity, log_u[:-1, None], out=kernel[:-1, :-1], casting="same_kind")
    kernel[:-1, -1], kernel[-1] = log_u[:-1] + np.float32(dustbin), log_u[-1] + np.float32(dustbin)
    if log_v.any():
        kernel += log_v
    return cv2.exp(kernel, dst=kernel)  # as exact as numpy's, in half the time
