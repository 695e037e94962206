"""A pre-training and a fine-tuning of the tiny experiment, compiled with inductor.

    python compiled.py FOLDER KIND [--kill]

With --kill: an undisturbed pre-training, then another that ends by SIGKILL in the middle of a step.
Otherwise: the rest of that other one, and the fine-tuning that starts from it.
"""

import argparse
import contextlib
import os
import signal
import time
from pathlib import Path

import torch
import yaml

from d2v import params
from d2v.experiment import execute, runs
from d2v.experiment.run import Run
from d2v.training.task import Pretraining

TASKS = {"vision": "digits", "speech": "spoken-digits", "text": "cola"}  # of each kind
WHOLE, KILLED, EAGER = "whole", "killed", "eager"
KILLED_IN = 4  # step; the checkpoints are those of steps 2, 4 and 6
SETTING = {"lr": 1e-3, "steps": 4}
# one length: a front end of four layers takes minutes to compile for any length
SPEECH = {
    "encoder": {"conv_layers": [[8, 16, 16], [8, 20, 20]]},
    "view": {"max_samples": 3200},
}


def write(folder: Path) -> None:
    """Parameter files of three experiments, which differ in their names and train.compile."""
    for name in (WHOLE, KILLED, EAGER):
        compiled = {"train": {"compile": False if name == EAGER else "inductor"}}
        fixed = dict.fromkeys(("scratch", "data2vec"), SETTING)
        tuned = {**compiled, "grid": None, "settings": fixed}
        changed = {
            "base": "tiny.yaml",
            "name": name,
            "pretrain": {**dict.fromkeys(TASKS, compiled), "speech": {**compiled, **SPEECH}},
            "finetune": dict.fromkeys(TASKS.values(), tuned),
        }
        file(folder, name).write_text(yaml.safe_dump(changed))


def file(folder: Path, name: str) -> Path:
    """The parameter file of an experiment."""
    return folder / "params" / f"{name}.yaml"


def pretraining(folder: Path, name: str, kind: str) -> Run:
    """The pre-training of a kind, with the first seed."""
    experiment = params.load(file(folder, name))
    return next(run for run in runs.pretrain_runs(experiment) if run.name == kind)


def finetuning(folder: Path, kind: str) -> Run:
    """The fine-tuning that starts from the pre-training that was killed."""
    every = runs.all_runs(params.load(file(folder, KILLED)))
    return next(r for r in every if r.name == TASKS[kind] and r.arm == "data2vec" and not r.seed)


def train(run: Run, folder: Path) -> None:
    """Execute a run as its job would."""
    with contextlib.chdir(folder):
        execute.execute(run)


def die_in(step: int, saved: Path) -> None:
    """Let pre-trainings of this process kill it in a step, once a checkpoint is `saved`."""
    whole = Pretraining.after_step

    def after_step(task: Pretraining, now: int) -> dict[str, float]:
        if now == step:
            late = time.monotonic() + 60
            while not saved.exists() and time.monotonic() < late:
                time.sleep(0.01)  # it is written beside the next steps
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(task, now)

    Pretraining.after_step = after_step  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("kind", choices=TASKS)
    parser.add_argument("--kill", action="store_true")
    a = parser.parse_args()
    killed = pretraining(a.folder, KILLED, a.kind)
    if a.kill:
        train(pretraining(a.folder, WHOLE, a.kind), a.folder)
        die_in(KILLED_IN, a.folder / killed.work / "checkpoints/step-2")
    train(killed, a.folder)
    train(finetuning(a.folder, a.kind), a.folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
