"""A document as LaTeX tables (booktabs), and a main file that includes all tables of a folder."""

import re
from collections.abc import Sequence

from d2v.results.grid import Document, Entry, Grid, Row, Section

PACKAGES = ("booktabs", "graphicx", "amsmath")
FITS = 5  # number of value columns; wider tables are scaled to the text width
ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\ensuremath{<}", ">": r"\ensuremath{>}", "|": r"\ensuremath{|}",
    "↑": r"\ensuremath{\uparrow}", "↓": r"\ensuremath{\downarrow}", "±": r"\ensuremath{\pm}",
    "−": r"\ensuremath{-}", "×": r"\ensuremath{\times}", "≥": r"\ensuremath{\geq}",
    "†": r"\ensuremath{\dagger}", "‡": r"\ensuremath{\ddagger}",
    "·": r"\ensuremath{\cdot}", "–": "--", "…": r"\ldots{}", "’": "'", "₂": r"\ensuremath{_2}",
}  # fmt: skip
MARKS = ((r"\*\*", r"\\textbf"), (r"\*", r"\\emph"), ("`", r"\\texttt"))


def latex(document: Document) -> str:
    """The grids of a document, each as a `table`, followed by its text; needs PACKAGES."""
    tables = [_table(document, section) for section in document.sections if section.grid]
    words = [_words(section) for section in document.sections if section.grid is None]
    notes = "\n".join([r"\begingroup\footnotesize", *words, r"\endgroup"]) if words else ""
    head = f"% {document.title}\n% needs: {', '.join(PACKAGES)}; cites references.bib"
    return "\n\n".join([head, *tables, notes]) + "\n"


def main_file(title: str, tables: Sequence[str]) -> str:
    """A complete LaTeX document; compile with `pdflatex`, `bibtex`, then `pdflatex` twice."""
    packages = "\n".join(rf"\usepackage{{{name}}}" for name in PACKAGES)
    inputs = "\n".join(rf"\input{{{name}}}" + "\n\\clearpage" for name in tables)
    return rf"""\documentclass{{article}}
\usepackage[T1]{{fontenc}}
\usepackage[utf8]{{inputenc}}
\usepackage[margin=2cm]{{geometry}}
{packages}
\setlength{{\belowcaptionskip}}{{6pt}}
\begin{{document}}
\title{{{inline(title)}}}\author{{}}\date{{}}\maketitle
{inputs}
\nocite{{baevski2022data2vec}}
\bibliographystyle{{plain}}
\bibliography{{references}}
\end{{document}}
"""


def inline(text: str) -> str:
    """Text escaped for LaTeX, with its marks as commands."""
    for mark, command in MARKS:
        text = re.sub(rf"{mark}(\S(?:.*?\S)?){mark}", _hidden(command), text)
    escaped = "".join(ESCAPES.get(sign, sign) for sign in text)
    return escaped.translate({1: "\\", 2: "{", 3: "}"})


def _hidden(command: str) -> str:
    """Replacement for a command, with its special characters protected from escaping."""
    return command.replace("\\\\", "\x01") + "\x02\\1\x03"


def _table(document: Document, section: Section) -> str:
    grid = section.grid
    assert grid is not None
    heading = section.heading or document.title
    opening = [] if section.heading else [document.subtitle]
    caption = " ".join([f"{heading}.", *opening, *section.paragraphs]).replace("..", ".")
    lines = [r"\begin{table}[!htbp]", r"\centering", rf"\caption{{{inline(caption)}}}"]
    if not section.heading:
        lines.append(rf"\label{{tab:{document.name.replace('_', '-')}}}")
    wide = len(grid.heads) > FITS
    lines += [r"\resizebox{\textwidth}{!}{%"] * wide
    lines += _tabular(grid)
    lines += ["}"] * wide
    if section.points:
        lines.append(r"\par\smallskip\footnotesize " + r"\\ ".join(map(inline, section.points)))
    return "\n".join([*lines, r"\end{table}"])


def _tabular(grid: Grid) -> list[str]:
    words = 1 + bool(grid.setup)
    blank = [""] * (words - 1)
    lines = [rf"\begin{{tabular}}{{{'l' * words}{'r' * len(grid.heads)}}}", r"\toprule"]
    headings = [head.heading for head in grid.heads]
    if any(headings):
        lines.append(_line(["", *blank, *headings]))
    lines.append(_line(["", *[grid.setup] * (words - 1), *(head.metric for head in grid.heads)]))
    lines.append(r"\midrule")
    for number, row in enumerate(grid.rows):
        if row.kind == "group":
            lines += [r"\midrule"] * (number > 0)
            columns = words + len(grid.heads)
            lines.append(rf"\multicolumn{{{columns}}}{{l}}{{\emph{{{inline(row.name)}}}}} \\")
        else:
            lines.append(_row(row, words))
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _row(row: Row, words: int) -> str:
    cite = rf"~\cite{{{row.citation.replace(' ', ',')}}}" if row.citation else ""
    name = inline(row.name) + cite
    setup = [inline(row.setup)] * (words - 1)
    return " & ".join([name, *setup, *map(_entry, row.entries)]) + r" \\"


def _entry(entry: Entry) -> str:
    text = inline(entry.text)
    return rf"\textbf{{{text}}}" if entry.best else text


def _line(texts: list[str]) -> str:
    return " & ".join(map(inline, texts)) + r" \\"


def _words(section: Section) -> str:
    head = rf"\paragraph{{{inline(section.heading)}}}" if section.heading else r"\par"
    text = " ".join(map(inline, section.paragraphs))
    if not section.points:
        return f"{head} {text}"
    points = "\n".join(rf"\item {inline(point)}" for point in section.points)
    return f"{head} {text}\n\\begin{{itemize}}\n{points}\n\\end{{itemize}}"
