"""What a results table says, before it is Markdown, HTML, LaTeX or text on a terminal.

Words may hold `**bold**`, `*italics*` and `` `code` ``; every format shows them in its own way.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Head:
    """A column: what was measured on, the metric with its unit, and which direction is better."""

    heading: str
    label: str = ""
    direction: Literal["↑", "↓", ""] = ""

    @property
    def metric(self) -> str:
        """Label and direction."""
        return f"{self.label} {self.direction}".strip()


@dataclass(frozen=True)
class Entry:
    """A cell as it is shown; it sorts by `value`; `hover` and `runs` say where it is from."""

    text: str
    value: float | None = None
    best: bool = False
    hover: str = ""
    runs: tuple[str, ...] = ()
    verdict: str = ""
    apart: bool = False  # never the best: not of the same data as the others


@dataclass(frozen=True)
class Row:
    """A line: a group's name, a reported or a measured method, or a difference to one."""

    kind: Literal["group", "reported", "measured", "difference"]
    name: str
    entries: list[Entry] = field(default_factory=list)
    setup: str = ""
    citation: str = ""  # key in references.bib


@dataclass(frozen=True)
class Grid:
    """A table with its columns; `setup` names the second column of words, if there is one."""

    heads: list[Head]
    rows: list[Row]
    setup: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a document: heading, paragraphs, a grid, and points below it."""

    heading: str = ""
    paragraphs: list[str] = field(default_factory=list)
    grid: Grid | None = None
    points: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """All that is said about one of the paper's tables."""

    name: str
    title: str
    subtitle: str  # experiment, and place in the paper
    sections: list[Section]
