"""What a smaller network learns from a larger one: the larger one's answers to the same input.

Shapes: logits [B,65,h,w] and coarse descriptors [B,D,h,w] of SuperPoint; log assignments [B,N+1,M+1] of SuperGlue.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from efficient_matcher.learn.recipe import setting

CELLS_APART = 2  # between neighbours of those whose descriptors are compared with each other


@dataclass(frozen=True)
class ExtractorDistillation:
    """Weights of the parts of the extractor's distillation; all zero: none."""

    cells: float = setting(4.0, minimum=0.0)  # divergence of the 65-way distribution of a cell
    locations: float = setting(1.0, minimum=0.0)  # divergence of where in the cell, given that it holds a point
    descriptors: float = setting(8.0, minimum=0.0)  # how far the coarse descriptors are from the teacher's

    def __bool__(self) -> bool:
        return any((self.cells, self.locations, self.descriptors))


def extractor_distillation(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], weights: ExtractorDistillation
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a student's (logits, descriptors) against the teacher's, and its parts for the log."""
    logits, target = student[0], teacher[0]
    found = 1 - target.softmax(1)[:, -1]  # [B,h,w], that the cell holds a point
    share = found / found.sum().clamp(min=1e-6)
    parts = {
        "cells": _divergence(logits, target).mean(),
        "locations": (_divergence(logits[:, :-1], target[:, :-1]) * share).sum(),
        "descriptors": _descriptors(student[1], teacher[1], share),
    }
    total = torch.stack([getattr(weights, name) * part for name, part in parts.items()]).sum()
    return total, {f"distilled_{name}": part.item() for name, part in parts.items()}


def assignment_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of log assignments, each row of keypoints 0 and each column of keypoints 1 a distribution.

    Both [B,N+1,M+1], dustbins last, as `transport.sinkhorn` gives them. Rows and columns weigh the same.
    """
    rows = _divergence(student[:, :-1].transpose(1, 2), teacher[:, :-1].transpose(1, 2))
    columns = _divergence(student[:, :, :-1], teacher[:, :, :-1])
    return 0.5 * (rows.mean() + columns.mean())


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Kullback-Leibler divergence over dimension 1 of what the logits say from what the target's say."""
    return F.kl_div(logits.log_softmax(1), target.log_softmax(1), reduction="none", log_target=True).sum(1)


def _descriptors(student: Tensor, teacher: Tensor, share: Tensor) -> Tensor:
    if student.shape[1] != teacher.shape[1]:
        return _unlikeness(student, teacher)
    apart = 1 - F.cosine_similarity(student, teacher, dim=1)
    # those beside keypoints are read; the others are nearly, and soon enough will be
    return 0.5 * (apart.mean() + (apart * share).sum())


def _unlikeness(student: Tensor, teacher: Tensor) -> Tensor:
    """Of descriptors of another width, which lie in another space: how much of what the teacher says of which cells look
    alike, in all views of the batch, the student does not; 0 to about 1."""
    own, other = (_cosines(coarse[:, :, ::CELLS_APART, ::CELLS_APART]) for coarse in (student, teacher))
    return (own - other).square().sum() / (other - other.mean()).square().sum().clamp(min=1e-6)


def _cosines(coarse: Tensor) -> Tensor:
    cells = F.normalize(coarse.float().transpose(0, 1).flatten(1), dim=0)
    return cells.T @ cells
