"""The runs of an experiment: their list, and the one that an id names."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from d2v import params
from d2v.experiment.run import PretrainRun, Run
from d2v.experiment.task_runs import DecodeRun, FinetuneRun, GridRun, ProbeRun
from d2v.params import Experiment, TableName
from d2v.util.errors import UserError


def pretrain_runs(experiment: Experiment) -> list[PretrainRun]:
    """One run per pre-training and seed, in the order of the parameter file."""
    return [
        PretrainRun(experiment, name, seed)
        for name, pretrain in experiment.pretrain.items()
        for seed in pretrain.seeds
    ]


def finetune_runs(experiment: Experiment, name: str | None = None) -> list[FinetuneRun]:
    """One run per fine-tuning task, arm and seed; only those of the task `name` if it is given."""
    return [
        FinetuneRun(experiment, task, seed, arm)
        for task, finetune in experiment.finetune.items()
        if name in (None, task)
        for arm in finetune.arms
        for seed in finetune.seeds
    ]


def decode_runs(experiment: Experiment) -> list[DecodeRun]:
    """One decoding run for each fine-tuning run that needs a search for decoding weights."""
    return [_decoded(run) for run in finetune_runs(experiment) if run.searched]


def probe_runs(experiment: Experiment, name: str | None = None) -> list[ProbeRun]:
    """One run of probes per arm and seed of each task that asks for them, or of the task `name`."""
    return [
        ProbeRun(experiment, run.name, run.seed, run.arm)
        for run in finetune_runs(experiment, name)
        if run.params.probe
    ]


def reported_runs(experiment: Experiment, name: str | None = None) -> list[Run]:
    """The runs whose test metrics the tables show: fine-tunings, or the decodings that follow."""
    return [_decoded(run) if run.searched else run for run in finetune_runs(experiment, name)]


def _decoded(run: FinetuneRun) -> DecodeRun:
    return DecodeRun(run.experiment, run.name, run.seed, run.arm)


def grid_runs(experiment: Experiment, name: str) -> list[GridRun]:
    """One run per arm, grid point and grid seed of a task; none if its settings are given."""
    task = experiment.finetune[name]
    grid = task.grid
    if grid is None:
        return []
    return [
        GridRun(experiment, name, seed, arm, setting.name)
        for arm in task.arms
        for setting in grid.settings()
        for seed in grid.seeds
    ]


def chosen_together(experiment: Experiment, name: str) -> list[str]:
    """Tasks whose grids determine a task's setting: the task itself, or all in its table row."""
    task = experiment.finetune[name]
    if task.grid is None or task.grid.best_over == "task":
        return [name]
    return [
        other
        for other, t in experiment.finetune.items()
        if (t.table, t.row, t.pretrain) == (task.table, task.row, task.pretrain) and t.grid
    ]


def all_runs(experiment: Experiment) -> list[Run]:
    """All runs, in an order in which they can be executed."""
    grids = [run for name in experiment.finetune for run in grid_runs(experiment, name)]
    tuned = [*finetune_runs(experiment), *decode_runs(experiment)]
    return [*pretrain_runs(experiment), *grids, *tuned, *probe_runs(experiment)]


def by_id(experiment: Experiment) -> dict[str, Run]:
    """All runs by their ids, in an order in which they can be executed."""
    return {run.id: run for run in all_runs(experiment)}


def parse(experiment: Experiment, run_id: str) -> Run:
    """The run with the id `run_id`.

    Raises UserError if the experiment has no such run; the message names the closest id.
    """
    known = by_id(experiment)
    if run_id in known:
        return known[run_id]
    close = difflib.get_close_matches(run_id, known, n=1, cutoff=0.4)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UserError(f"experiment {experiment.name} has no run {run_id}{hint} (see `d2v status`)")


def load(experiment_path: Path, run_id: str) -> Run:
    """A run of a parameter file.

    Raises UserError if the file is invalid or has no such run.
    """
    return parse(params.load(experiment_path), run_id)


def table_names(experiment: Experiment) -> list[str]:
    """Tables in which the experiment has a cell, in the paper's order."""
    used = {finetune.table for finetune in experiment.finetune.values()}
    return [table for table in get_args(TableName) if table in used]


def all_datasets(experiment: Experiment) -> Iterator[str]:
    """Every prepared set of the experiment, without duplicates."""
    yield from dict.fromkeys(name for run in all_runs(experiment) for name in run.datasets)


def as_lines(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested values as sorted lines `dotted.path=value`."""
    lines: list[str] = []
    for key, value in sorted(values.items()):
        if isinstance(value, dict):
            lines += as_lines(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}={json.dumps(value)}")
    return lines
