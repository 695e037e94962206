"""A document as HTML: parts for the results page, and a self-contained file.

A click on a column head sorts the rows (assets/tables.js). Hovering over a cell shows its source; a
list below the table gives the same information without a mouse or a script.
"""

import html
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from d2v.results.grid import Document, Entry, Grid, Head, Row, Section

MARKS = (("**", "strong"), ("*", "em"), ("`", "code"))
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5}(?:v\d+)?)")


def page(document: Document) -> str:
    """A self-contained HTML file, with its style sheet and script."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{html.escape(document.title)}</title>",
            f"<style>{asset('style.css')}</style></head>",
            f'<body class="alone"><main><h1>{inline(document.title)}</h1>',
            f'<p class="subtitle">{inline(document.subtitle)}</p>',
            *(_section(section, document.title) for section in document.sections),
            f"</main><script>{asset('tables.js')}</script></body></html>\n",
        ]
    )


def words(section: Section) -> str:
    """HTML of the paragraphs above a section's table."""
    return "\n".join(f'<p class="note">{inline(text)}</p>' for text in section.paragraphs)


def points(section: Section) -> str:
    """HTML list of the points below a section's table."""
    listed = "".join(f"<li>{inline(point)}</li>" for point in section.points)
    return f"<ul>{listed}</ul>" if listed else ""


def grid(grid: Grid, caption: str) -> str:
    """HTML table in a box that scrolls sideways if needed, with a hint that it does."""
    names = ['<th scope="col"><span class="unseen">method</span></th>']
    names += [f'<th scope="col">{inline(grid.setup)}</th>'] * bool(grid.setup)
    head = "".join([*names, *map(_head, grid.heads)])
    bodies: list[list[str]] = [[]]
    for row in grid.rows:
        if row.kind == "group" and bodies[-1]:
            bodies.append([])
        bodies[-1].append(_row(row, grid))
    body = "\n".join(f"<tbody>\n{chr(10).join(rows)}\n</tbody>" for rows in bodies)
    name = html.escape(caption)
    return (
        '<div class="holder">'
        f'<div class="wide" role="region" tabindex="0" aria-label="Table: {name}">'
        f'<table class="results"><caption class="unseen">{name}</caption>'
        f"<thead><tr>{head}</tr></thead>\n{body}\n</table></div>"
        '<p class="hint" aria-hidden="true">The table scrolls sideways →</p>'
        '<output class="source"></output></div>'
    )


def sources(grid: Grid, root: str) -> str:
    """HTML list of each number's source; `root` is the path from the file to the results folder."""
    found: dict[str, list[str]] = {}  # names of the rows that share the same sources
    for row in grid.rows:
        name = ", ".join(filter(None, (row.name, row.setup if not row.citation else "")))
        if told := "; ".join(_sources(row, grid.heads, root)):
            found.setdefault(told, []).append(name)
    if not found:
        return ""
    listed = "\n".join(f"<li>{inline('; '.join(n))}: {told}</li>" for told, n in found.items())
    return (
        '<details class="sources"><summary>Where each number comes from</summary>'
        f"<ul>\n{listed}\n</ul></details>"
    )


def inline(text: str) -> str:
    """Text escaped for HTML, with its marks as tags and arXiv numbers as links."""
    text = html.escape(text, quote=False)
    for mark, tag in MARKS:
        sign = re.escape(mark)
        text = re.sub(rf"{sign}(\S(?:.*?\S)?){sign}", rf"<{tag}>\1</{tag}>", text)
    return ARXIV.sub(r'<a href="https://arxiv.org/abs/\1">\g<0></a>', text)


@cache
def asset(name: str) -> str:
    """Text of a style sheet or script of the package."""
    return (files("d2v.results") / "assets" / name).read_text(encoding="utf-8")


def _section(section: Section, title: str) -> str:
    parts = [f"<h2>{inline(section.heading)}</h2>"] if section.heading else []
    parts.append(words(section))
    if section.grid is not None:
        parts += [grid(section.grid, section.heading or title), sources(section.grid, "../")]
    return "\n".join(filter(None, [*parts, points(section)]))


def _sources(row: Row, heads: list[Head], root: str) -> Iterator[str]:
    """Sources of a row's columns; column names are left out if all share one source."""
    found: dict[str, list[str]] = {}
    for head, entry in zip(heads, row.entries, strict=False):
        runs = ", ".join(_run(run, root) for run in entry.runs)
        if told := runs or inline(entry.hover):
            found.setdefault(told, []).append(inline(head.heading or head.label))
    if len(found) == 1:
        yield from found
    else:
        yield from (f"{', '.join(columns)} – {told}" for told, columns in found.items())


def _run(names: str, root: str) -> str:
    """Links to the metrics of a run, or of all runs behind a mean over tasks."""
    return " + ".join(
        f'<a href="{root}runs/{html.escape(name)}/metrics.json">{html.escape(name)}</a>'
        for name in names.split(" ")
    )


def _head(head: Head) -> str:
    metric = f"<small>{inline(head.metric)}</small>" if head.metric else ""
    name = f"<span>{inline(head.heading)}</span>" if head.heading else ""
    return f'<th scope="col" class="sorts">{name}{metric}</th>'


def _row(row: Row, grid: Grid) -> str:
    if row.kind == "group":
        columns = 1 + bool(grid.setup) + len(grid.heads)
        name = f'<th scope="rowgroup" colspan="{columns}">{inline(row.name)}</th>'
        return f'<tr class="group">{name}</tr>'
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
