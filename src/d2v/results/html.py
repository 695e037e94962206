"""A document as HTML: a fragment for the results page, and a file that stands alone.

Columns sort by their buttons (assets/tables.js); a cell's source or runs show when it is pointed
at, and below the table when it is tapped.
"""

import html
import re
from functools import cache
from importlib.resources import files

from d2v.results.grid import Document, Entry, Grid, Head, Row, Section

MARKS = (("**", "strong"), ("*", "em"), ("`", "code"))


def page(document: Document) -> str:
    """A file of its own, with its style and script."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(document.title)}</title>",
            f"<style>{asset('style.css')}</style></head>",
            f"<body><main><h1>{inline(document.title)}</h1>",
            fragment(document),
            f"</main><script>{asset('tables.js')}</script></body></html>\n",
        ]
    )


def fragment(document: Document, level: int = 2) -> str:
    """Its sections, with headings of the given level."""
    return "\n".join(_section(section, level) for section in document.sections)


def inline(text: str) -> str:
    """Escaped text with its marks."""
    text = html.escape(text, quote=False)
    for mark, tag in MARKS:
        sign = re.escape(mark)
        text = re.sub(rf"{sign}(\S(?:.*?\S)?){sign}", rf"<{tag}>\1</{tag}>", text)
    return text


@cache
def asset(name: str) -> str:
    """A style sheet or script of the package."""
    return (files("d2v.results") / "assets" / name).read_text(encoding="utf-8")


def _section(section: Section, level: int) -> str:
    parts = [f"<h{level}>{inline(section.heading)}</h{level}>"] if section.heading else []
    parts += [f"<p>{inline(paragraph)}</p>" for paragraph in section.paragraphs]
    if section.grid is not None:
        parts.append(_grid(section.grid))
    if section.points:
        points = "".join(f"<li>{inline(point)}</li>" for point in section.points)
        parts.append(f"<ul>{points}</ul>")
    return "\n".join(parts)


def _grid(grid: Grid) -> str:
    words = ["<th></th>", *[f"<th>{inline(grid.setup)}</th>"] * bool(grid.setup)]
    head = "".join([*words, *map(_head, grid.heads)])
    bodies: list[list[str]] = [[]]
    for row in grid.rows:
        if row.kind == "group" and bodies[-1]:
            bodies.append([])
        bodies[-1].append(_row(row, grid))
    body = "\n".join(f"<tbody>\n{chr(10).join(rows)}\n</tbody>" for rows in bodies)
    return (
        f'<div class="wide"><table class="results"><thead><tr>{head}</tr></thead>\n{body}\n'
        '</table></div><output class="source"></output>'
    )


def _head(head: Head) -> str:
    metric = f"<small>{inline(head.metric)}</small>" if head.metric else ""
    name = f"<span>{inline(head.heading)}</span>" if head.heading else ""
    return f'<th aria-sort="none"><button type="button">{name}{metric}</button></th>'


def _row(row: Row, grid: Grid) -> str:
    if row.kind == "group":
        columns = 1 + bool(grid.setup) + len(grid.heads)
        return f'<tr class="group"><th colspan="{columns}">{inline(row.name)}</th></tr>'
    setup = f"<td>{inline(row.setup)}</td>" if grid.setup else ""
    cells = "".join(map(_entry, row.entries))
    return f'<tr class="{row.kind}"><th scope="row">{inline(row.name)}</th>{setup}{cells}</tr>'


def _entry(entry: Entry) -> str:
    kinds = [name for name in (entry.verdict.split(" (")[0].replace(" ", "-"),) if name]
    kinds += ["best"] * entry.best
    attributes = f' class="{" ".join(kinds)}"' if kinds else ""
    if entry.value is not None:
        attributes += f' data-value="{entry.value:.6g}"'
    if entry.hover:
        attributes += f' title="{html.escape(entry.hover)}"'
    return f"<td{attributes}>{inline(entry.text)}</td>"
