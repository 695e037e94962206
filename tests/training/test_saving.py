"""Checkpoints in the background, by the clock, and when the process is told to end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tiny, curve, equal, train, weights

from d2v.training import checkpoint, signals
from d2v.training.saving import Saver
from d2v.training.signals import Signals
from d2v.util.errors import UserError

TINY = Path(__file__).parents[1] / "helpers" / "tiny.py"


def test_the_loop_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, trained, written = checkpoint.save, threading.Event(), []

    class Counting(Tiny):
        def after_step(self, step: int) -> dict[str, float]:
            if step == 15:
                trained.set()
            return super().after_step(step)

    def slow(root: Path, step: int, model: Any, training: Any, meta: Any) -> Path:
        if step == 10:
            assert trained.wait(20), "the loop waited for the write"
        written.append(step)
        return save(root, step, model, training, meta)

    monkeypatch.setattr(checkpoint, "save", slow)
    train(tmp_path / "a", Counting())
    monkeypatch.undo()
    assert written == [10, 20, 24]
    train(tmp_path / "b")
    for name in ("step-20", "step-24"):  # step 10's tensors did not change under the write either
        a, b = (checkpoint.load(tmp_path / work / "checkpoints" / name) for work in ("a", "b"))
        assert equal(a.model, b.model)
        assert equal(a.training, b.training)


def test_what_is_written_is_the_state_of_the_save(tmp_path: Path) -> None:
    saver = Saver(tmp_path, 2, print)
    model = {"x": torch.zeros(1000), "y": torch.arange(6).view(2, 3).t()}
    begin = threading.Event()
    saver.pool.submit(begin.wait, 20)  # the write cannot have begun
    saver.save(1, model, {}, {"kind": "training"}, needed=False)
    model["x"].fill_(1)
    begin.set()
    saver.wait()
    saver.save(2, model, {}, {"kind": "training"}, needed=False)
    saver.close()
    found = [checkpoint.load(tmp_path / f"step-{n}").model for n in (1, 2)]
    assert [t["x"].sum().item() for t in found] == [0, 1000]
    assert all(torch.equal(t["y"], model["y"]) for t in found)


def test_a_write_that_failed_is_told_when_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    said: list[str] = []
    saver = Saver(tmp_path, 2, said.append)
    saver.save(5, {}, {}, {}, needed=False)
    saver.wait()
    assert said == [
        "the checkpoint of step 5 was not saved (No space left on device);"
        " the previous one is kept, and training continues"
    ]
    saver.save(6, {}, {}, {}, needed=True)
    with pytest.raises(UserError, match=r"checkpoint of step 6 was not saved .*free disk space"):
        saver.wait()
    saver.close()


def test_the_clock_asks_for_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    save = checkpoint.save

    def noted(root: Path, step: int, *parts: Any) -> Path:
        saved.append(step)
        return save(root, step, *parts)

    monkeypatch.setattr(checkpoint, "save", noted)
    options: Any = {"checkpoint_every": 1000, "log_every": 4}
    train(tmp_path / "a", **options)
    assert saved == [24]
    saved.clear()
    train(tmp_path / "b", Tiny(pause=0.01), checkpoint_minutes=0.1 / 60, **options)
    assert len(saved) >= 2
    assert all(step % 4 == 0 for step in saved)
    assert curve(tmp_path / "a") == curve(tmp_path / "b")


class Told(Tiny):
    """A signal comes in the middle of a step."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(dropout=0.2, skip=0.3)
        self.number, self.at = number, step

    def after_step(self, step: int) -> dict[str, float]:
        if step == self.at:
            os.kill(os.getpid(), self.number)
        return super().after_step(step)


class Requeued(BaseException):
    """What a scheduler's handler raises."""


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_is_obeyed_after_the_step_and_no_step_is_lost(
    tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "whole", Tiny(dropout=0.2, skip=0.3))

    def handler(*_: Any) -> None:
        raise Requeued

    before = signal.signal(number, handler)
    try:
        with pytest.raises(Requeued):
            train(tmp_path / "parts", Told(number, 13))
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    assert "stopping: checkpoint saved after step 13" in capsys.readouterr().out
    assert (tmp_path / "parts" / "checkpoints" / "step-13").exists()
    train(tmp_path / "parts", Tiny(dropout=0.2, skip=0.3))
    assert "resuming after step 13 of 24" in capsys.readouterr().out
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_a_run_that_is_let_live_goes_on(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        train(tmp_path / "a", Told(signal.SIGUSR1, 13))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1]
    train(tmp_path / "b", Tiny(dropout=0.2, skip=0.3))
    assert curve(tmp_path / "a") == curve(tmp_path / "b")


@pytest.mark.slow
def test_the_default_of_a_signal_ends_the_process_after_the_step(tmp_path: Path) -> None:
    settings = json.dumps({"steps": 4000, "checkpoint_every": 4000})
    command = [sys.executable, str(TINY), "--train", settings, "--pause", "0.01", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "step 10/" in line:
            break
    process.terminate()
    said = process.stdout.read()
    assert process.wait() == -signal.SIGTERM
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None
    assert f"stopping: checkpoint saved after step {newest.name.removeprefix('step-')}" in said


def test_a_signal_that_cannot_be_obeyed_in_time_is_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
    try:
        monkeypatch.setattr(signals, "GRACE_S", 0.05)
        with Signals() as listening:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert listening.asked == signal.SIGUSR2
            assert not heard
            deadline = time.monotonic() + 20
            while not heard and time.monotonic() < deadline:
                time.sleep(0.01)
            assert heard == [signal.SIGUSR2]
            assert listening.asked is None
        monkeypatch.setattr(signals, "GRACE_S", 60.0)
        with Signals():
            os.kill(os.getpid(), signal.SIGUSR2)
            os.kill(os.getpid(), signal.SIGUSR2)  # in a hurry
            assert len(heard) == 2
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_another_thread_only_trains(tmp_path: Path) -> None:
    thread = threading.Thread(target=train, args=(tmp_path,))
    thread.start()
    thread.join()
    assert checkpoint.latest(tmp_path / "checkpoints") is not None
