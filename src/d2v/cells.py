"""Cells of the paper's tables: measured ones from the runs' metrics, reported ones from a file.

A measured cell is the mean and standard error over seeds of the test metrics of runs, times 100 as
the paper prints them; a reported one is copied from params/reported.csv with its source.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d2v import runs
from d2v.errors import UserError
from d2v.metrics import METRICS
from d2v.params import ARMS, Experiment, Finetune, Setting

ROWS = {"scratch": "from scratch", "data2vec": "data2vec (this run)"}
AVERAGE = "average"
# GLUE tasks with two metrics are scored by the mean of both (paper 4.3)
PAIRS = (("accuracy", "f1"), ("pearson", "spearman"))
REPORTED = Path("params/reported.csv")
# fmt: off
REPORTED_COLUMNS = ("id", "table", "group", "method", "setup", "column", "metric", "split",
                    "value", "source", "note")
# fmt: on


@dataclass(frozen=True)
class Column:
    """One measured column: a task's score (headline), a further metric of it, or the average."""

    task: str  # name of the fine-tuning
    heading: str
    metrics: tuple[str, ...]  # their mean is shown
    split: str
    headline: bool

    @property
    def name(self) -> str:
        """Metric with its unit, as in the CSV; the vocabulary of reported.csv."""
        unit = "pct" if METRICS[self.metrics[0]].unit == "%" else "x100"
        both = "_and_".join(self.metrics)
        if self.task == AVERAGE:
            return "mean_over_tasks_x100"
        return f"mean_of_{both}_{unit}" if len(self.metrics) > 1 else f"{both}_{unit}"

    @property
    def higher_is_better(self) -> bool:
        """Direction of the column."""
        return METRICS[self.metrics[0]].higher_is_better


@dataclass(frozen=True)
class Cell:
    """Mean and standard error over seeds, times 100; NaN where there is none."""

    value: float
    stderr: float
    n: int
    planned: int  # seeds the experiment asks for
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Gain:
    """Difference of data2vec and from scratch with its standard error (of independent means)."""

    column: Column
    value: float
    stderr: float

    @property
    def verdict(self) -> str:
        """Said honestly: a gain is more than two standard errors in the better direction."""
        if math.isnan(self.value):
            return "cannot be judged (runs are missing)"
        if math.isnan(self.stderr):
            return "cannot be judged (needs two seeds in each row)"
        if abs(self.value) <= 2 * self.stderr:
            return "no gain (within two standard errors)"
        if (self.value > 0) != self.column.higher_is_better:
            return "loss (pre-training is worse by more than two standard errors)"
        return "gain (better by more than two standard errors)"


@dataclass(frozen=True)
class Table:
    """One table of an experiment: measured cells, reported values, and what is missing."""

    name: str
    experiment: Experiment
    columns: list[Column]
    cells: dict[tuple[str, Column], Cell]  # by arm and column
    settings: dict[tuple[str, str], str]  # what was used, by task and arm
    gaps: list[str]  # run ids and what is wrong
    reported: pd.DataFrame

    def gain(self, column: Column) -> Gain:
        """Difference of the two rows in one column."""
        scratch, ours = (self.cells[arm, column] for arm in ARMS)
        return Gain(column, ours.value - scratch.value, math.hypot(ours.stderr, scratch.stderr))

    @property
    def tasks(self) -> dict[str, Finetune]:
        """The table's fine-tunings, by name."""
        return {k: v for k, v in self.experiment.finetune.items() if v.table == self.name}


def collect(experiment: Experiment, results: Path, reported: Path = REPORTED) -> list[Table]:
    """All tables of an experiment from its results folder, in the paper's order.

    Raises UserError when the reported values cannot be read.
    """
    known = read_reported(reported)
    return [_table(experiment, name, results, known) for name in runs.table_names(experiment)]


def read_reported(path: Path) -> pd.DataFrame:
    """Reported values as printed (text, empty where the paper prints "-"), each with its source."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot read reported values: {error}") from None
    if missing := [name for name in REPORTED_COLUMNS if name not in frame]:
        raise UserError(f"{path}:1: column {', '.join(missing)} is missing")
    return frame


def _table(experiment: Experiment, name: str, results: Path, reported: pd.DataFrame) -> Table:
    tasks = {key: value for key, value in experiment.finetune.items() if value.table == name}
    columns = [column for key, task in tasks.items() for column in _columns(key, task)]
    frames, gaps = [], []
    settings: dict[tuple[str, str], str] = {}
    for key in tasks:
        frame, missing = _read_task(experiment, key, results, columns)
        frames.append(frame)
        gaps += missing
        settings |= {
            (key, arm): "; ".join(dict.fromkeys(frame[frame["arm"] == arm]["setting"]))
            for arm in ARMS
        }
    values = pd.concat(frames)
    if name == "glue" and len(tasks) > 1:
        average = _average_column(columns)
        columns = [*(c for c in columns if c.headline), average] + [
            c for c in columns if not c.headline
        ]
        values = pd.concat([values, _averages(values, average, columns)])
    planned = {key: len(task.seeds) for key, task in tasks.items()}
    planned[AVERAGE] = min(planned.values())
    cells = {(a, c): _cell(values, a, c, planned[c.task]) for c in columns for a in ARMS}
    chosen = reported[reported["table"] == name]
    return Table(name, experiment, columns, cells, settings, gaps, chosen)


def _columns(key: str, task: Finetune) -> list[Column]:
    """The task's score, then its metrics that are not the score themselves."""
    pair = next((p for p in PAIRS if set(p) <= set(task.metrics)), None)
    score = pair or (task.metrics[0],)
    split = f"{task.data}_{task.test_split}"
    further = [(m,) for m in task.metrics if (m,) != score]
    return [Column(key, task.column, m, split, m == score) for m in [score, *further]]


def _average_column(columns: list[Column]) -> Column:
    headline = [c for c in columns if c.headline]
    names = tuple(dict.fromkeys(m for c in headline for m in c.metrics))
    split = " + ".join(dict.fromkeys(c.split for c in headline))
    return Column(AVERAGE, AVERAGE, names, split, True)


def _read_task(
    experiment: Experiment, key: str, results: Path, columns: list[Column]
) -> tuple[pd.DataFrame, list[str]]:
    """One line a run and column (arm, seed, task, metric, value, run, setting); what is missing."""
    lines = []
    gaps: dict[tuple[str, str], list[str]] = {}  # by folder and fault: the seeds
    for run in runs.finetune_runs(experiment, key):
        folder, seed = run.id.rsplit("/", 1)
        try:
            test, setting = _read_run(results / "runs" / run.id / "metrics.json")
        except UserError as error:
            gaps.setdefault((folder, str(error)), []).append(seed)
            continue
        for column in (c for c in columns if c.task == key):
            values: list[Any] = [test.get(m) for m in column.metrics]
            if any(not isinstance(v, int | float) or not math.isfinite(v) for v in values):
                gaps.setdefault((folder, f"{column.name} is missing or undefined"), []).append(seed)
                continue
            value = 100 * sum(values) / len(values)
            lines.append((run.arm, run.seed, key, column.name, value, run.id, setting))
    names = ["arm", "seed", "task", "metric", "value", "run", "setting"]
    frame = pd.DataFrame(lines, columns=names).astype({"value": float})
    return frame, [f"{folder}/{', '.join(s)}: {fault}" for (folder, fault), s in gaps.items()]


def _read_run(path: Path) -> tuple[dict[str, Any], str]:
    """Test metrics and setting of a run; raises UserError saying what is wrong with its file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content["metrics"]["test"]), Setting(**content["setting"]).words
    except FileNotFoundError:
        raise UserError("not run yet (no metrics.json)") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"metrics.json is unreadable ({what})") from None


def _averages(values: pd.DataFrame, average: Column, columns: list[Column]) -> pd.DataFrame:
    """Mean over tasks within each seed that has every task, so that seeds stay the unit."""
    scores = {(c.task, c.name) for c in columns if c.headline and c.task != AVERAGE}
    pairs = zip(values["task"], values["metric"], strict=True)
    kept = np.array([pair in scores for pair in pairs], dtype=bool)
    lines = [
        (arm, seed, AVERAGE, average.name, group["value"].mean(), " ".join(group["run"]), "")
        for (arm, seed), group in values[kept].groupby(["arm", "seed"], sort=False)
        if len(group) == len(scores)
    ]
    return pd.DataFrame(lines, columns=values.columns).astype({"value": float})


def _cell(values: pd.DataFrame, arm: str, column: Column, planned: int) -> Cell:
    mine = values[
        (values["arm"] == arm) & (values["task"] == column.task) & (values["metric"] == column.name)
    ]
    numbers = mine["value"].to_numpy(float)
    mean = numbers.mean() if len(numbers) else math.nan
    stderr = numbers.std(ddof=1) / math.sqrt(len(numbers)) if len(numbers) > 1 else math.nan
    return Cell(float(mean), float(stderr), len(numbers), planned, tuple(mine["run"]))
