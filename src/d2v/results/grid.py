"""Format-independent content of a results table, to be rendered as Markdown, HTML, LaTeX or text.

Texts may contain `**bold**`, `*italics*` and `` `code` ``, which each format renders.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Head:
    """Head of a column: data set or task, metric with its unit, and which direction is better."""

    heading: str
    label: str = ""
    direction: Literal["↑", "↓", ""] = ""

    @property
    def metric(self) -> str:
        """Label of the metric followed by the arrow of its direction."""
        return f"{self.label} {self.direction}".strip()


@dataclass(frozen=True)
class Entry:
    """A cell as displayed; `value` is the sort key, `hover` and `runs` give its origin."""

    text: str
    value: float | None = None
    best: bool = False
    hover: str = ""
    runs: tuple[str, ...] = ()
    verdict: str = ""
    apart: bool = False  # never marked as best, because its data differs from the others'


@dataclass(frozen=True)
class Row:
    """A line: the name of a group, a reported or measured method, or a difference between rows."""

    kind: Literal["group", "reported", "measured", "difference"]
    name: str
    entries: list[Entry] = field(default_factory=list)
    setup: str = ""
    citation: str = ""  # key in references.bib


@dataclass(frozen=True)
class Grid:
    """A table of rows and columns; `setup` is the heading of a second text column, if any."""

    heads: list[Head]
    rows: list[Row]
    setup: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a document: heading, paragraphs, a grid, and a list of points below the grid."""

    heading: str = ""
    paragraphs: list[str] = field(default_factory=list)
    grid: Grid | None = None
    points: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """The complete content for one of the paper's tables."""

    name: str
    title: str
    subtitle: str  # experiment and place in the paper
    sections: list[Section]
