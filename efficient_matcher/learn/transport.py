"""Optimal transport with dustbins: similarities to a soft assignment (SuperGlue, section 3.2).

The augmented assignment P [N+1,M+1] maximises sum(S P) plus its entropy, where S carries a dustbin
row and column (equation 8), under the marginals of equation 9: every keypoint has mass 1, the dustbin
of an image as much as the other image has keypoints. Both functions below do the same Sinkhorn
iterations, rows then columns, and differ only in arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor


def add_dustbins(similarity: Tensor, bin_score: Tensor) -> Tensor:
    """Similarity [B,N,M] and scalar dustbin score -> [B,N+1,M+1] (equation 8)."""
    batch, rows, columns = similarity.shape
    right = bin_score.expand(batch, rows, 1)
    bottom = bin_score.expand(batch, 1, columns + 1)
    return torch.cat([torch.cat([similarity, right], dim=2), bottom], dim=1)


def marginals(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Masses of rows [N+1] and columns [M+1] for a similarity [B,N,M] (equation 9)."""
    rows, columns = similarity.shape[1:]
    row_mass, column_mass = similarity.new_ones(rows + 1), similarity.new_ones(columns + 1)
    row_mass[-1], column_mass[-1] = columns, rows
    return row_mass, column_mass


def log_optimal_transport(similarity: Tensor, bin_score: Tensor, iterations: int) -> Tensor:
    """The published log-domain form: similarity [B,N,M] -> log assignment [B,N+1,M+1]."""
    scores = add_dustbins(similarity, bin_score)
    log_rows, log_columns = (mass.log() for mass in marginals(similarity))
    u, v = torch.zeros_like(scores[:, :, 0]), torch.zeros_like(scores[:, 0])
    for _ in range(iterations):
        u = log_rows - torch.logsumexp(scores + v[:, None, :], dim=2)
        v = log_columns - torch.logsumexp(scores + u[:, :, None], dim=1)
    return scores + u[:, :, None] + v[:, None, :]


def sinkhorn(similarity: Tensor, bin_score: Tensor, iterations: int = 20, gradient_iterations: int = 4) -> Tensor:
    """`log_optimal_transport` for training: matrix products instead of log-sum-exp, and a short backward.

    The first iteration is done in the log domain; it leaves a kernel whose entries are at most the
    masses and whose row sums cannot vanish, so the rest is safe in the exponential domain. Gradients
    go through the last `gradient_iterations` only: near the fixed point earlier ones hardly change them.

    similarity [B,N,M] -> log assignment [B,N+1,M+1]. Raises ValueError when there are fewer than 2 iterations or
    none with gradients.
    """
    if iterations < 2 or gradient_iterations < 1:
        raise ValueError("sinkhorn needs 2 iterations, 1 of them with gradients; "
                         f"got {iterations}, {gradient_iterations}")
    scores = add_dustbins(similarity, bin_score)
    masses = marginals(similarity)
    tracked = min(gradient_iterations, iterations - 1)
    with torch.no_grad():
        base = _first_iteration(scores, *masses)
        u, v = _iterate(base.exp(), *masses, iterations - 1 - tracked)
        offset = base - scores + u.log() + v.log().transpose(1, 2)
    balanced = scores + offset
    u, v = _iterate(balanced.exp(), *masses, tracked)
    return balanced + u.log() + v.log().transpose(1, 2)


def _first_iteration(scores: Tensor, row_mass: Tensor, column_mass: Tensor) -> Tensor:
    scaled = scores.log_softmax(dim=2) + row_mass.log()[:, None]
    return scaled.log_softmax(dim=1) + column_mass.log()


def _iterate(kernel: Tensor, row_mass: Tensor, column_mass: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Scalings u [B,N+1,1] and v [B,M+1,1] after `iterations` of rows, then columns."""
    u, v = torch.ones_like(kernel[:, :, :1]), torch.ones_like(kernel[:, 0, :, None])
    tiny = torch.finfo(kernel.dtype).tiny
    for _ in range(iterations):
        u = row_mass[:, None] / (kernel @ v).clamp_min(tiny)
        v = column_mass[:, None] / (kernel.transpose(1, 2) @ u).clamp_min(tiny)
    return u, v
