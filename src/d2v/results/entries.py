"""Cells and heads of a results table as they are shown."""

import math
from typing import Any, Literal

from d2v.evaluation.metrics import METRICS
from d2v.results.cells import AVERAGE, Cell, Column, Difference, Gain, Gap
from d2v.results.grid import Entry, Head
from d2v.results.protocol import NONE, PARTIAL, joined
from d2v.results.wording import number

UNDEFINED = "undefined"


def measured(cell: Cell) -> Entry:
    """Cell such as `77.9 ± 0.3 (n=3)`, or `(n=2 of 3)` if seeds are missing."""
    if not cell.planned:
        return Entry("")
    mark = f" {PARTIAL}" * bool(cell.partial)
    if cell.undefined:
        hover = f"undefined for {', '.join(cell.undefined)}"
        return Entry(f"{UNDEFINED}{mark}", verdict=UNDEFINED, hover=hover)
    if math.isnan(cell.value):
        return Entry(NONE, verdict="not run", hover="not run yet")
    spread = "" if math.isnan(cell.stderr) else f" ± {spread_text(cell.stderr)}"
    if cell.interval is not None:
        low, high = (number(bound, ".1f") for bound in cell.interval)
        spread = f" [{low}, {high}]"
    planned = "" if cell.n == cell.planned else f" of {cell.planned}"
    hover = f"mean {number(cell.value, '.2f')} of {cell.n}: {', '.join(cell.runs)}"
    text = f"{number(cell.value, '.1f')}{spread} (n={cell.n}{planned}){mark}"
    return Entry(text, cell.value, hover=hover, runs=cell.runs, apart=bool(cell.partial))


def gain(found: Gain | None) -> Entry:
    """Difference of two measured rows; empty without one."""
    return Entry(signed(found), _number(found.value), verdict=found.short) if found else Entry("")


def gap(found: Gap | None) -> Entry:
    """Gap to a reported value; empty without one."""
    if found is None:
        return Entry("")
    text = f"{signed(found)} ({found.verdict})" + f" {PARTIAL}" * found.partial
    return Entry(text, _number(found.value), verdict=found.verdict)


def printed(line: dict[Any, Any] | None) -> Entry:
    """A reported value with the digits that the paper prints."""
    if line is None or not line["value"]:
        return Entry(NONE)
    hover = ". ".join(filter(None, (line["source"], line["note"])))
    return Entry(line["value"], float(line["value"]), hover=hover)


def printed_head(column: str, metric: str) -> Head:
    """Column head with the direction of its metric in reported.csv; `units` explains the unit."""
    return Head(column, "", "↓" if "wer" in metric else "↑")


def head(column: Column) -> Head:
    """Column head: heading, metric with decoding and unit, and direction."""
    return Head(column.heading, metric_of(column), _direction(column))


def metric_of(column: Column) -> str:
    """Name, decoding and unit of a column's metric."""
    if column.heading == AVERAGE:
        return "mean over tasks"
    metrics = [METRICS[name] for name in column.metrics]
    labels = [metric.label for metric in metrics]
    name = labels[0] if len(labels) == 1 else f"mean of {joined(labels)}"
    if column.decoding and metrics[0].column == "prediction":
        name = f"{name}, {column.decoding}"
    return f"{name}, {metrics[0].unit}"


def _direction(column: Column) -> Literal["↑", "↓"]:
    return "↑" if column.higher_is_better else "↓"


def spread_text(stderr: float) -> str:
    """A standard error with one decimal; small values are shown as <0.1 instead of 0.0."""
    return f"{stderr:.1f}" if stderr >= 0.05 or stderr == 0 else "<0.1"


def signed(found: Difference) -> str:
    """A difference with its 95 % interval."""
    if math.isnan(found.value):
        return NONE
    text = number(found.value, "+.1f")
    if math.isnan(found.half):
        return text
    low, high = (number(bound, "+.1f") for bound in found.found.bounds)
    return f"{text} [{low}, {high}]"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
