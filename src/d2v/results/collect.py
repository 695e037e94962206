"""Collect the tables of an experiment from its runs' metrics and the reported values."""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d2v.evaluation.metrics import METRICS, headline
from d2v.evaluation.predictions import read_predictions
from d2v.experiment import runs, stored
from d2v.experiment.task_runs import DecodeRun
from d2v.params import Experiment, Finetune, Setting
from d2v.results import probes
from d2v.results.cells import AVERAGE, INPUT, SCRATCH, Cell, Column, Table, row_of
from d2v.results.statistics import estimate
from d2v.util.errors import UserError

REPORTED = Path("params/reported.csv")
# fmt: off
REPORTED_COLUMNS = ("id", "table", "group", "method", "setup", "column", "metric", "split",
                    "value", "source", "note", "citation")
VALUES = ["row", "seed", "task", "heading", "metric", "value", "run", "setting", "partial",
          "start"]
# fmt: on


def collect(experiment: Experiment, results: Path, reported: Path = REPORTED) -> list[Table]:
    """All tables of an experiment from its results folder, in the paper's order.

    Raises UserError if the reported values cannot be read.
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
    rows = [row_of(experiment, task, arm) for task in tasks.values() for arm in task.arms]
    first = (SCRATCH, INPUT)  # before the rows that start from a teacher's targets
    rows = sorted(
        dict.fromkeys(rows), key=lambda row: first.index(row) if row in first else len(first)
    )
    chosen = reported[reported["table"] == name]
    printed = frozenset(chosen["column"])
    columns = list(dict.fromkeys(c for task in tasks.values() for c in _columns(task, printed)))
    frames, gaps = [], []
    settings: dict[tuple[str, str], str] = {}
    planned: dict[tuple[str, str], int] = {}
    for key, task in tasks.items():
        frame, missing = _read_task(experiment, key, results, printed)
        frames.append(frame)
        gaps += missing
        for arm in task.arms:
            row = row_of(experiment, task, arm)
            mine = frame[frame["row"] == row]
            settings[key, arm] = "; ".join(dict.fromkeys(mine["setting"]))
            planned |= {(row, c.heading): len(task.seeds) for c in _columns(task, printed)}
    values = pd.concat(frames)
    scores = [c for c in columns if c.headline]
    # with few labels, a task would count again
    few = {column for task in tasks.values() if task.labels for column in (task.column, *task.more)}
    averaged = [c for c in scores if c.heading not in few] or scores
    if name == "glue" and len(averaged) > 1:
        average = _average_column(averaged)
        columns = [*scores, average] + [c for c in columns if not c.headline]
        values = pd.concat([values, _averages(values, average, averaged, planned)])
        for row in rows:
            planned[row, AVERAGE] = min(n for (r, _), n in planned.items() if r == row)
    cells = {
        (r, c): _cell(values, r, c, planned.get((r, c.heading), 0)) for c in columns for r in rows
    }
    cells = {key: _with_interval(tasks, key[1], cell, results) for key, cell in cells.items()}
    probed = probes.read(experiment, name, results)
    return Table(name, experiment, rows, columns, cells, settings, gaps, chosen, probed)


def _columns(task: Finetune, printed: frozenset[str]) -> list[Column]:
    """Columns of the task's score and of its further metrics, each for all reported splits.

    The score of a further split is a headline column only where the paper has such a column.
    """
    score = headline(task)
    further = [(m,) for m in task.metrics if (m,) != score]
    splits = {task.column: task.test_split, **task.more}
    return [
        Column(
            heading,
            m,
            f"{task.data}_{split}",
            m == score and (heading == task.column or heading in printed),
            _decoding(task, m),
        )
        for m in [score, *further]
        for heading, split in splits.items()
    ]


def _decoding(task: Finetune, names: tuple[str, ...]) -> str:
    if task.task.kind != "ctc":
        return ""
    searched = task.decode is not None and METRICS[names[0]].column == "prediction"
    return "lexicon + n-gram" if searched else "greedy"


def _average_column(scores: list[Column]) -> Column:
    names = tuple(dict.fromkeys(m for c in scores for m in c.metrics))
    split = " + ".join(dict.fromkeys(c.split for c in scores))
    return Column(AVERAGE, names, split, True)


def _read_task(
    experiment: Experiment, key: str, results: Path, printed: frozenset[str]
) -> tuple[pd.DataFrame, list[str]]:
    """One line per run and column (see VALUES), and the missing runs; NaN: undefined metric."""
    task = experiment.finetune[key]
    named = {task.column: "test", **task.more}
    lines = []
    gaps: dict[tuple[str, str], list[str]] = {}  # affected seeds, by folder and error
    for run in runs.reported_runs(experiment, key):
        folder, seed = run.id.rsplit("/", 1)
        row = row_of(experiment, task, str(run.arm))
        try:
            metrics, setting, partial = _read_run(results, run.id)
        except UserError as error:
            gaps.setdefault((folder, str(error)), []).append(seed)
            continue
        source = (run.finetuning if isinstance(run, DecodeRun) else run).source
        start = source.id if source else ""
        for column in _columns(task, printed):
            split: Any = metrics.get(named[column.heading]) or {}
            value = _value(split, column)
            if not math.isfinite(value):
                state = "undefined" if {*column.metrics} <= {*split} else "missing"
                fault = f"{column.heading}: {column.name} is {state}"
                gaps.setdefault((folder, fault), []).append(seed)
                if state == "missing":
                    continue
            of = (row, run.seed, key, column.heading, column.name)
            lines.append((*of, value, run.id, setting, partial, start))
    frame = pd.DataFrame(lines, columns=VALUES).astype({"value": float})
    return frame, [f"{folder}/{', '.join(s)}: {fault}" for (folder, fault), s in gaps.items()]


def _value(split: dict[str, Any], column: Column) -> float:
    """Mean of a column's metrics times 100; NaN where one is undefined or not a number."""
    values = [split.get(m) for m in column.metrics]
    if any(not isinstance(v, int | float) or not math.isfinite(v) for v in values):
        return math.nan
    return 100 * sum(values) / len(values)  # type: ignore[arg-type]


def _read_run(results: Path, run: str) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    """Metrics by split, the setting, and missing data; raises UserError if damaged or absent."""
    path = results / "runs" / run / stored.NAME
    try:
        content = stored.read(path, run)
        if content is None:
            raise UserError("not run yet (no metrics.json)")
        if "test" not in content["metrics"]:
            raise stored.Damaged(path, "no metrics of split test")
    except stored.Damaged as error:
        raise UserError(f"metrics.json is unreadable ({error.fault})") from None
    setting = Setting(**content["setting"]).words if content.get("setting") else ""
    lacks = content.get("partial_data") or {}
    return content["metrics"], setting, tuple(f"{name} ({what})" for name, what in lacks.items())


def _averages(
    values: pd.DataFrame,
    average: Column,
    scores: list[Column],
    planned: dict[tuple[str, str], int],
) -> pd.DataFrame:
    """Mean over tasks within each seed that has every score of its row.

    The seed thus remains the unit of the standard error. A task with several columns (MNLI: matched
    and mismatched) counts once, by their mean. A seed with an undefined score has an undefined
    mean, even if other scores are still missing.
    """
    names = {(c.heading, c.name) for c in scores}
    pairs = zip(values["heading"], values["metric"], strict=True)
    kept = values[np.array([pair in names for pair in pairs], dtype=bool)]
    lines: list[tuple[Any, ...]] = []
    for (row, seed), group in kept.groupby(["row", "seed"], sort=False):
        needed = sum((row, c.heading) in planned for c in scores)
        undefined = group["value"].isna().any()
        if undefined or len(group) == needed:
            mean = math.nan if undefined else group.groupby("task")["value"].mean().mean()
            run = " ".join(dict.fromkeys(group["run"]))
            lines.append(
                (
                    row,
                    seed,
                    AVERAGE,
                    AVERAGE,
                    average.name,
                    mean,
                    run,
                    "",
                    _united(group["partial"]),
                    " ".join(dict.fromkeys(group["start"])),
                )
            )
    return pd.DataFrame(lines, columns=VALUES).astype({"value": float})


def _united(parts: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part for some in parts for part in some))


def _cell(values: pd.DataFrame, row: str, column: Column, planned: int) -> Cell:
    mine = values[
        (values["row"] == row)
        & (values["heading"] == column.heading)
        & (values["metric"] == column.name)
    ]
    numbers = mine["value"].to_numpy(float)  # an undefined value makes the mean NaN
    mean = numbers.mean() if len(numbers) else math.nan
    starts = mine["start"][mine["start"] != ""].nunique()
    units = numbers if starts < 2 else mine.groupby("start")["value"].mean().to_numpy(float)
    undefined = tuple(mine["run"][mine["value"].isna()])
    return Cell(
        value=float(mean),
        stderr=estimate(units.tolist()).stderr,
        n=len(numbers),
        planned=planned,
        runs=tuple(mine["run"]),
        values=tuple(numbers.tolist()),
        undefined=undefined,
        partial=_united(mine["partial"]),
        units=tuple(units.tolist()),
        starts=int(starts),
    )


def _with_interval(tasks: dict[str, Finetune], column: Column, cell: Cell, results: Path) -> Cell:
    """A single-run cell with the interval over its examples, if its predictions are stored."""
    if cell.n != 1 or cell.undefined or len(column.metrics) > 1 or column.heading == AVERAGE:
        return cell
    from d2v.results.statistics import interval

    (run,) = cell.runs
    task = tasks[run.split("/")[1]]
    split = {task.column: "test", **task.more}[column.heading]
    path = results / "runs" / run / f"predictions-{split}.tsv"
    if not path.exists():
        return cell
    low, high = interval(read_predictions(path), column.metrics[0])
    if math.isnan(low):  # undefined for too many draws of the examples
        return cell
    return replace(cell, interval=(100 * low, 100 * high))
