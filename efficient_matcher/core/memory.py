"""How a process that does the same over and over, frames or steps of training, keeps its memory."""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_KEPT_BYTES = 32 << 20  # the most that it takes; an image and its maps are well below


def settle_memory() -> None:
    """Collect garbage, leave what is alive now out of later collections, which took 30 ms, more than a frame, and keep
    the memory that frames take and free.

    For the process of a live node once all is loaded: it concerns all of the process, so a library must not do it.
    """
    gc.collect()
    gc.freeze()
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Tell glibc not to give large arrays back to the system, which clears them page by page for the next frame, or
    step of training: 2 ms of a frame whose networks run in OpenVINO. Other C libraries are left as they are."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # TypeError: what Windows says of None
        return
    mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_TRIM_THRESHOLD, 2 * _KEPT_BYTES)
