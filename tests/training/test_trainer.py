"""The loop: gradient, resume, kill, best weights, and what ends a run."""

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CLOCK, OPTIMISER, SCHEDULE, TRAIN, Points, Tiny, curve, equal, train, weights

from d2v.data.sampler import GlobalBatches
from d2v.experiment import finetuning
from d2v.training import checkpoint, compiling, log, optim
from d2v.training.identity import identity
from d2v.util.errors import Collapse, OutOfMemory, UserError

TINY = Path(__file__).parents[1] / "helpers" / "tiny.py"


def test_the_loop_equals_one_written_by_hand(tmp_path: Path) -> None:
    task = Tiny()
    summary = train(tmp_path, task, steps=6, log_every=4)

    other, points = Tiny(), Points()
    optimiser = torch.optim.AdamW(
        other.parameters(), lr=1, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01
    )
    rate = optim.schedule(SCHEDULE, OPTIMISER.lr, 6)
    stream = iter(GlobalBatches(len(points), TRAIN.batch, TRAIN.batch, seed=1))
    losses, norms = [], []
    for step in range(6):
        out = other(points.collate([points[key] for key in next(stream)]))
        optimiser.zero_grad()
        (out["loss"] / out["count"]).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)))
        optimiser.param_groups[0]["lr"] = rate(step)
        optimiser.step()
        other.after_step(step + 1)
        losses.append((out["loss"] / out["count"]).item())

    lines = log.read(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-6)
    assert [line["grad_norm"] for line in lines] == pytest.approx(norms, rel=1e-6)
    assert [line["lr"] for line in lines] == [rate(step) for step in range(6)]
    assert all({"output_std", "ema_decay", "examples_per_s"} <= set(line) for line in lines)
    for p, q in zip(task.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(task.average, other.average)
    assert summary.logs["loss"] == pytest.approx(sum(losses[-4:]) / 4, rel=1e-6)


def test_portions_do_not_change_the_result(tmp_path: Path) -> None:
    for name, micro_batch in (("a", 8), ("b", 2)):
        train(tmp_path / name, micro_batch=micro_batch)
    a, b = curve(tmp_path / "a"), curve(tmp_path / "b")
    assert [x["loss"] for x in a] == pytest.approx([x["loss"] for x in b], rel=1e-5)


def test_a_warning_of_slow_attention_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiling, "slow_attention", lambda *_: ["slow, in a word"])
    train(tmp_path / "a", steps=1)
    assert capsys.readouterr().out.count("slow, in a word") == 1


def test_the_arithmetic_of_the_batch_is_printed_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "a", steps=1, micro_batch=2)
    assert "batch 8 = 2 (micro) x 4 (accumulation) x 1 (processes)" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"(no|not a) multiple"):
        train(tmp_path / "b", micro_batch=3)
    assert not (tmp_path / "b").exists()


SIZED = {"size": 12, "micro_batches": 4}


def test_batches_by_length_are_trained_on_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "whole", Mortal(), sized=SIZED)
    said = capsys.readouterr().out.splitlines()
    # 20 examples of 1 to 7 in 8 micro-batches of at most 12, four a step
    assert "  batch of 10.0 examples on average = at most 12 samples or tokens" in said[0]
    assert "x 4 (accumulation) x 1 (processes)" in said[0]
    assert "examples/s  ETA 0:00:0" in said[1]
    with pytest.raises(Killed):
        train(tmp_path / "parts", Mortal(13), sized=SIZED)
    train(tmp_path / "parts", Mortal(), sized=SIZED, workers=2)
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_the_rate_counts_the_examples_that_there_were() -> None:
    meter = log.Meter()
    meter.since -= 10.0
    for step, examples in enumerate((3, 5, 12), start=1):
        meter.add(step, {"loss": torch.tensor(4.0)}, {}, examples)
    lines = meter.read()
    assert [line["examples_per_s"] for line in lines] == pytest.approx([2.0] * 3, abs=0.02)
    assert [line["steps_per_s"] for line in lines] == pytest.approx([0.3] * 3, abs=0.003)
    meter.restart()
    assert meter.examples == 0


def test_plain_lines_say_step_loss_rate_and_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, steps=10)
    line = capsys.readouterr().out.splitlines()[1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  step 5/10  loss \S+, .*", line)
    assert "examples/s  ETA 0:00:0" in line


class Killed(BaseException):
    """Stands for a process that ends in the middle of a step."""


class Mortal(Tiny):
    """Ends after a number of steps of this process."""

    def __init__(self, lives: int | None = None) -> None:
        super().__init__(dropout=0.2, skip=0.3)
        self.lives = lives

    def after_step(self, step: int) -> dict[str, float]:
        if self.lives is not None:
            self.lives -= 1
            if self.lives < 0:
                raise Killed
        return super().after_step(step)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_the_same_run(tmp_path: Path, workers: int) -> None:
    whole = train(tmp_path / "whole", Mortal())
    for lives in (3, 13, 11):  # before any checkpoint, after step 10, after step 20
        with pytest.raises(Killed):
            train(tmp_path / "parts", Mortal(lives), workers=workers)
    with (tmp_path / "parts" / "log.jsonl").open("a") as file:
        file.write('{"step": 22, "lo')
    parts = train(tmp_path / "parts", Mortal(), workers=workers)
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    means = [{k: v for k, v in s.logs.items() if k not in CLOCK} for s in (whole, parts)]
    assert means[0] == means[1]


def test_a_damaged_checkpoint_costs_an_interval_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "whole", Mortal())
    with pytest.raises(Killed):
        train(tmp_path / "hurt", Mortal(23))
    newest = tmp_path / "hurt" / "checkpoints" / "step-20" / checkpoint.MODEL
    newest.write_bytes(newest.read_bytes()[:-1])
    train(tmp_path / "hurt", Mortal())
    said = capsys.readouterr().out
    assert "does not match its SHA-256" in said
    assert "resuming after step 10 of 24" in said
    assert curve(tmp_path / "whole") == curve(tmp_path / "hurt")
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "hurt"))


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "a")
    save = checkpoint.save

    def full(root: Path, step: int, *parts: Any) -> Path:
        if step == 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(root, step, *parts)

    monkeypatch.setattr(checkpoint, "save", full)
    train(tmp_path / "b")
    said = capsys.readouterr()
    told = "checkpoint of step 10 was not saved (No space left on device); the previous one is kept"
    assert told in said.out + said.err
    assert curve(tmp_path / "a") == curve(tmp_path / "b")
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_a_disk_that_is_full_in_the_end_is_an_error_and_the_run_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save

    def full(root: Path, step: int, *parts: Any) -> Path:
        if step == 24:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(root, step, *parts)

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(UserError, match=r"of step 24 was not saved \(No space .*free disk"):
        train(tmp_path / "b")
    monkeypatch.undo()
    train(tmp_path / "b")
    train(tmp_path / "a")
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


@pytest.mark.slow
def test_killed_processes_give_the_same_curve(tmp_path: Path) -> None:
    settings = json.dumps({"steps": 120, "checkpoint_every": 10})
    command = [sys.executable, str(TINY), "--train", settings, "--dropout", "0.2", "--skip", "0.3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    train(tmp_path / "whole", Tiny(dropout=0.2, skip=0.3), steps=120, checkpoint_every=10)

    work = tmp_path / "killed"
    for wanted in (10, 70):  # kill as soon as the checkpoint appears, that is in a later step
        process = subprocess.Popen([*command, "--pause", "0.005", str(work)], env=environment)
        deadline = time.monotonic() + 60
        while not (work / "checkpoints" / f"step-{wanted}").exists():
            assert process.poll() is None, "finished before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.003)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    train(work, Tiny(dropout=0.2, skip=0.3), steps=120, checkpoint_every=10)

    assert [line["step"] for line in curve(work)] == list(range(1, 121))
    assert curve(work) == curve(tmp_path / "whole")
    assert equal(weights(work), weights(tmp_path / "whole"))


def test_a_finished_run_returns_at_once_with_the_same_summary(tmp_path: Path) -> None:
    first = train(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    task = Tiny()
    assert train(tmp_path, task, dataset=None) == first  # no example is asked for
    assert sorted(tmp_path.rglob("*")) == before
    assert equal(task.state_dict(), weights(tmp_path))
    assert first.checkpoint == tmp_path / "checkpoints" / "step-24"


def test_other_parameters_start_afresh_and_nothing_is_deleted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, steps=10)
    (tmp_path / "checkpoints/best").mkdir()
    (tmp_path / "checkpoints/best/notes").write_text("mine")
    train(tmp_path, steps=10, optimiser=OPTIMISER.model_copy(update={"lr": 0.02}))
    assert (tmp_path / "checkpoints/best/notes").read_text() == "mine"
    assert "starting afresh" in capsys.readouterr().out
    assert len(log.read(tmp_path / "log.jsonl")) == 10
    assert (tmp_path / "checkpoints-of-other-parameters" / "step-10").exists()
    assert identity({"a": {"micro_batch": 1, "b": 2}}) == identity({"a": {"b": 2}})
    assert identity({"a": {"b": 2}}) != identity({"a": {"b": 3}})


def test_portions_may_change_in_the_middle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        train(tmp_path, Mortal(15))
    train(tmp_path, Mortal(), micro_batch=8, log_every=3)
    assert "resuming after step 10" in capsys.readouterr().out


def test_too_little_memory_says_what_to_change_and_the_run_goes_on(tmp_path: Path) -> None:
    class Large(Tiny):
        """Two examples fit, four do not, as of step 12."""

        calls = 0

        def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
            self.calls += 1
            if len(batch["x"]) > 2 and self.calls > 24:
                raise torch.OutOfMemoryError("CUDA out of memory.\nMore")
            return super().forward(batch)

    with pytest.raises(OutOfMemory, match=r"step 13: out of GPU memory .*train\.micro_batch"):
        train(tmp_path / "b", Large())
    train(tmp_path / "b", Large(), micro_batch=2)
    train(tmp_path / "a")
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)


def test_the_task_may_end_the_run(tmp_path: Path) -> None:
    class Collapsing(Tiny):
        def check(self, step: int, logs: dict[str, float]) -> None:
            assert logs["output_std"] > 0
            if step == 7:
                raise Collapse("step 7: collapsed")

    with pytest.raises(Collapse, match="step 7"):
        train(tmp_path, Collapsing())
    assert log.read(tmp_path / "log.jsonl")[-1]["step"] == 7
    assert not list(tmp_path.glob("checkpoints/*"))


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    accuracies = {4: 0.2, 8: 0.7, 12: 0.7, 16: 0.1, 20: 0.3, 24: 0.6}
    seen = {}

    def validate(task: Any, step: int) -> dict[str, float]:
        assert not task.training
        assert not torch.is_grad_enabled()
        seen[step] = {k: v.clone() for k, v in task.state_dict().items()}
        return {"accuracy": accuracies[step]}

    def better(new: dict[str, float], best: dict[str, float] | None) -> bool:
        return best is None or new["accuracy"] > best["accuracy"]

    options: Any = {"validate": validate, "validate_every": 4, "keep": "best", "better": better}
    task = Tiny()
    summary = train(tmp_path, task, **options)
    assert (summary.kept, summary.validation) == (8, {"accuracy": 0.7})
    assert equal(task.state_dict(), seen[8])
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == [
        "step-20", "step-24", "step-8",
    ]  # fmt: skip
    logged = {x["step"]: x["validation"]["accuracy"] for x in curve(tmp_path) if "validation" in x}
    assert logged == accuracies

    other = Tiny()
    assert train(tmp_path, other, **options) == summary
    assert equal(other.state_dict(), seen[8])


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ((math.nan, 0.2, math.nan, 0.1, 0.2, math.nan), 8),
        ((math.nan, -math.inf, -0.5, -0.1, math.nan, -0.3), 16),
        ((math.nan, math.nan, math.nan, math.nan, math.nan, -0.9), 24),
        ((0.5, math.nan, math.inf, 0.4, 0.5, 0.1), 4),
    ],
)
def test_an_undefined_validation_is_never_the_best(
    tmp_path: Path, scores: tuple[float, ...], kept: int
) -> None:
    killed = []

    def validate(task: Any, step: int) -> dict[str, float]:
        if step == 12 and not killed:
            killed.append(step)
            raise KeyboardInterrupt
        return {"matthews": scores[step // 4 - 1]}

    options: Any = {"validate": validate, "validate_every": 4, "keep": "best"}
    options["better"] = finetuning.better_by("matthews", "matthews")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, **options)
    summary = train(tmp_path, **options)  # resumes with the best so far
    assert (summary.kept, summary.validation) == (kept, {"matthews": scores[kept // 4 - 1]})


def test_the_last_weights_are_kept_if_no_validation_is_defined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: Any = {"validate": lambda task, step: {"wer": math.nan}, "validate_every": 4}
    options |= {"keep": "best", "better": finetuning.better_by("wer", "wer")}
    summary = train(tmp_path, **options)
    assert summary.kept == 24
    assert summary.validation == {"wer": None}  # as in the log
    assert "no validation was defined, so the last weights are kept" in capsys.readouterr().out
    assert not (tmp_path / "checkpoints" / "step-4").exists()


def test_validation_changes_nothing_and_the_last_weights_are_kept(tmp_path: Path) -> None:
    def validate(task: Any, step: int) -> dict[str, float]:
        return {"score": float(torch.rand(())) * 0 + step}

    options: Any = {"dropout": 0.2}
    train(tmp_path / "a", Tiny(**options))
    summary = train(tmp_path / "b", Tiny(**options), validate=validate, validate_every=7)
    assert (summary.kept, summary.validation) == (24, {"score": 24.0})
    plain = [{k: v for k, v in x.items() if k != "validation"} for x in curve(tmp_path / "b")]
    assert plain == curve(tmp_path / "a")


def test_freeze_is_told_the_step(tmp_path: Path) -> None:
    class Frozen(Tiny):
        def freeze(self, step: int) -> None:
            self.blocks.requires_grad_(step >= 4)
            if step == 4:
                self.before = self.blocks[0].weight.detach().clone()

    task = Frozen()
    train(tmp_path, task, steps=8)
    assert torch.equal(task.before, Tiny().blocks[0].weight)
    assert not torch.equal(task.before, task.blocks[0].weight)
