"""Whole runs with compiled parts, forced on any device: from pre-training to the results page."""

import json
from pathlib import Path

import pytest
import torch
import workspace

from d2v import params
from d2v.experiment import execute, runs
from d2v.experiment.run import Run
from d2v.training import checkpoint, compiling, log
from d2v.training.task import Pretraining

TINY = Path("params/tiny.yaml")


class Interrupted(Exception):
    pass


def compiled(folder: Path, backend: str) -> params.Experiment:
    """The tiny experiment with train.compile set in every run."""
    path = folder / TINY
    text = path.read_text()
    for group in ("train: &train {", "train: &tuning {"):
        assert group in text
        text = text.replace(group, f"{group}compile: {backend}, ")
    path.write_text(text)
    return params.load(path)


def interrupted_and_resumed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Execute a pre-training that fails after its checkpoint of step 2; then to its end."""
    whole = Pretraining.after_step

    def dying(task: Pretraining, step: int) -> dict[str, float]:
        if step == 4:
            raise Interrupted
        return whole(task, step)

    monkeypatch.setattr(Pretraining, "after_step", dying)
    with pytest.raises(Interrupted):
        execute.execute(run)
    monkeypatch.setattr(Pretraining, "after_step", whole)
    torch._dynamo.reset()  # as in another process
    execute.execute(run)
    work = run.work
    assert [line["step"] for line in log.read(work / "log.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert checkpoint.latest(work / "checkpoints") == work / "checkpoints/step-6"
    look = json.loads((run.results / "attention.json").read_text())
    assert sum(look["weights"]) > 0


@pytest.mark.slow
def test_a_compiled_experiment_runs_to_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """All modalities, pre-trainings interrupted and resumed."""
    folder = workspace.make(tmp_path)
    experiment = compiled(folder, "aot_eager")
    monkeypatch.chdir(folder)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    pretrained = [run for run in runs.pretrain_runs(experiment) if run.seed == 0]
    assert {run.name for run in pretrained} == {"vision", "speech", "text"}
    for run in pretrained:
        interrupted_and_resumed(run, monkeypatch)
        assert run.metrics_path.exists()
        assert run.results.joinpath("attention.json").exists()
    said = capsys.readouterr().out
    assert "compiling" in said
    assert "failed and is skipped" not in said
    assert compiling.counts()["graphs"] > 3
    for name in experiment.finetune:
        run = next(r for r in runs.all_runs(experiment) if r.name == name and r.arm == "data2vec")
        execute.execute(run)
        found = json.loads(run.metrics_path.read_text())
        assert found["metrics"]["dev"]
    assert "failed and is skipped" not in capsys.readouterr().out
    page = workspace.call(folder, "d2v.cli", "tables", "--params", str(TINY))
    assert page.returncode == 0, page.stdout + page.stderr
