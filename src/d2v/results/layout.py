"""Arrange a table's cells into the document that is shown.

Miniature experiments show data2vec and from scratch first. The paper's values follow in a separate
section, because they are at another scale. At paper scale, every reproduced row stands under the
reported row of the same name, with the gap.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from d2v.evaluation.metrics import METRICS
from d2v.params.data import Official
from d2v.results import probes
from d2v.results.cells import (
    AVERAGE,
    INPUT,
    OURS,
    RELEASED,
    SCRATCH,
    Cell,
    Column,
    Difference,
    Gain,
    Gap,
    Table,
    reported_row,
)
from d2v.results.grid import Document, Entry, Grid, Head, Row, Section
from d2v.results.protocol import NONE, PARTIAL, footnotes, joined, partial_notes, protocol, units
from d2v.results.wording import TITLES, number

UNDEFINED = "undefined"
ONE_PRETRAINING = (
    "All seeds of a row start from one pre-training: the intervals tell how another fine-tuning"
    " would differ, not how another pre-training would."
)
WIDE = 8  # columns of further metrics that fit side by side


def document(table: Table) -> Document:
    """Document of a table: measured and reported rows, gains, protocol and missing runs."""
    apart = table.experiment.scale != "paper"
    parts = [_scores(table) if apart else _together(table)]
    if notes := partial_notes(table):
        parts.append(Section("", [], None, notes))
    if points := gains(table):
        points += [ONE_PRETRAINING] * on_one_pretraining(table)
        parts.append(Section("", ["**Differences** with their 95 % intervals:"], None, points))
    if not apart and (notes := footnotes(table)):
        parts.append(Section("", [], None, notes))
    if further := _further(table):
        parts.append(further)
    if probed := probes.section(table):
        parts.append(probed)
    parts.append(Section("Protocol", points=protocol(table)))
    if table.missing:
        parts.append(Section("Missing runs", points=table.missing))
    if apart:
        parts.append(_reported_apart(table))
    return Document(table.name, title(table), _subtitle(table), parts)


def label(row: str) -> str:
    """Displayed name of a measured row."""
    return row if row == SCRATCH or RELEASED in row else f"{row} (this run)"


def measured(table: Table, columns: list[Column]) -> Grid:
    """Grid of the measured rows, followed by their differences."""
    rows = [_measured_row(table, row, [*columns], label(row)) for row in table.rows]
    rows = _marked(rows, [_direction(c) for c in columns])
    rows += [_difference(table, row, other, columns) for row, other in table.pairs]
    return Grid([_head(c) for c in columns], rows)


def _difference(table: Table, row: str, other: str, columns: Sequence[Column | None]) -> Row:
    """Row of the differences of two measured rows."""
    gains = [
        table.gain(c, other, row) if c and table.compares(row, other, c) else None for c in columns
    ]
    entries = [
        Entry(signed(g), _number(g.value), verdict=g.short) if g else Entry("") for g in gains
    ]
    name = "difference" if len(table.pairs) == 1 else f"{row} − {other}"
    return Row("difference", name, entries)


def scores(table: Table) -> list[Column]:
    """The table's headline columns."""
    return [c for c in table.columns if c.headline]


def gains(table: Table) -> list[str]:
    """One sentence per score and pair of rows: the difference, its interval and the verdict."""
    names = "{} − {}: " if len(table.pairs) > 1 else ""
    return [
        f"{names.format(row, other)}{g.column.heading}: {signed(g)}, **{g.verdict}**"
        for row, other, g in _gains(table)
    ]


def on_one_pretraining(table: Table) -> bool:
    """Whether a row of several seeds that is compared starts from one pre-training."""
    return any(gain.single for _, _, gain in _gains(table))


def _gains(table: Table) -> list[tuple[str, str, Gain]]:
    """Compared rows, and their differences in each score that both have."""
    return [
        (row, other, table.gain(c, other, row))
        for row, other in table.pairs
        for c in scores(table)
        if table.compares(row, other, c)
    ]


# --- sections ---------------------------------------------------------------------------------


def _scores(table: Table) -> Section:
    return Section("", _opening(table), measured(table, scores(table)))


def _together(table: Table) -> Section:
    """Reported rows, each followed by the reproduced row of the same name and its gap."""
    found = {c.heading: c for c in scores(table)}
    reported = reported_grid(table)
    printed = {head.heading: head for head in reported.heads}
    heads = [_head(found[h]) if h in found else printed[h] for h in printed]
    heads += [_head(c) for h, c in found.items() if h not in printed]
    rows, left = [], list(table.rows)
    for row in reported.rows:
        blank = [Entry("")] * (len(heads) - len(row.entries)) if row.kind == "reported" else []
        rows.append(replace(row, entries=[*row.entries, *blank]))
        for mine in [name for name in left if reported_row(name, table.name) == row.name]:
            left.remove(mine)
            rows += _reproduced(table, mine, heads, found)
    for mine in left:
        rows += _reproduced(table, mine, heads, found)
    if INPUT in table.rows:
        columns = [found.get(head.heading) for head in heads]
        rows += [_difference(table, row, other, columns) for row, other in table.pairs]
    rows = _marked(rows, [head.direction for head in heads])
    return Section("", [*_opening(table), units(table)], Grid(heads, rows, reported.setup))


def _further(table: Table) -> Section | None:
    columns = [c for c in table.columns if not c.headline]
    if not columns:
        return None
    grid = _listed(table, columns) if len(columns) > WIDE else measured(table, columns)
    return Section("Further metrics of the same runs", [], grid)


def _reported_apart(table: Table) -> Section:
    number, _, sets = TITLES[table.name]
    warning = f"**Another scale**: full-size models on {sets}; not comparable with the rows above."
    grid = reported_grid(table)
    rows = _marked(grid.rows, [head.direction for head in grid.heads])
    return Section(
        f"Reported by the paper ({number})",
        [warning, units(table)],
        replace(grid, rows=rows),
        footnotes(table),
    )


def reported_grid(table: Table) -> Grid:
    """The paper's table: groups, and methods with their values as printed."""
    frame = table.reported
    metrics = dict(zip(frame["column"], frame["metric"], strict=True))
    setup = "pre-training data, LM" if frame["setup"].any() else ""
    rows = []
    groups: dict[str, dict[str, list[dict[Any, Any]]]] = {}
    for line in frame.to_dict("records"):
        groups.setdefault(line["group"], {}).setdefault(line["method"], []).append(line)
    for group, methods in groups.items():
        if group:
            rows.append(Row("group", group))
        for method, lines in methods.items():
            found = {line["column"]: line for line in lines}
            entries = [_printed(found.get(column)) for column in metrics]
            rows.append(Row("reported", method, entries, lines[0]["setup"], lines[0]["citation"]))
    return Grid([_printed_head(c, metric) for c, metric in metrics.items()], rows, setup)


def _listed(table: Table, columns: list[Column]) -> Grid:
    """Grid of many further metrics: one line per row and heading, one column per metric."""
    heads = list(dict.fromkeys(replace(_head(c), heading="") for c in columns))
    rows = []
    for row in table.rows:
        for heading in dict.fromkeys(c.heading for c in columns):
            mine = {replace(_head(c), heading=""): c for c in columns if c.heading == heading}
            if any(table.cells[row, c].planned for c in mine.values()):
                found = [mine.get(head) for head in heads]
                line = _measured_row(table, row, found, label(row))
                rows.append(replace(line, setup=heading))
    return Grid(heads, rows, "task")


# --- rows -------------------------------------------------------------------------------------


def _reproduced(table: Table, row: str, heads: list[Head], found: dict[str, Column]) -> list[Row]:
    """A measured row, followed by its gap to the reported row if there is one."""
    columns = [found.get(head.heading) for head in heads]
    stands_in = any(
        t.stand_in for t in table.tasks.values() if (t.row or OURS) == reported_row(row, table.name)
    )
    rows = [_measured_row(table, row, columns, label(row) + " †" * stands_in)]
    gaps = [table.gap(row, c) if c else None for c in columns]
    if any(gaps):
        rows.append(Row("difference", "gap to the reported", [_gap_entry(g) for g in gaps]))
    return rows


def _gap_entry(gap: Gap | None) -> Entry:
    if gap is None:
        return Entry("")
    mark = f" {PARTIAL}" * gap.partial
    return Entry(f"{signed(gap)} ({gap.verdict}){mark}", _number(gap.value), verdict=gap.verdict)


def _measured_row(table: Table, row: str, columns: Iterable[Column | None], name: str) -> Row:
    entries = [_entry(table.cells[row, c]) if c else Entry("") for c in columns]
    return Row("measured", name, entries)


def _marked(rows: list[Row], directions: list[Literal["↑", "↓", ""]]) -> list[Row]:
    """Rows with the best value of each column marked, within each group of two or more values."""
    starts = [i for i, row in enumerate(rows) if row.kind == "group"]
    bounds = sorted({0, *starts, len(rows)})
    marked = []
    for start, end in itertools.pairwise(bounds):
        block = rows[start:end]
        best = [_best(block, column, directions[column]) for column in range(len(directions))]
        for row in block:
            entries = [
                replace(entry, best=_is_best(entry, best[column]))
                for column, entry in enumerate(row.entries)
            ]
            marked.append(replace(row, entries=entries) if row.kind != "difference" else row)
    return marked


def _is_best(entry: Entry, best: float | None) -> bool:
    return best is not None and entry.value == best and not entry.apart


def _best(rows: list[Row], column: int, direction: str) -> float | None:
    """Best value of a column; None with fewer than two values or with an undefined one."""
    kinds = ("reported", "measured")
    entries = [row.entries[column] for row in rows if row.kind in kinds]
    values = [entry.value for entry in entries if entry.value is not None and not entry.apart]
    undefined = any(entry.verdict == UNDEFINED for entry in entries)
    if len(values) < 2 or undefined or not direction:
        return None
    return max(values) if direction == "↑" else min(values)


# --- cells ------------------------------------------------------------------------------------


def _entry(cell: Cell) -> Entry:
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


def _printed(line: dict[Any, Any] | None) -> Entry:
    """A reported value with the digits that the paper prints."""
    if line is None or not line["value"]:
        return Entry(NONE)
    hover = ". ".join(filter(None, (line["source"], line["note"])))
    return Entry(line["value"], float(line["value"]), hover=hover)


def _printed_head(column: str, metric: str) -> Head:
    """Column head with the direction of its metric in reported.csv; `units` explains the unit."""
    return Head(column, "", "↓" if "wer" in metric else "↑")


def _head(column: Column) -> Head:
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


def signed(gain: Difference) -> str:
    """A difference with its 95 % interval."""
    if math.isnan(gain.value):
        return NONE
    text = number(gain.value, "+.1f")
    if math.isnan(gain.half):
        return text
    low, high = (number(bound, "+.1f") for bound in gain.found.bounds)
    return f"{text} [{low}, {high}]"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


# --- words ------------------------------------------------------------------------------------


def title(table: Table) -> str:
    """Title of a table: what is measured, and on which data set."""
    _, what, _ = TITLES[table.name]
    return f"{what[0].upper()}{what[1:]}: {_sets(table)}"


def _sets(table: Table) -> str:
    """What a table measures on: the paper's set, or the sets of an experiment with other data."""
    experiment = table.experiment
    groups = {task.data: experiment.group_of(task.data) for task in table.tasks.values()}
    official = all(isinstance(group, Official) for group in groups.values())
    if experiment.scale == "paper" and official:
        return TITLES[table.name][2]
    words = [getattr(group, "heading", name) for name, group in groups.items()]
    return joined(list(dict.fromkeys(words)))


def _subtitle(table: Table) -> str:
    return f"{table.experiment.title}, in the shape of the paper's {TITLES[table.name][0]}."


def _opening(table: Table) -> list[str]:
    notes = [f"**{t.column}**: {t.note}" for t in table.tasks.values() if t.note]
    notes = list(dict.fromkeys(notes))
    split = "splits as under Protocol" if table.experiment.scale == "paper" else "test split"
    text = f"Mean ± standard error over n fine-tuning seeds, {split}. ↑ higher, ↓ lower is better."
    if any(cell.interval for cell in table.cells.values()):
        text += " [low, high]: 95 % interval over the examples of a single run (bootstrap)."
    text += " Bold: best mean of its block and column."
    return [text, *notes]
