"""Charts of the results page, as Plotly figures; each with a title, units and error bars."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from d2v.results.cells import OURS, SCRATCH, Column, Table
from d2v.results.layout import label, reported_grid, scores
from d2v.results.page.records import Record
from d2v.results.wording import TITLES

# told apart also by people who see few colours (Okabe and Ito); ours is the orange one
OUR_COLOUR, COLOURS = "#d55e00", ("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#999999", "#e69f00")
AMOUNT = re.compile(r"^\d+ (min|h)$")  # of labelled speech, as the paper's columns are called
MANY = 12  # lines that a legend can name


@dataclass(frozen=True)
class Chart:
    """A figure with the id of its place and a sentence below it."""

    id: str
    figure: go.Figure
    note: str = ""


def of_table(table: Table) -> list[Chart]:
    """What a table shows at one look: error rates by amount of labels, bars, or an ablation."""
    if table.name in ("ablation_layers", "ablation_context"):
        return _ablation(table)
    if table.name.startswith("ablation"):
        return _bars(table)
    amounts = [c for c in dict.fromkeys(table.reported["column"]) if AMOUNT.match(c)]
    found = [_by_amount(table, amounts)] if amounts else []
    apart = table.experiment.scale == "miniature"
    return found + (_bars(table) if apart or not amounts else [])


def curves(records: Sequence[Record], name: str) -> list[Chart]:
    """Loss and standard deviations, or validations, of the runs of one name by optimiser step."""
    place = _slug(name)
    charts = [_curve(f"{place}-loss", f"{name}: training loss", "loss", "loss", records)]
    if records[0].run.kind == "pretrain":
        charts.append(_spread(f"{place}-std", name, records))
    else:
        charts += _validations(place, name, records)
    return [chart for chart in charts if chart.figure.data]


def attention(name: str, found: dict[str, Any]) -> Chart:
    """What was masked, and where the attention of the last block went from one masked position."""
    title = f"{name}: attention from masked position {found['position'] + 1} ({found['example']})"
    if found["image"] is None:
        return _attended(name, title, found)
    side = math.isqrt(len(found["mask"]))
    image, pixels = found["image"], len(found["image"])
    patch = pixels / side
    at = [int((i + 0.5) / patch) for i in range(pixels)]  # patch row or column of a pixel
    hidden = [
        [None if found["mask"][at[y] * side + at[x]] else image[y][x] for x in range(pixels)]
        for y in range(pixels)
    ]
    grid = [found["weights"][row * side : (row + 1) * side] for row in range(side)]
    figure = make_subplots(1, 3, subplot_titles=("image", "what the student sees", "attention"))
    for column, (values, scale) in enumerate(
        ((image, "gray"), (hidden, "gray"), (grid, "viridis")), start=1
    ):
        figure.add_heatmap(z=values, colorscale=scale, showscale=False, row=1, col=column)
    row, column = divmod(found["position"], side)
    mark = {"color": OUR_COLOUR, "size": 12, "symbol": "x"}
    figure.add_scatter(
        x=[column], y=[row], mode="markers", marker=mark, name="the position", row=1, col=3
    )
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, autorange="reversed")
    for number in ("", "2", "3"):
        figure.update_layout({f"yaxis{number}": {"scaleanchor": f"x{number}"}})
    _dress(figure, title, "", "", legend=False)
    return Chart(
        f"{_slug(name)}-attention", figure, "Last block, mean over heads; × is the masked patch."
    )


def _attended(name: str, title: str, found: dict[str, Any]) -> Chart:
    figure = _figure(title, "position", "attention")
    for masked, text, colour in ((0, "seen", COLOURS[0]), (1, "masked", OUR_COLOUR)):
        places = [i for i, m in enumerate(found["mask"]) if m == masked]
        values = [found["weights"][i] for i in places]
        figure.add_bar(x=[i + 1 for i in places], y=values, name=text, marker_color=colour)
    note = "Last block, mean over heads; an input of which the masked positions are hidden."
    return Chart(f"{_slug(name)}-attention", figure, note)


def _curve(place: str, title: str, key: str, unit: str, records: Sequence[Record]) -> Chart:
    figure = _figure(title, "optimiser step", unit, len(records) <= MANY)
    for number, record in enumerate(records):
        steps, values = record.curve(key)
        if steps:
            figure.add_scatter(x=steps, y=_short(values), **_line(record, number))
    return Chart(place, figure)


def _spread(place: str, name: str, records: Sequence[Record]) -> Chart:
    title = f"{name}: standard deviation of targets (solid) and predictions (dotted)"
    figure = _figure(title, "optimiser step", "std, mean over channels", len(records) <= MANY)
    for number, record in enumerate(records):
        for key, dash in (("target_std", "solid"), ("prediction_std", "dot")):
            steps, values = record.curve(key)
            if steps:
                line = _line(record, number)
                line["line"] = {**line["line"], "dash": dash}
                line["name"] = f"{line['name']}, {key.removesuffix('_std')}s"
                figure.add_scatter(x=steps, y=_short(values), **line)
    return Chart(place, figure, "Near 0 would mean that representations have collapsed.")


def _validations(place: str, name: str, records: Sequence[Record]) -> list[Chart]:
    found = [record.validations() for record in records]
    charts = []
    for metric in dict.fromkeys(key for validations in found for key in validations):
        figure = _figure(
            f"{name}: {metric} on the development split", "optimiser step", metric,
            len(records) <= MANY,
        )  # fmt: skip
        for number, (record, validations) in enumerate(zip(records, found, strict=True)):
            if metric in validations:
                steps, values = validations[metric]
                figure.add_scatter(x=steps, y=_short(values), **_line(record, number))
        charts.append(Chart(f"{place}-{metric}".replace("_", "-"), figure))
    return charts


def _by_amount(table: Table, amounts: list[str]) -> Chart:
    """The paper's Table 2 as a figure: word error rate by amount of labelled speech."""
    number, what, sets = TITLES[table.name]
    figure = _figure(f"{what} by amount of labels ({number})", "labelled speech", "WER, % ↓")
    grid = reported_grid(table)
    places = [i for i, head in enumerate(grid.heads) if head.heading in amounts]
    methods = [row for row in grid.rows if row.kind == "reported"]
    for index, row in enumerate(methods):
        ours = row.name.startswith(OURS)
        figure.add_scatter(
            x=amounts, y=[row.entries[i].value for i in places], name=f"{row.name} (reported)",
            mode="lines+markers", connectgaps=False,
            line={"color": OUR_COLOUR if ours else COLOURS[index % len(COLOURS)],
                  "dash": "dash" if row.name.endswith("Large") else "solid"},
        )  # fmt: skip
    columns = {c.heading: c for c in scores(table) if c.heading in amounts}
    for name in table.rows if columns else []:
        cells = [table.cells[name, columns[a]] if a in columns else None for a in amounts]
        figure.add_scatter(
            x=amounts, y=[_or_none(c.value) if c else None for c in cells], name=label(name),
            error_y=_errors([c.stderr if c else math.nan for c in cells]),
            mode="markers", marker={
                "color": OUR_COLOUR, "size": 11,
                "symbol": "diamond-open" if "Large" in name else "diamond",
            },
        )  # fmt: skip
    apart = table.experiment.scale == "miniature"
    note = f"Reported values: {sets}."
    if apart:
        note += " Another scale: this experiment has no such amounts of labels; see its own chart."
    return Chart(f"{table.name}-by-amount", figure, note)


def _bars(table: Table) -> list[Chart]:
    """Measured rows side by side, and at the paper's scale the reported ones too."""
    columns = scores(table)
    number, what, _ = TITLES[table.name]
    directions = {c.higher_is_better for c in columns}
    arrow = {True: " ↑", False: " ↓"}[directions.pop()] if len(directions) == 1 else ""
    figure = _figure(f"{what} ({number}): {table.experiment.title}", "", f"score × 100{arrow}")
    figure.update_layout(barmode="group")
    if table.experiment.scale != "miniature":
        _reported_bars(figure, table, columns)
    for index, row in enumerate(table.rows):
        cells = [table.cells[row, c] for c in columns]
        if any(cell.n for cell in cells):
            figure.add_bar(
                x=[c.heading for c in columns], y=[_or_none(cell.value) for cell in cells],
                error_y=_errors([cell.stderr for cell in cells]), name=label(row),
                marker_color=_colour(row, index),
            )  # fmt: skip
    if not figure.data:
        return []
    note = "Bars: means over seeds; whiskers: one standard error."
    undefined = [
        f"{c.heading}, {r}" for r in table.rows for c in columns if table.cells[r, c].undefined
    ]
    if undefined:
        note += f" Undefined, so without a bar: {'; '.join(undefined)}."
    return [Chart(f"{table.name}-bars", figure, note)]


def _reported_bars(figure: go.Figure, table: Table, columns: Iterable[Column]) -> None:
    grid = reported_grid(table)
    headings = [c.heading for c in columns]
    for index, row in enumerate(row for row in grid.rows if row.kind == "reported"):
        values = {h.heading: e.value for h, e in zip(grid.heads, row.entries, strict=True)}
        figure.add_bar(
            x=headings, y=[values.get(h) for h in headings], name=f"{row.name} (reported)",
            marker_color=COLOURS[index % len(COLOURS)], opacity=0.75,
        )  # fmt: skip


def _ablation(table: Table) -> list[Chart]:
    """A figure of the paper: a metric over the number in each row's name (K, frames)."""
    number, what, _ = TITLES[table.name]
    charts = []
    for column in scores(table):
        rows = [row for row in table.rows if table.cells[row, column].n]
        if not rows:
            continue
        unit = "WER, % ↓" if not column.higher_is_better else "accuracy, % ↑"
        figure = _figure(f"{column.heading}: {what} ({number}'s shape)", "", unit)
        cells = [table.cells[row, column] for row in rows]
        figure.add_scatter(
            x=rows, y=[_or_none(cell.value) for cell in cells], mode="lines+markers",
            name="measured", connectgaps=False,
            error_y=_errors([cell.stderr for cell in cells]), line={"color": OUR_COLOUR},
        )  # fmt: skip
        place = _slug(f"{table.name}-{column.heading}")
        charts.append(Chart(place, figure, "The paper prints this as a curve without numbers."))
    return charts


def _figure(title: str, x: str, y: str, legend: bool = True) -> go.Figure:
    figure = go.Figure()
    _dress(figure, title, x, y, legend)
    return figure


def _dress(figure: go.Figure, title: str, x: str, y: str, legend: bool) -> None:
    figure.update_layout(
        template="none",
        title={"text": title, "x": 0, "xref": "paper", "font": {"size": 15}},
        xaxis={"title": {"text": x}, "automargin": True, "zeroline": False},
        yaxis={"title": {"text": y}, "automargin": True, "zeroline": False},
        legend={"orientation": "h", "y": -0.25, "yanchor": "top"},
        showlegend=legend, margin={"l": 10, "r": 10, "t": 64, "b": 10}, height=420,
    )  # fmt: skip


def _line(record: Record, number: int) -> dict[str, Any]:
    arm = f"{record.run.arm} " if record.run.arm else ""
    point = f" {record.run.setting}" if record.run.setting else ""
    colour = {"data2vec": OUR_COLOUR, "scratch": COLOURS[4]}.get(record.run.arm or "")
    line = {"width": 1.5, "color": colour or COLOURS[number % len(COLOURS)]}
    return {"name": f"{arm}seed {record.run.seed}{point}", "mode": "lines", "line": line}


def _colour(row: str, index: int) -> str:
    """Of a measured row."""
    if row == SCRATCH:
        return COLOURS[4]
    return OUR_COLOUR if row == OURS else COLOURS[index % len(COLOURS)]


def _errors(stderrs: Sequence[float]) -> dict[str, Any]:
    return {"type": "data", "array": [_or_none(s) for s in stderrs], "visible": True}


def _short(values: Iterable[float]) -> list[float]:
    """Four digits are more than a chart shows."""
    return [float(f"{value:.4g}") for value in values]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text).strip("-")
