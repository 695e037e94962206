"""The example of attention: from a compiled model, from odd examples, and when it fails."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import workspace
from tiny_models import make

from d2v import params
from d2v.cli import reproduce
from d2v.evaluation import attention_example
from d2v.experiment import execute, finished, provenance, runs
from d2v.training import compiling
from d2v.training.task import Pretraining


class Some:
    """Copies of one example; those of `masks` without a masked position."""

    def __init__(self, batch: dict[str, Any], masked: list[bool]) -> None:
        self.batch, self.masked = batch, masked

    def __len__(self) -> int:
        return len(self.masked)

    def __getitem__(self, key: tuple[int, int]) -> int:
        return key[1]

    def collate(self, examples: list[int]) -> dict[str, Any]:
        at = examples[0]
        batch = {k: v[:1] for k, v in self.batch.items() if k != "masked"} | {"ids": [str(at)]}
        batch["mask"] = batch["mask"] & self.masked[at]
        return batch | {"masked": batch["mask"].flatten().nonzero().flatten()}

    def finish(self, batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
        return batch


def test_the_first_example_with_a_masked_position_is_shown() -> None:
    task, batch = make("text")
    look = attention_example.attention(task, Some(batch, [False, False, True]))
    assert look is not None
    assert look["example"] == "2"
    assert sum(look["weights"]) == pytest.approx(1, abs=1e-3)
    assert attention_example.attention(task, Some(batch, [False])) is None


def test_a_student_that_does_not_see_masked_positions_has_no_picture() -> None:
    task, batch = make("text")
    visible = {"visible": torch.tensor([[0, 1, 2]])}
    assert attention_example.attention(task, Some(batch | visible, [True])) is None


@pytest.mark.slow
def test_a_compiled_model_shows_the_same() -> None:
    task, batch = make("text")
    expected = attention_example.attention(task, Some(batch, [True]))
    assert isinstance(task, Pretraining)
    compiling.compile_parts(task, backend="eager")
    task(batch)
    assert attention_example.attention(task, Some(batch, [True])) == expected


@pytest.mark.slow
def test_what_comes_after_training_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workspace.make(tmp_path)
    monkeypatch.chdir(folder)

    def fail(*words: Any, **named: Any) -> None:
        raise RuntimeError("broken")

    for module, name in (
        (attention_example, "attention"),
        (provenance, "describe"),
        (execute, "_leave"),
    ):
        monkeypatch.setattr(module, name, fail)
    experiment = params.load(Path("params/tiny.yaml"))
    run = runs.pretrain_runs(experiment)[0]
    command = ["run", run.id, "--launch", "debug"]

    done = workspace.d2v(folder, *command)
    assert done.stdout.count("failed and is skipped: RuntimeError: broken") == 3
    assert done.returncode == 8
    assert done.stderr == (
        f"error: {run.id} has finished ({run.metrics_path}), but the picture of attention failed"
        " and is skipped: RuntimeError: broken; the provenance failed and is skipped: RuntimeError:"
        " broken\n"
    )
    found = json.loads(run.metrics_path.read_text())
    assert found["steps"] > 0
    assert found["provenance"]["params_sha256"] == run.fingerprint()
    assert [line.split(" failed")[0] for line in found[finished.FAILURES]] == [
        "the picture of attention",
        "the provenance",
    ]
    assert reproduce.told_failures(experiment) == 8
    assert capsys.readouterr().err.count(f"warning: {run.id}: the ") == 2

    run.metrics_path.unlink()  # the workflow, which would remove the metrics after a failure
    assert workspace.d2v(folder, *command, "--tolerant").returncode == 0
    assert run.metrics_path.exists()
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    run.metrics_path.unlink()
    assert workspace.d2v(folder, *command).returncode == 0
    assert reproduce.told_failures(experiment) == 0
