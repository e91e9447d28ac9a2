"""A SuperPoint with more channels that begins as the function the narrower one computes.

Chen, Goodfellow, Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer", 2016, with one difference: new units
are not copies of old ones, whose symmetry noise would have to break, but new ones that nothing old reads yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from efficient_matcher.learn.channels import PruneError, sizes
from efficient_matcher.learn.superpoint import ENCODER, SuperPoint, SuperPointConfig

# Of their random values, what outputs that were there begin with from new inputs: too little to change an answer, but not
# zero, since zeros are what finetuning holds (`keep_zeros`), and then no new channel would ever be read.
UNREAD = 1e-6


def check_wider(network: SuperPoint, targets: Mapping[str, int]) -> None:
    """Raise PruneError naming the first part that is unknown or would have fewer channels than there are."""
    known = sizes(network)
    for name, size in targets.items():
        if name not in known:
            raise PruneError(f"wider: unknown layer '{name}' (known: {', '.join(known)})")
        if size < known[name]:
            raise PruneError(f"wider: {name}: {size} is less than the {known[name]} there are; `sizes` makes narrower")


@torch.no_grad()
def widened(network: SuperPoint, targets: Mapping[str, int], seed: int = 0) -> SuperPoint:
    """A copy with the named sizes (names as in channels.py) that answers as `network` does, to be trained.

    Raises PruneError as `check_wider` does.
    """
    check_wider(network, targets)
    torch.manual_seed(seed)
    wide = SuperPoint(_wider_config(network.config, targets))
    values = wide.state_dict()
    wide.load_state_dict({name: _grown(old, values[name]) for name, old in network.state_dict().items()})
    return wide.train(network.training)


def _wider_config(config: SuperPointConfig, targets: Mapping[str, int]) -> SuperPointConfig:
    widths = tuple(targets.get(name, width) for name, width in zip(ENCODER, config.widths))
    return replace(config, widths=widths, detector_width=targets.get("Pa", config.detector_width),
                   descriptor_width=targets.get("Da", config.descriptor_width),
                   location_width=targets.get("location", config.location_width))


def _grown(old: Tensor, new: Tensor) -> Tensor:
    """`new` (random) with `old` in its corner; outputs that were there take next to nothing from new inputs."""
    if old.shape == new.shape:
        return old
    outputs = len(old)
    if old.ndim == 4:
        new[:outputs, old.shape[1]:] *= UNREAD
        new[:outputs, :old.shape[1]] = old
    else:
        new[:outputs] = old
    return new
