"""The loop: stopping and resuming change nothing, and what goes wrong is one line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from efficient_matcher.learn.training import Loop, LoopConfig, TrainingError
from torch import Tensor, nn

CONFIG = LoopConfig(steps=12, warmup_steps=3, log_every=4)


def make_loop(folder: Path, config: LoopConfig = CONFIG, name: str = "toy") -> Loop:
    torch.manual_seed(0)
    return Loop(nn.Linear(3, 1), config, folder, {"kind": name})


def step_of(loop: Loop, stop_at: int | None = None) -> object:
    def step(index: int) -> tuple[Tensor, dict[str, float]]:
        if index == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        inputs = torch.rand(8, 3)  # seeded by the loop
        loss = (loop.model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        return loss, {"index": float(index)}
    return step


def test_an_interrupted_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    whole = make_loop(tmp_path / "whole")
    expected = whole.run(step_of(whole)).weight
    first = make_loop(tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        first.run(step_of(first, stop_at=5))
    second = make_loop(tmp_path / "broken")
    assert second.resume() and 5 < second.step < 12  # the step in hand was finished
    assert torch.equal(second.run(step_of(second)).weight, expected)
    assert torch.equal(second.model.weight, whole.model.weight)


def test_the_log_has_one_line_every_few_steps(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    loop.run(step_of(loop))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert lines[0]["index"] == 3


def test_learning_rate_warms_up_and_falls(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, LoopConfig(steps=100, warmup_steps=10, learning_rate=1.0, final_share=0.1))
    rates = []
    for loop.step in (0, 9, 50, 100):
        rates.append(loop.learning_rate())
    assert rates[0] == pytest.approx(0.1, abs=0.001)
    assert rates[1] > 0.97
    assert rates[2] == pytest.approx(0.55) and rates[3] == pytest.approx(0.1)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    loop.folder.mkdir(exist_ok=True)
    loop.save()
    before = loop.checkpoint_path.read_bytes()
    with pytest.raises(TrainingError, match="not finite at step 0"):
        loop.run(lambda index: (loop.model.weight.sum() * float("nan"), {}))
    assert loop.checkpoint_path.read_bytes() == before


def test_a_checkpoint_of_another_configuration_is_refused_by_key(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    loop.save()
    with pytest.raises(TrainingError, match="loop.steps: 12 there, 13 here"):
        make_loop(tmp_path, LoopConfig(steps=13, warmup_steps=3, log_every=4)).resume()
    with pytest.raises(TrainingError, match="kind: toy there, other here"):
        make_loop(tmp_path, name="other").resume()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    loop.save()
    loop.checkpoint_path.write_bytes(loop.checkpoint_path.read_bytes()[:200])
    with pytest.raises(TrainingError, match="checkpoint.pt: not a readable checkpoint"):
        make_loop(tmp_path).resume()


def test_a_foreign_checkpoint_is_named_and_an_older_one_goes_on(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    loop.description["images"] = "of today"
    torch.save({"something": 1}, loop.checkpoint_path)
    with pytest.raises(TrainingError, match="checkpoint.pt: not a readable checkpoint"):
        loop.resume()
    make_loop(tmp_path).save()  # as when descriptions did not tell the images yet
    assert loop.resume()


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = make_loop(tmp_path)
    loop.save()
    before = loop.checkpoint_path.read_bytes()

    real = Path.write_bytes

    def full(path: Path, data: bytes) -> None:
        real(path, bytes(data[:4]))
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TrainingError, match="checkpoint.pt: cannot be written: No space left on device$"):
        loop.save()
    assert loop.checkpoint_path.read_bytes() == before and list(tmp_path.iterdir()) == [loop.checkpoint_path]


def test_the_average_has_the_statistics_of_the_last_step(tmp_path: Path) -> None:
    torch.manual_seed(0)
    loop = Loop(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)), CONFIG, tmp_path, {"kind": "toy"})
    averaged = loop.run(step_of(loop))
    assert torch.equal(averaged[0].running_var, loop.model[0].running_var)
    assert not torch.equal(averaged[1].weight, loop.model[1].weight)
