"""Marks of the charts: a measured mean, its whisker, and a dot for each seed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from d2v.results.cells import Cell
from d2v.results.page.svg import Scale, mark, tag, whisker
from d2v.results.wording import number


@dataclass(frozen=True)
class Mark:
    """A value to be drawn, with its description."""

    kind: str
    value: float
    text: str
    bounds: tuple[float, float] | None = None
    seeds: tuple[float, ...] = ()
    single: bool = False  # whether the bounds are over the examples of one run


def marked(kind: str, cell: Cell, name: str = "") -> Mark:
    """Mark of a measured cell: mean, whisker and seeds."""
    bounds = cell.interval
    spread = ""
    if bounds is None and not math.isnan(cell.stderr):
        bounds = cell.estimate.bounds
        spread = f" ± {number(cell.stderr, '.1f')}"
    seeds = cell.values if len(cell.values) > 1 else ()
    of = f" (seeds {', '.join(number(v, '.1f') for v in seeds)})" if seeds else ""
    text = f"{name}: {number(cell.value, '.1f')}{spread}{of}"
    return Mark(kind, cell.value, text, bounds, seeds, cell.interval is not None)


def spanned(shown: Mark) -> tuple[float, ...]:
    """All values of a mark that a scale must cover."""
    return (shown.value, *(shown.bounds or ()), *shown.seeds)


def drawn(shown: Mark, scale: Scale, y: float) -> Iterator[str]:
    """SVG parts of a mark on a horizontal scale, with the seeds below the mean."""
    if shown.bounds is not None:
        yield whisker(shown.kind, scale(shown.bounds[0]), scale(shown.bounds[1]), y)
    yield mark(shown.kind, scale(shown.value), y, shown.text)
    for value in shown.seeds:
        yield mark(f"{shown.kind} seed", scale(value), y + 7.5, f"one seed: {number(value, '.1f')}")


def upright(shown: Mark, scale: Scale, x: float) -> Iterator[str]:
    """SVG parts of a mark on a vertical scale, with the seeds to the right of the mean."""
    if shown.bounds is not None:
        low, high = map(scale, shown.bounds)
        yield tag(
            "path",
            d=f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8",
            class_=f"whisker {shown.kind}",
        )
    yield mark(shown.kind, x, scale(shown.value), shown.text)
    for value in shown.seeds:
        yield mark(f"{shown.kind} seed", x + 8, scale(value), f"one seed: {number(value, '.1f')}")
