"""Data types of the result tables: columns, cells, differences and tables.

A measured cell holds the mean and standard error over seeds of the runs' test metrics, times 100 as
the paper prints them. A reported cell is a line of params/reported.csv, with its source.
"""

import math
from dataclasses import dataclass

import pandas as pd

from d2v.evaluation.metrics import METRICS
from d2v.params import Experiment, Finetune

SCRATCH, OURS = "from scratch", "data2vec"
AVERAGE = "average"
RELEASED = ", released weights"


@dataclass(frozen=True)
class Column:
    """One measured column: a score (headline), a further metric, or the average of the scores."""

    heading: str
    metrics: tuple[str, ...]  # the column shows their mean
    split: str
    headline: bool
    decoding: str = ""  # how transcripts were decoded: lexicon + n-gram, or greedy

    @property
    def name(self) -> str:
        """Metric with its unit as the CSV files name it, in the vocabulary of reported.csv."""
        unit = "pct" if METRICS[self.metrics[0]].unit == "%" else "x100"
        both = "_and_".join(self.metrics)
        if self.heading == AVERAGE:
            return "mean_over_tasks_x100"
        return f"mean_of_{both}_{unit}" if len(self.metrics) > 1 else f"{both}_{unit}"

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value of the column's metric is better."""
        return METRICS[self.metrics[0]].higher_is_better


@dataclass(frozen=True)
class Cell:
    """Mean and standard error over seeds, times 100; NaN where a value is missing.

    If the metric is undefined for one seed, the mean is undefined, too.
    """

    value: float
    stderr: float
    n: int  # seeds that have run
    planned: int  # seeds that the experiment requests; 0: the row has no such task
    runs: tuple[str, ...]
    interval: tuple[float, float] | None = None  # 95 % interval over examples, single run only
    values: tuple[float, ...] = ()  # one value per seed
    undefined: tuple[str, ...] = ()  # runs whose metric is undefined
    partial: tuple[str, ...] = ()  # incomplete data sets, and what they lack


@dataclass(frozen=True)
class Gain:
    """Difference of data2vec and from scratch; its standard error assumes independent means."""

    column: Column
    value: float
    stderr: float
    undefined: tuple[str, ...] = ()  # rows whose metric is undefined

    @property
    def verdict(self) -> str:
        """Verdict with its reason: a gain is better by more than two standard errors."""
        if self.undefined:
            return f"undefined (the metric of {' and '.join(self.undefined)} is)"
        if math.isnan(self.value):
            return "cannot be judged (runs are missing)"
        if math.isnan(self.stderr):
            return "cannot be judged (needs two seeds in each row)"
        if abs(self.value) <= 2 * self.stderr:
            return "no gain (within two standard errors)"
        if (self.value > 0) != self.column.higher_is_better:
            return "loss (pre-training is worse by more than two standard errors)"
        return "gain (better by more than two standard errors)"

    @property
    def short(self) -> str:
        """The verdict without its reason."""
        return self.verdict.split(" (")[0]


@dataclass(frozen=True)
class Gap:
    """Reproduced minus reported value, with the standard error of the reproduced value."""

    column: Column
    value: float
    stderr: float
    undefined: bool = False  # whether the metric of the reproduced row is undefined
    partial: bool = False  # whether the data of the reproduced row is incomplete

    @property
    def verdict(self) -> str:
        """Verdict: within the spread, better or worse, or why the gap cannot be judged.

        The spread is two standard errors plus the rounding of one decimal.
        """
        if self.undefined:
            return "undefined"
        if math.isnan(self.value):
            return "not run"
        if math.isnan(self.stderr):
            return "one run, no spread"
        if abs(self.value) <= 2 * self.stderr + 0.05:
            return "within the spread"
        return "better" if (self.value > 0) == self.column.higher_is_better else "worse"


@dataclass(frozen=True)
class Table:
    """One table of an experiment: measured cells, reported values and missing runs."""

    name: str
    experiment: Experiment
    rows: list[str]  # names of the measured rows
    columns: list[Column]
    cells: dict[tuple[str, Column], Cell]  # by row and column
    settings: dict[tuple[str, str], str]  # settings used, by task and arm
    missing: list[str]  # ids of runs with missing results, each with the reason
    reported: pd.DataFrame

    def gain(self, column: Column) -> Gain:
        """Difference between the rows data2vec and from scratch in one column."""
        scratch, ours = self.cells[SCRATCH, column], self.cells[OURS, column]
        undefined = tuple(r for r in (SCRATCH, OURS) if self.cells[r, column].undefined)
        spread = math.hypot(ours.stderr, scratch.stderr)
        return Gain(column, ours.value - scratch.value, spread, undefined)

    def gap(self, row: str, column: Column) -> Gap | None:
        """Gap between a row and its reported counterpart (reported_row); None if none is reported.

        An average is compared only if the row has every task of the reported average.
        """
        frame = self.reported
        reported = frame[(frame["method"] == reported_row(row)) & (frame["value"] != "")]
        values = reported[reported["column"] == column.heading]["value"]
        if values.empty or not column.headline:
            return None
        if column.heading == AVERAGE and not self._headings(row) >= set(reported["column"]):
            return None
        cell = self.cells[row, column]
        gap = cell.value - float(values.iloc[0])
        return Gap(column, gap, cell.stderr, bool(cell.undefined), bool(cell.partial))

    def _headings(self, row: str) -> set[str]:
        """Headings of the columns that the row's tasks fill."""
        return {c.heading for (r, c), cell in self.cells.items() if r == row and cell.planned}

    @property
    def tasks(self) -> dict[str, Finetune]:
        """The table's fine-tunings, by name."""
        return {k: v for k, v in self.experiment.finetune.items() if v.table == self.name}


def row_of(experiment: Experiment, task: Finetune, arm: str) -> str:
    """Name of the row that shows an arm of a task; released weights have separate rows."""
    if arm == "scratch":
        return SCRATCH
    row = task.row or OURS
    if task.released:
        return f"{row}{RELEASED}, evaluated here"
    if experiment.pretrain[task.pretrain].released:
        return f"{row}{RELEASED}, fine-tuned here"
    return row


def reported_row(row: str) -> str:
    """Name of the reported row with which a measured row is compared."""
    return row.partition(RELEASED)[0]
