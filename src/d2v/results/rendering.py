"""Tables as Markdown and as plain text.

Miniature: data2vec and from scratch, then what the paper reports, set apart, as it is at another
scale. Paper scale: every reproduced row under the reported one of the same name, with the gap.
"""

import math

from d2v.metrics import METRICS
from d2v.results.cells import (
    AVERAGE,
    OURS,
    RELEASED,
    SCRATCH,
    Cell,
    Column,
    Gain,
    Gap,
    Table,
    reported_row,
)
from d2v.results.protocol import NONE, footnotes, joined, protocol, units
from d2v.results.wording import MINIATURE, TITLES

WIDE = 8  # columns of further metrics that fit beside each other


def markdown(table: Table) -> str:
    """The whole page of a table: measured and reported rows, protocol, gaps in the runs."""
    scores, further = _columns(table)
    apart = table.experiment.scale == "miniature"
    parts = [f"# {_title(table)}", _opening(table)]
    if apart:
        parts += [_markdown_grid(_measured(table, scores, "<br>"))]
    else:
        parts += [units(table), _markdown_grid(_beside(table), 1 + _has_setup(table))]
    if gains := _gains(table):
        lines = ["**Gain** (data2vec − from scratch):", "", *(f"- {g}" for g in gains)]
        parts += ["\n".join(lines)]
    if not apart:
        parts += footnotes(table)
    if further:
        parts += ["Further metrics of the same runs:"]
        long = len(further) > WIDE
        grid = _listed(table, further) if long else _measured(table, further, "<br>")
        parts += [_markdown_grid(grid, 1 + long)]
    parts += ["## Protocol", "\n".join(f"- {line}" for line in protocol(table))]
    if table.gaps:
        parts += ["## Gaps", "\n".join(f"- {gap}" for gap in table.gaps)]
    if apart:
        number, _, sets = TITLES[table.name]
        parts += [
            f"## Reported by the paper ({number})",
            f"**Another scale**: full-size models on {sets}; not comparable with the rows above.",
            units(table),
            _markdown_grid(_reported(table), 1 + _has_setup(table)),
            *footnotes(table),
        ]
    return "\n\n".join(parts) + "\n"


def console(table: Table) -> str:
    """Measured rows, differences, gaps, and the paper's data2vec values, for a terminal."""
    scores, further = _columns(table)
    title = _title(table)
    lines = [title, "=" * len(title), *_plain_grid(table, scores)]
    lines += [f"  gain · {gain}".replace("**", "") for gain in _gains(table)]
    if 0 < len(further) <= WIDE:
        lines += ["", "further metrics of the same runs", *_plain_grid(table, further)]
    lines += [f"  gap · {gap}" for gap in table.gaps]
    scale = " (another scale)" if table.experiment.scale == "miniature" else ""
    for method, cells in _values(table).items():
        if method.startswith("data2vec"):
            values = ", ".join(f"{column} {value}" for column, value in cells.items())
            lines.append(f"reported by the paper{scale}: {method}: {values}")
    return "\n".join(lines)


def label(row: str) -> str:
    """Name of a measured row as it is shown."""
    return row if row == SCRATCH or RELEASED in row else f"{row} (this run)"


def _columns(table: Table) -> tuple[list[Column], list[Column]]:
    """Scores, and further metrics."""
    scores = [c for c in table.columns if c.headline]
    return scores, [c for c in table.columns if not c.headline]


def _title(table: Table) -> str:
    number, what, _ = TITLES[table.name]
    small = f" – {MINIATURE[table.name]}" if table.experiment.scale == "miniature" else ""
    return f"{table.experiment.title}: {what}{small} (in the shape of the paper's {number})"


def _opening(table: Table) -> str:
    notes = [f"**{t.column}**: {t.note}" for t in table.tasks.values() if t.note]
    split = "test split" if table.experiment.scale == "miniature" else "splits as under Protocol"
    text = f"Mean ± standard error over n fine-tuning seeds, {split}. ↑ higher, ↓ lower is better."
    return "\n\n".join([text, *notes])


def _label(column: Column) -> str:
    """Metric, decoding, unit and direction of a column."""
    arrow = "↑" if column.higher_is_better else "↓"
    if column.heading == AVERAGE:
        return f"mean over tasks {arrow}"
    metrics = [METRICS[name] for name in column.metrics]
    labels = [metric.label for metric in metrics]
    name = labels[0] if len(labels) == 1 else f"mean of {joined(labels)}"
    if column.decoding and metrics[0].column == "prediction":
        name = f"{name}, {column.decoding}"
    return f"{name}, {metrics[0].unit} {arrow}"


def _measured(table: Table, columns: list[Column], joint: str) -> list[list[str]]:
    """Header and measured rows, then the difference to the row from scratch, as text."""
    header = [f"{c.heading}{joint}{_label(c)}" for c in columns]
    rows = [[label(row), *(_cell(table.cells[row, c]) for c in columns)] for row in table.rows]
    if {SCRATCH, OURS} <= set(table.rows):
        rows.append(["difference", *(_signed(table.gain(c)) for c in columns)])
    return [["", *header], *rows]


def _listed(table: Table, columns: list[Column]) -> list[list[str]]:
    """Many further metrics: a line for each row and heading, a column for each metric."""
    labels = list(dict.fromkeys(map(_label, columns)))
    grid = [["", "", *labels]]
    for row in table.rows:
        for heading in dict.fromkeys(c.heading for c in columns):
            found = {_label(c): table.cells[row, c] for c in columns if c.heading == heading}
            if any(cell.planned for cell in found.values()):
                cells = [_cell(found[text]) if text in found else "" for text in labels]
                grid.append([label(row), heading, *cells])
    return grid


def _beside(table: Table) -> list[list[str]]:
    """Reported rows, each reproduced one and its gap under the reported one of the same name."""
    scores = {c.heading: c for c in table.columns if c.headline}
    header, *rows = _reported(table)
    first = 1 + _has_setup(table)
    headings = [*header[first:], *(h for h in scores if h not in header[first:])]
    shown = [f"{h}<br>{_label(scores[h])}" if h in scores else h for h in headings]
    grid = [[*header[:first], *shown]]
    left = list(table.rows)
    for printed in rows:
        grid.append([*printed, *[""] * (len(grid[0]) - len(printed))])
        for row in [row for row in left if reported_row(row) == printed[0]]:
            left.remove(row)
            grid += _reproduced(table, row, headings, scores, first)
    for row in left:
        grid += _reproduced(table, row, headings, scores, first)
    return grid


def _reproduced(
    table: Table, row: str, headings: list[str], scores: dict[str, Column], first: int
) -> list[list[str]]:
    """A measured row, and its gap to the reported one where there is one."""
    columns = [scores.get(h) for h in headings]
    stands_in = any(
        t.stand_in for t in table.tasks.values() if (t.row or OURS) == reported_row(row)
    )
    name = f"**{label(row)}**" + " †" * stands_in
    blank = [""] * (first - 1)
    cells = [_cell(table.cells[row, c]) if c else "" for c in columns]
    gaps = [table.gap(row, c) if c else None for c in columns]
    found = [[name, *blank, *cells]]
    if any(gaps):
        texts = [f"{_signed(g)} ({g.verdict})" if g else "" for g in gaps]
        found.append(["gap to the reported", *blank, *texts])
    return found


def _cell(cell: Cell) -> str:
    """`77.9 ± 0.3 (n=3)`; the number of seeds planned where some are missing."""
    if not cell.planned:
        return ""
    if math.isnan(cell.value):
        return NONE
    spread = "" if math.isnan(cell.stderr) else f" ± {_spread(cell.stderr)}"
    planned = "" if cell.n == cell.planned else f" of {cell.planned}"
    return f"{cell.value:.1f}{spread} (n={cell.n}{planned})"


def _spread(stderr: float) -> str:
    return f"{stderr:.1f}" if stderr >= 0.05 or stderr == 0 else "<0.1"


def _signed(gain: Gain | Gap) -> str:
    if math.isnan(gain.value):
        return NONE
    spread = "" if math.isnan(gain.stderr) else f" ± {_spread(gain.stderr)}"
    return f"{gain.value:+.1f}{spread}".replace("-", "−")


def _gains(table: Table) -> list[str]:
    """One sentence a score: the difference, its standard error, and the verdict."""
    if not {SCRATCH, OURS} <= set(table.rows):
        return []
    gains = [table.gain(c) for c in table.columns if c.headline]
    return [f"{g.column.heading}: {_signed(g)}, **{g.verdict}**" for g in gains]


def _reported(table: Table) -> list[list[str]]:
    """The paper's table: header, then groups and methods with values as printed."""
    frame = table.reported
    columns = list(dict.fromkeys(frame["column"]))
    rows = [["", *(["pre-training data, LM"] if _has_setup(table) else []), *columns]]
    cells = _values(table)
    for group, members in frame.groupby("group", sort=False):
        if group:
            rows.append([f"*{group!s}*", *[""] * (len(rows[0]) - 1)])
        for method in dict.fromkeys(members["method"]):
            lines = members[members["method"] == method]
            setup = [lines["setup"].iloc[0]] if _has_setup(table) else []
            rows.append([method, *setup, *(cells[method].get(c, NONE) for c in columns)])
    return rows


def _has_setup(table: Table) -> bool:
    return bool(table.reported["setup"].any())


def _values(table: Table) -> dict[str, dict[str, str]]:
    """Reported values as printed, by method and column."""
    found: dict[str, dict[str, str]] = {}
    for line in table.reported.to_dict("records"):
        found.setdefault(line["method"], {})[line["column"]] = line["value"] or NONE
    return found


def _markdown_grid(rows: list[list[str]], texts: int = 1) -> str:
    """The first row is the header; the first `texts` columns hold words, the others numbers."""
    rule = ["---"] * texts + ["---:"] * (len(rows[0]) - texts)
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def _plain_grid(table: Table, columns: list[Column]) -> list[str]:
    """Aligned columns; headings above their metrics."""
    rows = _measured(table, columns, "\n")
    header = [[*text.split("\n"), ""][:2] for text in rows[0]]
    rows = [[h[0] for h in header], [h[1] for h in header], *rows[1:]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
