"""The chart at the top of the page: every task's difference with its interval; right is better.

The chart is a table with a strip in each row, so that it works in a screen reader and at any width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from d2v.results.cells import Gain, Table
from d2v.results.entries import metric_of
from d2v.results.page.svg import Scale, fitted, tag
from d2v.results.protocol import NONE, PARTIAL
from d2v.results.verdicts import (
    Verdict,
    against_input,
    against_reported,
    against_scratch,
    spread,
)
from d2v.results.wording import SHORT, number

HEIGHT = 22  # height of a strip, in pixels
DENSE = 12  # number of rows above which each row is reduced to one line


@dataclass(frozen=True)
class Line:
    """A row of the chart: texts and the strip of one verdict."""

    name: str
    detail: str  # metric and both values
    strip: str
    kind: str
    verdict: str
    difference: str


@dataclass(frozen=True)
class Forest:
    """A chart with rows grouped by table; `ticks` holds positions in % and their labels."""

    question: str
    caption: str  # explains the difference and the two values of a row
    groups: list[tuple[str, str, list[Line]]]  # table id, name, rows
    ticks: list[tuple[float, str]]
    dense: bool


def forests(tables: Sequence[Table]) -> list[Forest]:
    """Charts of the gains of pre-training and of the gaps to the paper, each if there are any."""
    found = []
    if gains := against_scratch(tables):
        caption = "data2vec against the same model from scratch (from scratch → data2vec)"
        found.append(_forest("Does pre-training pay?", caption, gains))
    if compared := against_input(tables):
        caption = "data2vec against targets of the input (input targets → data2vec)"
        found.append(
            _forest("Are the teacher's targets better than input targets?", caption, compared)
        )
    if gaps := against_reported(tables):
        caption = "this run against the value that the paper reports (reported → this run)"
        found.append(_forest("How close is it to the paper?", caption, gaps))
    return found


def _forest(question: str, caption: str, verdicts: Sequence[Verdict]) -> Forest:
    values = [v for d in verdicts for v in (d.better_by, *(spread(d.found) or ()))]
    scale = fitted(values, 0, 100, zero=True)
    groups = [
        (name, SHORT[name], [_line(v, scale) for v in members])
        for name, members in groupby(verdicts, lambda v: v.table.name)
    ]
    ticks = [(scale(t), number(t, "+g") if t else "0") for t in scale.ticks(4)]
    return Forest(question, caption, groups, ticks, len(verdicts) > DENSE)


def _line(verdict: Verdict, scale: Scale) -> Line:
    found = verdict.found
    mine = verdict.other + found.value
    values = [NONE if math.isnan(v) else number(v, ".1f") for v in (verdict.other, mine)]
    told, difference = _told(verdict)
    metric = metric_of(verdict.column).split(", ")[0]
    detail = f"{metric}: {' → '.join(values)}"
    strip = _strip(verdict, scale, f"{verdict.name}: {told} {difference}; {detail}")
    cell = verdict.table.cells[verdict.row, verdict.column]
    name = verdict.name + f" {PARTIAL}" * bool(cell.partial)
    return Line(name, detail, strip, verdict.kind, told, difference)


def _told(verdict: Verdict) -> tuple[str, str]:
    """The verdict, and the size of the difference as better or worse (a lower WER is better)."""
    found = verdict.found
    if math.isnan(found.value):
        return "undefined" if found.undefined else "not run", ""
    size = f"{abs(found.value):.1f}"
    if bounds := spread(found):
        low, high = bounds if verdict.better_by > 0 else (-bounds[1], -bounds[0])
        size += f" [{number(low, '.1f')}, {number(high, '.1f')}]"
    if verdict.kind in ("better", "worse"):
        return verdict.kind, f"by {size}"
    against_scratch = isinstance(found, Gain)
    if verdict.kind == "same":
        told = "no clear difference" if against_scratch else "as reported"
    else:
        told = "too few runs" if against_scratch else "one run"
    return told, f"({size} {'better' if verdict.better_by > 0 else 'worse'})"


def _strip(verdict: Verdict, scale: Scale, label: str) -> str:
    """Drawing of a row; positions are in %, so that it fills its cell without distortion."""
    middle = HEIGHT / 2
    parts = [_upright(scale(0), 0, HEIGHT, "zero")]
    bounds = spread(verdict.found)
    if bounds is not None:
        low, high = map(scale, bounds)
        kind = f"whisker {verdict.kind}"
        parts.append(tag("line", x1=_at(low), x2=_at(high), y1=middle, y2=middle, class_=kind))
        parts += [_upright(x, middle - 6, middle + 6, kind) for x in (low, high)]
    if not math.isnan(verdict.better_by):
        at = _at(scale(verdict.better_by))
        parts.append(tag("circle", cx=at, cy=middle, r=3.5, class_=f"mark {verdict.kind}"))
    return tag("svg", *parts, role="img", aria_label=label, class_="strip", height=HEIGHT)


def _upright(x: float, top: float, bottom: float, kind: str) -> str:
    return tag("line", x1=_at(x), x2=_at(x), y1=top, y2=bottom, class_=kind)


def _at(share: float) -> str:
    return f"{share:.2f}%"
