"""The paper's Table 2 as curves: word error rate against the amount of labelled speech."""

import math
import re
from itertools import pairwise

from d2v.results.cells import Cell, Table
from d2v.results.page import svg
from d2v.results.page.marks import marked, spanned, upright
from d2v.results.page.svg import WIDTH, Chart, Scale, fitted, mark, words
from d2v.results.rows import reported_grid, scores
from d2v.results.wording import TITLES, number

AMOUNT = re.compile(r"^\d+ (min|h)$")  # amount of labelled speech, as in the paper's column heads
SIZES = ("Base", "Large")
# each method keeps its hue in all charts; each model size has its own shade and marker
HUES = {"data2vec": "ours", "wav2vec 2.0": "hue1", "HuBERT": "hue2", "WavLM": "hue3"}


def by_amount(table: Table) -> list[Chart]:
    """One chart per model size, all on one scale; empty for a table without amounts."""
    amounts = [c for c in dict.fromkeys(table.reported["column"]) if AMOUNT.match(c)]
    if not amounts:
        return []
    grid = reported_grid(table)
    at = [i for i, head in enumerate(grid.heads) if head.heading in amounts]
    lines = {
        row.name: [row.entries[i].value for i in at] for row in grid.rows if row.kind == "reported"
    }
    own = {c.heading: c for c in scores(table) if c.heading in amounts}
    cells = {
        row: [table.cells[row, own[a]] if a in own else None for a in amounts] for row in table.rows
    }
    values = [v for line in lines.values() for v in line if v is not None]
    values += [v for row in cells.values() for c in row if c for v in spanned(marked("", c))]
    scale = fitted(values, 196, 22, zero=True)
    return [
        _amounts(
            table,
            size,
            amounts,
            scale,
            {name: line for name, line in lines.items() if name.endswith(size)},
            {name: row for name, row in cells.items() if size in name},
        )
        for size in SIZES
    ]


def _amounts(
    table: Table,
    size: str,
    amounts: list[str],
    scale: Scale,
    lines: dict[str, list[float | None]],
    cells: dict[str, list[Cell | None]],
) -> Chart:
    across = Scale(0, len(amounts) - 1, 48, WIDTH - 24)
    large = " large" * (size == "Large")
    parts = svg.beside(scale, 34, WIDTH - 4)
    parts += [words(across(i), 212, amount, "middle") for i, amount in enumerate(amounts)]
    parts.append(words(WIDTH / 2, 230, "labelled speech", "middle"))
    told, key = [], []
    for name, values in lines.items():
        method = name.removesuffix(f" {size}")
        hue = HUES.get(method, "other") + large
        found = [(across(i), scale(v)) for i, v in enumerate(values) if v is not None]
        parts += [svg.path(pair, hue) for pair in pairwise(found)]
        texts = [f"{a} {number(v)}" for a, v in zip(amounts, values, strict=True) if v is not None]
        parts += [
            mark(f"{hue} dot reported", x, y, f"{name}, reported: {text}")
            for (x, y), text in zip(found, texts, strict=True)
        ]
        told.append(f"{name}, reported: {', '.join(texts)}")
        key.append((f"{hue} dot reported", f"{method}, reported"))
    for name, row in cells.items():
        for place, cell in enumerate(row):
            if cell is not None and not math.isnan(cell.value):
                made = marked("ours" + large, cell, f"{name}, this run, {amounts[place]}")
                parts += upright(made, scale, across(place))
                told.append(made.text)
                key.append((made.kind, "data2vec, this run"))
    title = f"{size} models: WER by amount of labels"
    unit = "WER in %, lower is better"
    parts.append(words(0, 10, unit))
    label = f"{title}; {unit}. {'. '.join(told)}."
    note = f"Reported on {TITLES[table.name][2]}."
    return Chart(
        f"{table.name}-by-amount-{size}",
        title,
        svg.drawing(WIDTH, 236, label, parts),
        note,
        tuple(dict.fromkeys(key)),
    )
