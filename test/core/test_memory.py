"""Memory of a process that does the same over and over: what is loaded is settled, what was freed is kept."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys

import pytest
from efficient_matcher.core.memory import settle_memory


def test_what_is_loaded_is_left_out_of_later_collections() -> None:
    before = gc.get_freeze_count()
    try:
        settle_memory()
        assert gc.get_freeze_count() > before + 1000
        assert len(gc.get_objects()) < 1000
    finally:
        gc.unfreeze()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_memory_of_a_frame_is_kept_for_the_next() -> None:
    script = """if True:
        import resource
        import numpy as np
        from efficient_matcher.core.memory import settle_memory
        settle_memory()
        def faults_of_a_frame():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            first, second, third = (np.ones(2_000_000, np.float32) for _ in range(3))
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        for _ in range(3):
            faults = faults_of_a_frame()
        print(faults)
    """
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 50  # of 5,900 pages
