"""Training on several processes: each works on its own pairs, gradients are averaged.

On a CPU two processes of one thread are about twice as fast as one process of two threads, because
the many small operations between convolutions do not spread over threads.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn


def rank() -> int:
    """This process's number; 0 when there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes training together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def average_over_processes(model: nn.Module, loss: Tensor) -> Tensor:
    """Replace every gradient by its mean over the processes; returns the mean loss.

    The loss travels with the gradients, so that all processes see the same value and stop together
    when it is not finite.
    """
    if world_size() == 1:
        return loss.detach()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients] + [loss.detach().reshape(1)])
    dist.all_reduce(flat)
    flat /= world_size()
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()
    return flat[-1]


def launch(function: Callable[..., Any], processes: int, *arguments: Any) -> None:
    """Call function(*arguments) in `processes` processes that train together.

    Under torchrun the processes exist already and only join; with processes = 1 the call is direct.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        _with_cleanup(function, *arguments)
    elif processes == 1:
        function(*arguments)
    else:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(_enter, (processes, str(Path(folder) / "rendezvous"), function, arguments), nprocs=processes)


def _enter(index: int, processes: int, rendezvous: str, function: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=index, world_size=processes)
    _with_cleanup(function, *arguments)


def _with_cleanup(function: Callable[..., Any], *arguments: Any) -> None:
    try:
        function(*arguments)
    finally:
        dist.destroy_process_group()
