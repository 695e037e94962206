"""A document as Markdown."""

from d2v.results.grid import Document, Entry, Grid, Row, Section


def markdown(document: Document) -> str:
    """Complete Markdown file of a document."""
    parts = [f"# {document.title}", document.subtitle]
    for section in document.sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    parts = [f"## {section.heading}"] if section.heading else []
    parts += section.paragraphs
    if section.grid is not None:
        parts.append(_grid(section.grid))
    if section.points:
        parts.append("\n".join(f"- {point}" for point in section.points))
    return parts


def _grid(grid: Grid) -> str:
    words = [""] + [grid.setup] * bool(grid.setup)
    header = [*words, *("<br>".join(filter(None, (h.heading, h.metric))) for h in grid.heads)]
    rule = ["---"] * len(words) + ["---:"] * len(grid.heads)
    mixed = any(row.kind == "reported" for row in grid.rows)
    rows = [header, rule, *(_row(row, grid, mixed) for row in grid.rows)]
    return "\n".join(f"| {' | '.join(map(_escaped, row))} |" for row in rows)


def _escaped(cell: str) -> str:
    """A cell's text in one line, whose bars do not end the cell."""
    return " ".join(cell.split()).replace("|", "\\|")


def _row(row: Row, grid: Grid, mixed: bool) -> list[str]:
    """Cells of a row; names of measured rows are bold if the grid also has reported rows."""
    setup = [row.setup] * bool(grid.setup)
    if row.kind == "group":
        return [f"*{row.name}*", *setup, *[""] * len(grid.heads)]
    name = f"**{row.name}**" if mixed and row.kind == "measured" else row.name
    return [name, *setup, *map(_text, row.entries)]


def _text(entry: Entry) -> str:
    return f"**{entry.text}**" if entry.best else entry.text
