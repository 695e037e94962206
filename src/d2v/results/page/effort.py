"""Two charts of what a score takes: the number of labels, and the operations of training."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from d2v.experiment.folders import meta_path
from d2v.experiment.run import Run
from d2v.experiment.task_runs import DecodeRun
from d2v.params import Experiment, Finetune
from d2v.results.cells import AVERAGE, INPUT, SCRATCH, Column, Table
from d2v.results.entries import metric_of
from d2v.results.page import svg
from d2v.results.page.marks import Mark, marked, spanned, upright
from d2v.results.page.records import Record
from d2v.results.page.svg import WIDTH, Chart, Scale, fitted
from d2v.results.wording import number
from d2v.util.files import read_json

LISTED = re.compile(r"labels-(\d+)\.\{seed\}")  # name of a list of so many labelled examples
LEFT, RIGHT, TOP, BOTTOM = 44, WIDTH - 24, 12, 196
APART = 5  # pixels between rows that lie at one place
HUES = {SCRATCH: "scratch", INPUT: "hue1 dot"}
ROUND = (1, 2, 5)


@dataclass(frozen=True)
class Spent:
    """What a row's runs took on average: pre-training and fine-tuning of one seed."""

    pflop: float  # counted from the model, as by `d2v plan`
    seconds: float  # measured time of training


@dataclass(frozen=True)
class Point:
    """A row's score at a place of the horizontal axis."""

    row: str
    at: float
    mark: Mark


def by_labels(table: Table) -> list[Chart]:
    """One chart per group of tasks that differ in the number of labels only."""
    groups: dict[tuple[str, ...], dict[int, Column]] = {}
    for task in table.tasks.values():
        count, column = labels_of(task, table.experiment), _column(table, task)
        if count is not None and column is not None:
            key = (task.data, task.pretrain, task.test_split, task.row, str(task.task))
            groups.setdefault(key, {})[count] = column
    return [
        _by_labels(table, key[:2], dict(sorted(group.items())), points)
        for key, group in groups.items()
        if len(group) > 1 and (points := _labelled(table, group))
    ]


def labels_of(task: Finetune, experiment: Experiment) -> int | None:
    """How many labelled examples a task uses; None for other lists, or if that is not recorded."""
    if task.labels is None:
        splits = (read_json(meta_path(experiment, task.data)) or {}).get("splits", {})
        count: int | None = splits.get(task.train_split, {}).get("examples")
        return count
    found = LISTED.fullmatch(task.labels)
    return int(found[1]) if found else None


def by_cost(table: Table, spent: Mapping[str, Spent]) -> list[Chart]:
    """One chart per score, for scores with two rows or more; `spent` by run (see `spending`)."""
    charts = []
    for column in table.columns:
        if not column.headline or column.heading == AVERAGE:
            continue
        points = []
        for row in table.rows:
            cell = table.cells[row, column]
            runs = [spent[run] for run in cell.runs if run in spent]
            if runs and math.isfinite(cell.value) and fmean(s.pflop for s in runs) > 0:
                at, took = fmean(s.pflop for s in runs), fmean(s.seconds for s in runs)
                name = f"{row}, {number(at, '.3g')} PFLOP, {number(took, '.0f')} s"
                points.append(Point(row, at, marked(_hue(row), cell, name)))
        if len(points) > 1:
            charts.append(_by_cost(table, column, points))
    return charts


def spending(found: Sequence[Record], operations: Mapping[str, float]) -> dict[str, Spent]:
    """What each finished run took, with the runs that it builds on; `operations` in PFLOP."""
    seconds = {r.run.id: float(r.content.get("train_s") or 0.0) for r in found if r.finished}
    spent = {}
    for record in found:
        if record.finished:
            runs = [run.id for run in _chain(record.run)]
            spent[record.run.id] = Spent(
                sum(operations.get(run, 0.0) for run in runs),
                sum(seconds.get(run, 0.0) for run in runs),
            )
    return spent


def _chain(run: Run) -> Iterable[Run]:
    """The run and those that it builds on: its fine-tuning, its pre-training, an earlier one."""
    yield run
    before = run.finetuning if isinstance(run, DecodeRun) else run.source
    if before is not None:
        yield from _chain(before)


def _labelled(table: Table, group: Mapping[int, Column]) -> list[Point]:
    return [
        Point(row, count, marked(_hue(row), cell, f"{row}, {count} labels"))
        for row in table.rows
        for count, column in sorted(group.items())
        if math.isfinite((cell := table.cells[row, column]).value)
    ]


def _by_labels(
    table: Table, names: Sequence[str], group: dict[int, Column], points: list[Point]
) -> Chart:
    """`names` are those of the data and of the pre-training."""
    first = next(iter(group.values()))
    title = f"{names[0].replace('_', ' ')}: {metric_of(first).split(', ')[0]} by number of labels"
    note = "Mean over seeds, with 95 % intervals; every list of labels belongs to one seed."
    place = "-".join([table.name, *map(svg.slug, names), "by-labels"])
    return _chart(place, title, "labelled examples", points, [*group], note)


def _by_cost(table: Table, column: Column, points: list[Point]) -> Chart:
    note = (
        "Operations of pre-training and fine-tuning of one seed, counted from the model; hover over"
        " a mark for the measured seconds. Evaluation and trials of settings are not included."
    )
    title = f"{column.heading}: {metric_of(column).split(', ')[0]} by cost"
    place = f"{table.name}-{svg.slug(column.heading)}-by-cost"
    ends = [point.at for point in points]
    return _chart(place, title, "PFLOP of training", points, _round(min(ends), max(ends)), note)


def _round(low: float, high: float) -> list[float]:
    """Values 1, 2, 5 times a power of ten within a range, only the powers for a wide one."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [k * 10.0**p for p in powers for k in ROUND if low <= k * 10.0**p <= high]
    if len(found) > 6:
        found = [10.0**p for p in powers if low <= 10.0**p <= high]
    return found or [low]


def _chart(
    place: str, title: str, axis: str, points: list[Point], ticks: Sequence[float], note: str
) -> Chart:
    """Scores over a logarithmic axis; the points of a row are joined."""
    ends = [math.log10(point.at) for point in points]
    room = 0.05 * (max(ends) - min(ends)) or 0.1
    across = Scale(min(ends) - room, max(ends) + room, LEFT, RIGHT)
    up = fitted([v for point in points for v in spanned(point.mark)], BOTTOM, TOP)
    parts = svg.beside(up, LEFT, WIDTH - 12)
    for tick in ticks:
        x = across(math.log10(tick))
        parts += [svg.line(x, TOP, x, BOTTOM, "grid")]
        parts += [svg.words(x, BOTTOM + 14, number(tick), "middle")]
    parts.append(svg.words((LEFT + RIGHT) / 2, BOTTOM + 30, axis, "middle"))
    rows = list(dict.fromkeys(point.row for point in points))
    for place_of, row in enumerate(rows):
        shift = APART * (place_of - (len(rows) - 1) / 2)
        mine = [point for point in points if point.row == row]
        xs = [across(math.log10(point.at)) + shift for point in mine]
        joined = [(x, up(point.mark.value)) for x, point in zip(xs, mine, strict=True)]
        parts.append(svg.path(joined, _hue(row).split()[0]))
        for x, point in zip(xs, mine, strict=True):
            parts += upright(point.mark, up, x)
    label = f"{title}. {'. '.join(point.mark.text for point in points)}."
    key = tuple((_hue(row), row) for row in rows)
    return Chart(place, title, svg.drawing(WIDTH, BOTTOM + 36, label, parts), note, key)


def _column(table: Table, task: Finetune) -> Column | None:
    """The column of a task's score."""
    return next((c for c in table.columns if c.headline and c.heading == task.column), None)


def _hue(row: str) -> str:
    return HUES.get(row, "ours")
