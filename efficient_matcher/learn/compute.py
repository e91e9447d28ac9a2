"""Where a training computes and how precisely: the one place that knows devices.

Batches are made on the CPU and moved here; networks run here, in bfloat16 if asked; losses are always float32, since
pixel coordinates need more than the eight bits that bfloat16 keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from efficient_matcher.errors import MatcherError
from efficient_matcher.learn.parallel import rank

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "bf16")
T = TypeVar("T")


@dataclass(frozen=True)
class Compute:
    """A device, and whether networks run in bfloat16 (their weights stay float32)."""

    device: torch.device = torch.device("cpu")
    bf16: bool = False

    @classmethod
    def chosen(cls, device: str = "auto", precision: str = "fp32") -> Compute:
        """One of DEVICES and of PRECISIONS; `auto` takes a GPU if there is one. Several processes share the GPUs out.

        Raises MatcherError when there is no such device.
        """
        if device not in DEVICES or precision not in PRECISIONS:
            raise MatcherError(f"device must be one of {', '.join(DEVICES)} and precision one of "
                               f"{', '.join(PRECISIONS)}, got {device} and {precision}")
        count = torch.cuda.device_count()
        if device == "cuda" and not count:
            raise MatcherError("device cuda: torch sees no GPU here; --device cpu computes without")
        found = torch.device("cpu" if device == "cpu" or not count else f"cuda:{rank() % count}")
        return cls(found, precision == "bf16")

    @property
    def description(self) -> dict[str, str]:
        """What a checkpoint must agree with; the device is left out, as a run may move to another machine."""
        return {"precision": "bf16"} if self.bf16 else {}

    def moved(self, batch: T) -> T:
        """A batch (a dataclass, nested ones included) with its tensors on the device."""
        if isinstance(batch, Tensor):
            return batch.to(self.device, non_blocking=True)
        if is_dataclass(batch) and not isinstance(batch, type):
            return replace(batch, **{f.name: self.moved(getattr(batch, f.name)) for f in fields(batch)})
        return batch

    def run(self, network: Callable[..., Any], *inputs: Any) -> Any:
        """What `network(*inputs)` gives, in float32 whatever it was computed in."""
        if not self.bf16:
            return network(*inputs)
        with torch.autocast(self.device.type, torch.bfloat16):
            outputs = network(*inputs)
        return _float32(outputs)


def default_processes(device: str, cores: int) -> int:
    """Processes that use a machine well: one for each GPU, or for each of `cores`."""
    count = torch.cuda.device_count() if device != "cpu" else 0
    return count or cores


def _float32(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    return type(outputs)(_float32(part) for part in outputs)
