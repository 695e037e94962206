"""Data types of the result tables: columns, cells, differences and tables.

A measured cell holds the mean and standard error of the runs' test metrics, times 100 as the paper
prints them. A reported cell is a line of params/reported.csv, with its source.

Intervals and verdicts rest on independent values (`Cell.units`). Seeds that start from the same
pre-training are not independent of its seed: where a row has several pre-trainings, each counts
once, with the mean of its seeds. Where it has one, the seeds count, and the verdict says so.
"""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from d2v.evaluation.metrics import METRICS
from d2v.params import Experiment, Finetune
from d2v.results.statistics import Estimate, estimate, welch

SCRATCH, INPUT, OURS = "from scratch", "input targets", "data2vec"
# words for no difference, worse and better, by the row that is subtracted
WORDS = {
    SCRATCH: ("no clear gain", "loss", "gain"),
    INPUT: ("no clear difference", "worse", "better"),
}
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
    """Mean and standard error, times 100; NaN where a value is missing.

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
    units: tuple[float, ...] = ()  # independent values: one per pre-training, or one per seed
    starts: int = 0  # pre-trainings that the row starts from; 0: random weights

    @property
    def estimate(self) -> Estimate:
        """The mean, with the standard error of its independent values."""
        found = estimate(self.units)
        return Estimate(self.value, found.stderr, found.freedom)


@dataclass(frozen=True)
class Difference:
    """Difference of two means of one column."""

    column: Column
    found: Estimate

    @property
    def value(self) -> float:
        """The difference."""
        return self.found.value

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval."""
        return self.found.half


@dataclass(frozen=True)
class Gain(Difference):
    """Difference of a row and another one (from scratch, input targets): Welch's test."""

    undefined: tuple[str, ...] = ()  # rows whose metric is undefined
    other: str = SCRATCH  # the row that is subtracted
    single: bool = False  # whether a row of several seeds starts from one pre-training

    @property
    def verdict(self) -> str:
        """Verdict with its reason: a difference counts if its 95 % interval excludes zero."""
        if self.undefined:
            return f"undefined (the metric of {' and '.join(self.undefined)} is)"
        if math.isnan(self.value):
            return "cannot be judged (runs are missing)"
        if math.isnan(self.half):
            return "cannot be judged (needs two seeds in each row)"
        same, worse, better = WORDS[self.other]
        if abs(self.value) <= self.half:
            return f"{same} (the 95 % interval includes zero)"
        kind = better if (self.value > 0) == self.column.higher_is_better else worse
        return f"{kind} (the 95 % interval excludes zero)"

    @property
    def short(self) -> str:
        """The verdict without its reason."""
        return self.verdict.split(" (")[0]


@dataclass(frozen=True)
class Gap(Difference):
    """Reproduced minus reported value, with the uncertainty of the reproduced value."""

    undefined: bool = False  # whether the metric of the reproduced row is undefined
    partial: bool = False  # whether the data of the reproduced row is incomplete

    @property
    def verdict(self) -> str:
        """Verdict: within the spread, better or worse, or why the gap cannot be judged.

        The spread is the 95 % interval plus the rounding of one decimal.
        """
        if self.undefined:
            return "undefined"
        if math.isnan(self.value):
            return "not run"
        if math.isnan(self.half):
            return "one run, no spread"
        if abs(self.value) <= self.half + 0.05:
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
    probed: tuple[Any, ...] = ()  # the finished probes (d2v.results.probes.Probed)

    def gain(self, column: Column, other: str = SCRATCH, row: str = OURS) -> Gain:
        """Difference between a row and another one in one column."""
        theirs, ours = self.cells[other, column], self.cells[row, column]
        undefined = tuple(r for r in (other, row) if self.cells[r, column].undefined)
        single = any(cell.starts == 1 and cell.n > 1 for cell in (theirs, ours))
        return Gain(column, welch(ours.estimate, theirs.estimate), undefined, other, single)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Rows whose difference the table states, as (row, other row)."""
        others = [row for row in self.rows if row not in (SCRATCH, INPUT)]
        ours = others if len(others) == 1 else [row for row in others if RELEASED not in row]
        wanted = [
            *((row, SCRATCH) for row in (*ours, INPUT)),
            *((row, INPUT) for row in ours),
        ]
        return [
            pair
            for pair in wanted
            if {*pair} <= set(self.rows) and any(self.compares(*pair, c) for c in self.columns)
        ]

    def compares(self, row: str, other: str, column: Column) -> bool:
        """Whether a column has runs of both rows."""
        return bool(self.cells[row, column].planned and self.cells[other, column].planned)

    def gap(self, row: str, column: Column) -> Gap | None:
        """Gap between a row and its reported counterpart (reported_row); None if none is reported.

        An average is compared only if the row has every task of the reported average.
        """
        frame = self.reported
        reported = frame[(frame["method"] == reported_row(row, self.name)) & (frame["value"] != "")]
        values = reported[reported["column"] == column.heading]["value"]
        if values.empty or not column.headline:
            return None
        if column.heading == AVERAGE and not self._headings(row) >= set(reported["column"]):
            return None
        cell = self.cells[row, column]
        mine = cell.estimate
        found = Estimate(mine.value - float(values.iloc[0]), mine.stderr, mine.freedom)
        return Gap(column, found, bool(cell.undefined), bool(cell.partial))

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
    if arm == "input":
        return INPUT
    row = task.row or OURS
    if task.released:
        return f"{row}{RELEASED}, evaluated here"
    if experiment.pretrain[task.pretrain].released:
        return f"{row}{RELEASED}, fine-tuned here"
    return row


def reported_row(row: str, table: str) -> str:
    """Name of the reported row with which a measured row of a table is compared.

    Masked language modelling is the baseline that the paper trained itself.
    """
    if (row, table) == (INPUT, "glue"):
        return "RoBERTa baseline (retrained)"
    return row.partition(RELEASED)[0]
