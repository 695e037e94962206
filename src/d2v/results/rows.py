"""Rows of a results table: measured and reported ones, and the differences between them."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from d2v.results import entries
from d2v.results.cells import INPUT, OURS, RELEASED, SCRATCH, Column, Table, reported_row
from d2v.results.grid import Entry, Grid, Head, Row


def label(row: str) -> str:
    """Displayed name of a measured row."""
    return row if row == SCRATCH or RELEASED in row else f"{row} (this run)"


def scores(table: Table) -> list[Column]:
    """The table's headline columns."""
    return [c for c in table.columns if c.headline]


def measured(table: Table, columns: list[Column]) -> Grid:
    """Grid of the measured rows, followed by their differences."""
    rows = [_measured_row(table, row, [*columns], label(row)) for row in table.rows]
    grid = marked(Grid([entries.head(c) for c in columns], rows))
    gains = [_difference(table, row, other, columns) for row, other in table.pairs]
    return replace(grid, rows=[*grid.rows, *gains])


def _difference(table: Table, row: str, other: str, columns: Sequence[Column | None]) -> Row:
    """Row of the differences of two measured rows."""
    gains = [
        table.gain(c, other, row) if c and table.compares(row, other, c) else None for c in columns
    ]
    name = "difference" if len(table.pairs) == 1 else f"{row} − {other}"
    return Row("difference", name, [entries.gain(g) for g in gains])


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
            values = [entries.printed(found.get(column)) for column in metrics]
            rows.append(Row("reported", method, values, lines[0]["setup"], lines[0]["citation"]))
    return Grid([entries.printed_head(c, metric) for c, metric in metrics.items()], rows, setup)


def together(table: Table) -> Grid:
    """Reported rows, each followed by the reproduced row of the same name and its gap."""
    found = {c.heading: c for c in scores(table)}
    reported = reported_grid(table)
    printed = {head.heading: head for head in reported.heads}
    heads = [entries.head(found[h]) if h in found else printed[h] for h in printed]
    heads += [entries.head(c) for h, c in found.items() if h not in printed]
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
    return marked(Grid(heads, rows, reported.setup))


def listed(table: Table, columns: list[Column]) -> Grid:
    """Grid of many further metrics: one line per row and heading, one column per metric."""
    heads = list(dict.fromkeys(replace(entries.head(c), heading="") for c in columns))
    rows = []
    for row in table.rows:
        for heading in dict.fromkeys(c.heading for c in columns):
            mine = {
                replace(entries.head(c), heading=""): c for c in columns if c.heading == heading
            }
            if any(table.cells[row, c].planned for c in mine.values()):
                found = [mine.get(head) for head in heads]
                line = _measured_row(table, row, found, label(row))
                rows.append(replace(line, setup=heading))
    return Grid(heads, rows, "task")


def _reproduced(table: Table, row: str, heads: list[Head], found: dict[str, Column]) -> list[Row]:
    """A measured row, followed by its gap to the reported row if there is one."""
    columns = [found.get(head.heading) for head in heads]
    stands_in = any(
        t.stand_in for t in table.tasks.values() if (t.row or OURS) == reported_row(row, table.name)
    )
    rows = [_measured_row(table, row, columns, label(row) + " †" * stands_in)]
    gaps = [table.gap(row, c) if c else None for c in columns]
    if any(gaps):
        rows.append(Row("difference", "gap to the reported", [entries.gap(g) for g in gaps]))
    return rows


def _measured_row(table: Table, row: str, columns: Iterable[Column | None], name: str) -> Row:
    cells = [entries.measured(table.cells[row, c]) if c else Entry("") for c in columns]
    return Row("measured", name, cells)


def marked(grid: Grid) -> Grid:
    """The grid with the best value of each column marked, in each group of two or more values."""
    starts = [i for i, row in enumerate(grid.rows) if row.kind == "group"]
    bounds = sorted({0, *starts, len(grid.rows)})
    rows = []
    for start, end in itertools.pairwise(bounds):
        block = grid.rows[start:end]
        best = [_best(block, column, head.direction) for column, head in enumerate(grid.heads)]
        for row in block:
            cells = [
                replace(entry, best=_is_best(entry, best[column]))
                for column, entry in enumerate(row.entries)
            ]
            rows.append(replace(row, entries=cells) if row.kind != "difference" else row)
    return replace(grid, rows=rows)


def _is_best(entry: Entry, best: float | None) -> bool:
    return best is not None and entry.value == best and not entry.apart


def _best(rows: list[Row], column: int, direction: str) -> float | None:
    """Best value of a column; None with fewer than two values or with an undefined one."""
    kinds = ("reported", "measured")
    cells = [row.entries[column] for row in rows if row.kind in kinds]
    values = [entry.value for entry in cells if entry.value is not None and not entry.apart]
    undefined = any(entry.verdict == entries.UNDEFINED for entry in cells)
    if len(values) < 2 or undefined or not direction:
        return None
    return max(values) if direction == "↑" else min(values)
