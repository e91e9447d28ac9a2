"""Training on several processes: each works on its own pairs, gradients are averaged.

On a CPU two processes of one thread are about twice as fast as one process of two threads, because
the many small operations between convolutions do not spread over threads.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from efficient_matcher.core.memory import keep_freed_memory
from efficient_matcher.errors import MatcherError

Result = TypeVar("Result")
# One process may label images for long while the others wait.
PATIENCE = timedelta(hours=6)


def rank() -> int:
    """This process's number; 0 when there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes training together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def average_over_processes(model: nn.Module, loss: Tensor, stop: bool) -> tuple[Tensor, bool]:
    """Replace every gradient by its mean over the processes; returns the mean loss, and whether any wants to stop.

    Both travel with the gradients, so that all processes see the same values and stop after the same step.
    """
    if world_size() == 1:
        return loss.detach(), stop
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients] + [loss.detach().reshape(1), loss.new_tensor([float(stop)])])
    flat = _summed(flat) / world_size()
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()
    return flat[-2], bool(flat[-1] > 0)


def _summed(flat: Tensor) -> Tensor:
    """Summed over the processes, by way of the CPU: they are joined by gloo, whatever they compute on."""
    summed = flat.cpu()
    dist.all_reduce(summed)
    return summed.to(flat.device)


def wait_for_all() -> None:
    """Return once every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def once_first(make: Callable[[], Result]) -> Result:
    """Call `make` in process 0 alone, then in the others, which find its results on disk."""
    if rank() != 0:
        wait_for_all()
    result = make()
    if rank() == 0:
        wait_for_all()
    return result


def started_together() -> int:
    """How many processes torchrun has started this one among; 0 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def launch(function: Callable[..., Any], processes: int, *arguments: Any) -> bool:
    """Call function(*arguments) in `processes` processes that train together; False where another one reports.

    Under torchrun the processes exist already and only join, and all but the first leave the report to that one;
    with processes = 1 the call is direct.
    """
    if started_together():
        dist.init_process_group("gloo", timeout=PATIENCE)
        try:
            function(*arguments)
            wait_for_all()  # what the first one has written is there for all
            return rank() == 0
        finally:
            dist.destroy_process_group()
    elif processes == 1:
        function(*arguments)
    else:
        with tempfile.TemporaryDirectory() as folder:
            _spawn(Path(folder), function, processes, arguments)
    return True


def _spawn(folder: Path, function: Callable[..., Any], processes: int, arguments: tuple) -> None:
    # that the others are ended once one has failed; the failure itself is told by the line that is raised
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    context = mp.spawn(_enter, (processes, str(folder), function, arguments, os.getpid()), nprocs=processes, join=False)
    try:
        while not context.join():
            pass
    except KeyboardInterrupt:
        for process in context.processes:  # they were interrupted too and are writing their checkpoint
            process.join(timeout=60)
        raise
    except (mp.ProcessExitedException, mp.ProcessRaisedException):
        messages = [path.read_text() for path in sorted(folder.glob("error-*"))]
        if not messages:
            raise
        raise MatcherError(messages[0]) from None
    if any(folder.glob("stopped-*")):  # a kill of one process alone: all of them wrote their checkpoint and left
        raise KeyboardInterrupt


def _enter(index: int, processes: int, folder: str, function: Callable[..., Any], arguments: tuple,
           parent: int) -> None:
    if os.getppid() != parent:  # killed while this process began, before it could ask to be told; nobody would stop it
        sys.exit(1)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as after `nohup ... &`: but it is what tells of that end
        signal.signal(signal.SIGINT, signal.default_int_handler)
    keep_freed_memory()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=index, world_size=processes,
                            timeout=PATIENCE)
    try:
        function(*arguments)
    except MatcherError as error:  # written before the others notice that this process is gone
        Path(folder, f"error-{index}").write_text(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        Path(folder, f"stopped-{index}").touch()
    finally:
        dist.destroy_process_group()
