"""Several processes learn as one, and one process's failure is one line."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from efficient_matcher.errors import MatcherError
from efficient_matcher.learn import parallel

WORK = """
from pathlib import Path
import os
import resource
import time
import numpy as np
import torch
from torch import nn
from efficient_matcher.errors import MatcherError
from efficient_matcher.learn import parallel

def average(folder):
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.full((1, 2), float(parallel.rank() + 1))
    loss, stop = parallel.average_over_processes(model, torch.tensor(4.0 * parallel.rank()), parallel.rank() == 1)
    Path(folder, str(parallel.rank())).write_text(f"{model.weight.grad.tolist()} {loss.item()} {stop}")

def step(folder):
    def faults_of_a_step():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        first, second, third = (np.ones(2_000_000, np.float32) for _ in range(3))
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    faults = [faults_of_a_step() for _ in range(4)]
    Path(folder, str(parallel.rank())).write_text(str(faults[-1]))

def fail(folder):
    if parallel.rank() == 1:
        raise MatcherError(f"{folder}: no room")
    parallel.wait_for_all()

def linger(folder):
    parallel.wait_for_all()
    Path(folder, f"pid-{parallel.rank()}").write_text(str(os.getpid()))
    time.sleep(120)

def stop(folder):
    parallel.wait_for_all()  # one that leaves while the other still connects is a failure, not a stop
    raise KeyboardInterrupt
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Functions that the processes can import by name."""
    (tmp_path / "parallel_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "parallel_work", raising=False)
    return importlib.import_module("parallel_work")


def test_gradients_loss_and_the_wish_to_stop_are_shared(work: ModuleType, tmp_path: Path) -> None:
    parallel.launch(work.average, 2, str(tmp_path))
    assert [(tmp_path / name).read_text() for name in "01"] == ["[[1.5, 1.5]] 2.0 True"] * 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_memory_of_a_step_is_kept_for_the_next(work: ModuleType, tmp_path: Path) -> None:
    parallel.launch(work.step, 2, str(tmp_path))
    assert max(int((tmp_path / name).read_text()) for name in "01") < 50  # of 5,900 pages


def test_one_process_alone_needs_no_others(work: ModuleType, tmp_path: Path) -> None:
    parallel.launch(work.average, 1, str(tmp_path))
    assert (tmp_path / "0").read_text() == "[[1.0, 1.0]] 0.0 False"


def test_a_failure_in_one_process_ends_all_with_its_message_alone(
        work: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(MatcherError, match="no room"):
        parallel.launch(work.fail, 2, str(tmp_path))
    assert "SIGTERM" not in caplog.text  # torch's word on the process that had not failed


def test_a_process_whose_parent_is_gone_does_not_begin(tmp_path: Path) -> None:
    done: list[int] = []
    with pytest.raises(SystemExit):
        parallel._enter(0, 1, str(tmp_path), lambda: done.append(1), (), os.getppid() + 1)
    assert not done and not list(tmp_path.iterdir())


def test_processes_end_with_their_parent_even_where_it_ignores_interrupts(work: ModuleType, tmp_path: Path) -> None:
    """A shell without a terminal starts what it puts into the background so."""
    code = f"import parallel_work; from efficient_matcher.learn import parallel\n" \
           f"if __name__ == '__main__': parallel.launch(parallel_work.linger, 2, {str(tmp_path)!r})"
    (tmp_path / "begin.py").write_text(code)
    ignoring = subprocess.Popen(["sh", "-c", f"trap '' INT; exec {sys.executable} begin.py"], cwd=tmp_path)
    try:
        assert comes_true(lambda: [bool(path.read_text()) for path in tmp_path.glob("pid-*")] == [True, True], ignoring)
    finally:
        ignoring.kill()
        ignoring.wait()
    pids = [int((tmp_path / f"pid-{rank}").read_text()) for rank in range(2)]
    assert comes_true(lambda: not any(is_running(pid) for pid in pids))


def comes_true(condition: Callable[[], bool], process: subprocess.Popen | None = None) -> bool:
    """Whether it holds within a minute, and before the process ends."""
    for _ in range(600):
        if condition():
            return True
        if process is not None and process.poll() is not None:
            return False
        time.sleep(0.1)
    return False


def is_running(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_processes_that_were_stopped_interrupt_the_one_that_waits(work: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        parallel.launch(work.stop, 2, str(tmp_path))


TORCHRUN = """
import os, signal, sys
from pathlib import Path
import torch
from torch import nn
from efficient_matcher.learn import parallel
from efficient_matcher.learn.training import Loop, LoopConfig

def train(folder, stop_at=None):
    torch.manual_seed(0)
    loop = Loop(nn.Linear(3, 1), LoopConfig(steps=6, warmup_steps=1), Path(folder), {"kind": "toy"})
    loop.resume()
    def step(index):
        if index == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        inputs = torch.rand(8, 3)
        return (loop.model(inputs) - inputs.sum(1, keepdim=True)).square().mean(), {"index": float(index)}
    return loop.run(step).weight

def work(folder):
    whole = train(folder + "/whole")
    try:
        train(folder + "/broken", stop_at=5)  # the second process, in the third step
    except KeyboardInterrupt:
        Path(folder, f"stopped-{parallel.rank()}").touch()
    parallel.wait_for_all()
    same = torch.equal(train(folder + "/broken"), whole)
    Path(folder, f"same-{parallel.rank()}").write_text(f"{same} {parallel.world_size()}")

if parallel.launch(work, 7, sys.argv[1]):
    Path(sys.argv[1], "report").write_text(os.environ["RANK"])
"""


def test_two_processes_of_torchrun_resume_exactly(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TORCHRUN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               str(tmp_path / "toy.py"), str(tmp_path)]
    root = str(Path(parallel.__file__).parents[2])
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False,
                          env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"same-{rank}").read_text() for rank in (0, 1)] == ["True 2", "True 2"]
    assert (tmp_path / "stopped-0").exists() and (tmp_path / "stopped-1").exists()
    assert (tmp_path / "report").read_text() == "0"
