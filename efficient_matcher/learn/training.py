"""The training loop both networks share: schedule, averaging, checkpoints, resume, progress.

A run is a folder: `checkpoint.pt` (everything needed to go on), `log.jsonl` (one line every few
steps) and TensorBoard's events. A step's data and noise depend on (seed, step) alone, so resuming changes nothing.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from efficient_matcher.errors import MatcherError
from efficient_matcher.files import write_bytes_atomic
from efficient_matcher.learn.log import TrainingLog
from efficient_matcher.learn.parallel import average_over_processes, rank, world_size
from efficient_matcher.learn.recipe import setting
from efficient_matcher.stopping import StopSignals

# From the number of the batch (steps times processes) to its loss and the parts worth logging.
StepFunction = Callable[[int], tuple[Tensor, dict[str, float]]]


class Constraint:
    """What holds for the weights whatever the optimizer does, such as zeros that stay zero; here nothing."""

    def begin(self) -> None:
        """Take the weights as they are, which a resumed run has read by now."""

    def before(self, step: int) -> None:
        """Called before each step."""

    def on_gradients(self) -> None:
        """Called when a step's gradients are known, the same in all processes."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold of it, besides the weights."""
        return {}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""

    def after(self) -> None:
        """Called after each of the optimizer's steps, before the weights are averaged or saved."""


class TrainingError(MatcherError):
    """A run that cannot start or go on: other configuration, NaN loss, unwritable folder."""


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to learn."""

    steps: int = setting(3800, minimum=1)
    learning_rate: float = setting(3e-3, minimum=0.0)
    final_share: float = setting(0.02, minimum=0.0, maximum=1.0)  # of the learning rate, at the end of the cosine
    warmup_steps: int = setting(100, minimum=0)
    weight_decay: float = setting(1e-4, minimum=0.0)
    clip_norm: float = setting(1.0, minimum=1e-6)
    average_decay: float = setting(0.998, minimum=0.0, below=1.0)  # of the averaged weights, which are the result
    seed: int = setting(0, minimum=0)
    checkpoint_minutes: float = setting(4.0, minimum=0.0)
    log_every: int = setting(20, minimum=1)


PARTS = ("model", "average", "optimizer", "step", "seconds", "description")  # of a checkpoint
# What the descriptions of older checkpoints lack, and what they stand for without it; None: anything.
TOLD_SINCE = {"images": None, "views_of": None, "scenes_share": 0.0, "scenes": None}


class Loop:
    """Runs a step function from where the folder's checkpoint left off."""

    def __init__(self, model: nn.Module, config: LoopConfig, folder: Path, description: dict[str, Any],
                 constraint: Constraint = Constraint()) -> None:
        """description: the settings that must agree for a checkpoint to be resumed."""
        self._constraint = constraint
        self.model, self.config, self.folder = model, config, Path(folder)
        # Buffers are copied, not averaged: of a first running variance of 1 a hundredth is left after 2,000 steps,
        # which is more than the variance of an image between 0 and 1.
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.average_decay))
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate,
                                           weight_decay=config.weight_decay)
        self.description = json.loads(json.dumps({**description, "loop": asdict(config), "processes": world_size()}))
        self._log_file = TrainingLog(self.folder)
        self.step = 0
        self.seconds = 0.0  # spent training, over all resumes

    @property
    def checkpoint_path(self) -> Path:
        """The file a resumed run reads."""
        return self.folder / "checkpoint.pt"

    def resume(self) -> bool:
        """Continue from the folder's checkpoint, if there is one.

        Raises TrainingError when it belongs to another configuration or cannot be read.
        """
        if not self.checkpoint_path.exists():
            return False
        try:
            state = torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)
            told = {key: state[key] for key in PARTS}["description"]
        except Exception as error:  # torch raises many kinds for a damaged file, and a foreign one lacks the parts
            raise TrainingError(f"{self.checkpoint_path}: not a readable checkpoint ({type(error).__name__})") from None
        ours = {key: value for key, value in self.description.items()
                if key in told or key not in TOLD_SINCE or TOLD_SINCE[key] not in (None, value)}
        if told != ours:
            raise TrainingError(f"{self.checkpoint_path}: belongs to another configuration "
                                f"({difference(told, ours)}); choose another folder")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._constraint.resume(state.get("constraint", {}))
        self.step, self.seconds = state["step"], state["seconds"]
        return True

    def run(self, step_function: StepFunction) -> nn.Module:
        """Train to the last step and return the averaged model.

        A checkpoint is written every few minutes, and when Ctrl-C or a kill asks to stop, which raises
        KeyboardInterrupt. Raises TrainingError on a NaN loss, leaving the last checkpoint as it was.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._constraint.begin()
        saved = time.monotonic()
        with self._logging(), _progress() as progress, StopSignals() as stop:
            task = progress.add_task("training", total=self.config.steps, completed=self.step, figures="")
            while self.step < self.config.steps:
                figures, stopping = self._one_step(step_function, stop.requested)
                progress.update(task, completed=self.step, figures=figures)
                if stopping or time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()
                if stopping:
                    raise KeyboardInterrupt
        self.save()
        return self.average.module

    def save(self) -> None:
        """Write the checkpoint; the file is replaced only once the new one is whole."""
        if rank() != 0:
            return
        state = {"model": self.model.state_dict(), "average": self.average.state_dict(),
                 "optimizer": self.optimizer.state_dict(), "step": self.step, "seconds": self.seconds,
                 "description": self.description, "constraint": self._constraint.state()}
        content = io.BytesIO()  # of a full disk torch says nothing that can be understood
        torch.save(state, content)
        try:
            write_bytes_atomic(self.checkpoint_path, content.getbuffer())
        except MatcherError as error:
            raise TrainingError(str(error)) from None

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine down to `final_share`."""
        config = self.config
        warm = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / config.steps))
        return config.learning_rate * warm * (config.final_share + (1 - config.final_share) * cosine)

    def _one_step(self, step_function: StepFunction, stop: bool) -> tuple[str, bool]:
        started = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        torch.manual_seed((self.config.seed * 1_000_003 + self.step) * world_size() + rank())
        self._constraint.before(self.step)
        loss, parts = step_function(self.step * world_size() + rank())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        loss, stopping = average_over_processes(self.model, loss, stop)
        if not torch.isfinite(loss):
            raise TrainingError(f"{self.folder}: the loss is not finite at step {self.step}; "
                                "lower the learning rate and resume from the checkpoint")
        self._constraint.on_gradients()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self._constraint.after()
        self.average.update_parameters(self.model)
        self.step += 1
        self.seconds += time.monotonic() - started
        return self._log({"loss": loss.item(), **parts}), stopping

    @contextmanager
    def _logging(self) -> Iterator[None]:
        if rank() == 0:
            self._log_file.begin(self.step)
        try:
            yield
        finally:
            self._log_file.close()

    def _log(self, parts: dict[str, float]) -> str:
        if rank() == 0 and (self.step % self.config.log_every == 0 or self.step == self.config.steps):
            rate = self.optimizer.param_groups[0]["lr"]
            self._log_file.write(self.step, self.seconds, {**parts, "learning_rate": rate})
        return " ".join(f"{k} {v:.3f}" for k, v in parts.items())


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                    TimeRemainingColumn(), TextColumn("{task.fields[figures]}"), console=Console(stderr=True),
                    disable=rank() != 0)


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str:
    """The first setting that is not the same in both, with its two values."""
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and a != b:
            return difference(a, b, f"{prefix}{key}.")
        if a != b:
            return f"{prefix}{key}: {a} there, {b} here"
    return "same settings"
