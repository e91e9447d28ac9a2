"""Where torch is not installed, as on a robot, there is nothing here to test."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*.py"]


@pytest.fixture(scope="session")
def trained() -> Callable[[Any], Any]:
    """Gives a network back with every parameter and running statistic unlike its initial value."""
    import torch

    def changed(network: Any) -> Any:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, value in network.state_dict().items():
                if value.is_floating_point():
                    noise = torch.rand(value.shape, generator=generator)
                    value.add_(noise if name.endswith("running_var") else 0.4 * (noise - 0.5))
        return network.eval()
    return changed
