"""Charts of the tables: means with whiskers and seeds, on one scale per table."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from d2v.evaluation.metrics import METRICS
from d2v.results.cells import AVERAGE, INPUT, OURS, SCRATCH, Column, Table
from d2v.results.page import svg
from d2v.results.page.marks import Mark, drawn, marked, spanned
from d2v.results.page.svg import WIDTH, Chart, fitted, words
from d2v.results.rows import scores
from d2v.results.wording import number

GROUPS = 4  # table columns per chart
LINE, LANE, HEADING = 14, 21, 18  # heights in pixels
LETTERS = 22  # maximum letters per line of a label
KEY = {
    "ours": "data2vec, this run",
    "ours reported": "data2vec, reported by the paper",
    "other": "another method, reported",
    "seed": "one seed",
    "whisker": "95 % interval of the mean",
    "single": "95 % interval of a single run",
}


@dataclass(frozen=True)
class Lane:
    """A labelled line of a chart, with its marks at one height."""

    label: str
    marks: list[Mark]
    undefined: bool = False  # an undefined metric is stated in words instead of drawn


Group = tuple[Column, list[Lane]]  # a column of the table and its lanes


def measured(table: Table) -> list[Chart]:
    """Charts of a table's measured scores, with the reported values if the scale is the same."""
    groups = [(c, _lanes(table, c)) for c in scores(table)]
    groups = [(column, lanes) for column, lanes in groups if lanes]
    if not any(m.kind in ("scratch", "ours") for m in _marks(groups)):
        return []
    apart = table.name.startswith("ablation")  # an ablation compares rows, so one chart per column
    size = 1 if apart else GROUPS
    charts = []
    for place in range(0, len(groups), size):
        some = groups[place : place + size]
        id = f"{table.name}-scores" + f"-{place // size + 1}" * (len(groups) > size)
        shared = _marks(some if apart else groups)
        charts.append(_scores(id, _title(some, len(groups)), some, shared))
    return charts


def _scores(id: str, title: str, groups: Sequence[Group], shared: Sequence[Mark]) -> Chart:
    """Chart of stacked groups of lanes, on a scale that covers all `shared` marks."""
    wrapped = [textwrap.wrap(lane.label, LETTERS) for _, lanes in groups for lane in lanes]
    gutter = max(len(text) for lines in wrapped for text in lines) * svg.LETTER + 12
    scale = fitted((v for m in shared for v in spanned(m)), gutter, WIDTH - 10)
    parts, y, told = [], 4.0, []
    for column, lanes in groups:
        if len(groups) > 1:
            parts.append(words(0, y + 12, column.heading, kind="words strong"))
            y += HEADING
        for lane in lanes:
            lines = textwrap.wrap(lane.label, LETTERS)
            height = max(LANE, LINE * len(lines) + 4)
            top = y + height / 2 - LINE * len(lines) / 2 + 10.5
            parts += [words(0, top + LINE * i, text) for i, text in enumerate(lines)]
            parts += chain.from_iterable(drawn(m, scale, y + height / 2) for m in lane.marks)
            if lane.undefined:
                parts.append(words(gutter + 4, y + height / 2 + 4, "undefined"))
            y += height
        y += 6
        told.append(f"{column.heading}: {'; '.join(_texts(lanes))}")
    columns = [column for column, _ in groups]
    unit = _unit(columns)
    axis = svg.below(scale, 0, y, unit)
    label = f"{title}. {unit}. {'. '.join(told)}."
    return Chart(id, title, svg.drawing(WIDTH, y + 36, label, axis + parts), "", _key(groups))


# --- marks ------------------------------------------------------------------------------------


def _lanes(table: Table, column: Column) -> list[Lane]:
    """Lanes of a column: the reported values (paper scale only), and each measured row."""
    ablation = table.name.startswith("ablation")
    reported = _reported(table, column) if table.experiment.scale == "paper" else {}
    lanes = []
    if not ablation and reported:
        marks = [
            Mark(
                "ours reported" if name.startswith(OURS) else "other",
                value,
                f"{name}, reported: {number(value)}",
            )
            for name, value in reported.items()
        ]
        marks.sort(key=lambda m: m.kind != "other")
        lanes.append(Lane("reported", marks))
    for row in table.rows:
        cell = table.cells[row, column]
        marks = []
        if not math.isnan(cell.value):
            kind = {SCRATCH: "scratch", INPUT: "hue1"}.get(row, "ours")
            marks.append(marked(kind, cell, row))
        if ablation and row in reported:
            text = f"{row}, reported: {number(reported[row])}"
            marks.insert(0, Mark("ours reported", reported[row], text))
        if marks or cell.undefined:
            lanes.append(Lane(row, marks, bool(cell.undefined)))
    return lanes


def _reported(table: Table, column: Column) -> dict[str, float]:
    frame = table.reported
    found = frame[(frame["column"] == column.heading) & (frame["value"] != "")]
    return dict(zip(found["method"], found["value"].astype(float), strict=True))


# --- texts ------------------------------------------------------------------------------------


def _texts(lanes: Sequence[Lane]) -> list[str]:
    found = [m.text for lane in lanes for m in lane.marks]
    return found + [f"{lane.label}: undefined" for lane in lanes if lane.undefined]


def _marks(groups: Sequence[Group]) -> list[Mark]:
    return [m for _, lanes in groups for lane in lanes for m in lane.marks]


def _key(groups: Sequence[Group]) -> tuple[tuple[str, str], ...]:
    """Legend entries of a chart; marks that a lane's label already names need none."""
    found = _marks(groups)
    kinds = {m.kind for m in found}
    reported = [kind for kind in ("ours reported", "other") if kind in kinds]
    key: list[tuple[str, str]] = [(kind, KEY[kind]) for kind in reported]
    if reported and "ours" in kinds:
        key.insert(0, ("ours", KEY["ours"]))
    if any(m.seeds for m in found):
        key.append(("ours seed", KEY["seed"]))
    if any(m.bounds is not None and not m.single for m in found):
        key.append(("whisker ours", KEY["whisker"]))
    if any(m.single for m in found):
        key.append(("whisker ours", KEY["single"]))
    return tuple(key)


def _title(groups: Sequence[Group], of: int) -> str:
    """Title: the metric if the chart shows all columns and they share it, else the columns."""
    names = _metrics([column for column, _ in groups])
    if len(groups) < of:
        return ", ".join(column.heading for column, _ in groups)
    return names[0] if len(names) == 1 else "scores"


def _metrics(columns: Sequence[Column]) -> list[str]:
    return list(dict.fromkeys(_metric(column) for column in columns if column.heading != AVERAGE))


def _metric(column: Column) -> str:
    labels = [METRICS[name].label for name in column.metrics]
    return labels[0] if len(labels) == 1 else f"mean of {' and '.join(labels)}"


def _unit(columns: Sequence[Column]) -> str:
    """Axis title: the unit, and which direction is better."""
    names = _metrics(columns)
    better = "higher is better" if columns[0].higher_is_better else "lower is better"
    if len(names) == 1 and METRICS[columns[0].metrics[0]].unit == "%":
        return f"{names[0]} in %, {better}"
    return f"score (% or ×100), {better}"
