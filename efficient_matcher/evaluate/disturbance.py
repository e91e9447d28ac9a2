"""Whether the processors were ours, and as fast as ever, while a frame was timed: other programs take them, and so does
the host of a virtual machine, which may also run them slower without telling."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np

STEAL = 8  # column of the line `cpu` in /proc/stat: ticks in which the host ran something else

_NUMBERS, _PASSES = 16384, 8  # of the fixed work: 0.2 ms a thread, in the nearest cache


class Yardstick:
    """The same little work every time, on each of the threads: only the machine can make it take longer."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._arrays = [(np.linspace(1, 2, _NUMBERS), np.empty(_NUMBERS)) for _ in range(threads)]

    def ms(self) -> float:
        """What the slowest thread took for it, its waking up not counted."""
        return 1e3 * max(self._pool.map(_fixed_work, self._arrays))


def _fixed_work(arrays: tuple[np.ndarray, np.ndarray]) -> float:
    values, roots = arrays
    start = perf_counter()
    for _ in range(_PASSES):
        np.sqrt(values, out=roots)
    return perf_counter() - start


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
