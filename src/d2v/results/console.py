"""A table as text for a terminal."""

from dataclasses import replace

from d2v.results.cells import Table
from d2v.results.columns import aligned
from d2v.results.grid import Grid
from d2v.results.layout import WIDE, document, gains
from d2v.results.protocol import partial_notes
from d2v.results.rows import measured, reported_grid, scores

PAPER = "arXiv:2202.03555"  # how sources of data2vec's own values begin in reported.csv


def console(table: Table) -> str:
    """Text of a table: measured rows, gains, missing runs, and the paper's data2vec values."""
    shown = document(table)
    lines = [shown.title, "=" * len(shown.title), shown.subtitle]
    lines += _aligned(measured(table, scores(table)))
    lines += [f"  {note}" for note in partial_notes(table)]
    if len(table.pairs) == 1:  # else the rows of differences, and the words after all tables
        lines += [f"  gain · {line}".replace("**", "") for line in gains(table)]
    further = [c for c in table.columns if not c.headline]
    if 0 < len(further) <= WIDE:
        grid = measured(table, further)
        rows = [row for row in grid.rows if row.kind != "difference"]
        lines += ["", "further metrics of the same runs", *_aligned(replace(grid, rows=rows))]
    lines += [f"  missing · {run}" for run in table.missing]
    scale = " (another scale)" if table.experiment.scale != "paper" else ""
    ours = table.reported["source"].str.startswith(PAPER)
    reported = reported_grid(replace(table, reported=table.reported[ours]))
    for row in reported.rows:
        if row.name.startswith("data2vec"):
            pairs = zip(reported.heads, row.entries, strict=True)
            values = ", ".join(f"{head.heading} {entry.text}" for head, entry in pairs)
            lines.append(f"reported by the paper{scale}: {row.name}: {values}")
    return "\n".join(lines)


def _aligned(grid: Grid) -> list[str]:
    """Lines of a grid in aligned columns, with headings above their metrics."""
    rows = [["", *(head.heading for head in grid.heads)], ["", *(h.metric for h in grid.heads)]]
    rows += [[row.name, *(entry.text for entry in row.entries)] for row in grid.rows]
    return aligned(rows)
