"""Whether the processors were ours, and as fast as ever, while a frame was timed: other programs take them, and so does
the host of a virtual machine, which may also run them slower without telling."""

from __future__ import annotations

from time import perf_counter

import numpy as np

STEAL = 8  # column of the line `cpu` in /proc/stat: ticks in which the host ran something else

_NUMBERS, _PASSES = 2048, 64  # of the fixed work: a tenth of a millisecond, in the nearest cache


class Yardstick:
    """The same little work every time: only the machine can make it take longer.

    On the calling thread alone, and small: work on all threads, or enough to fill a cache, made the frame after it
    a tenth slower.
    """

    def __init__(self) -> None:
        self._numbers = np.arange(_NUMBERS)

    def ms(self) -> float:
        """What it took."""
        start = perf_counter()
        for _ in range(_PASSES):
            self._numbers.sum()
        return 1e3 * (perf_counter() - start)


def taken() -> tuple[int, int]:
    """Counters that only grow: how often threads of this process lost their core, and ticks the host took from all.

    What the system does not tell stays zero. A thread also loses its core to another one of its own process.
    """
    return _switches(), _stolen()


def _switches() -> int:
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _stolen() -> int:
    try:
        with open("/proc/stat", encoding="ascii") as stat:
            return int(stat.readline().split()[STEAL])
    except (OSError, ValueError, IndexError):  # not on Linux
        return 0
