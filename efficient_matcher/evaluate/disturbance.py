"""Whether somebody else had the processors while a frame was timed: other programs, or the host of a virtual machine."""

from __future__ import annotations

STEAL = 8  # column of the line `cpu` in /proc/stat: ticks in which the host ran something else


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
