"""Tables in the shape of the paper's, as CSV, Markdown, LaTeX, HTML and text for a terminal."""

import io
import math
from pathlib import Path

import pandas as pd

from d2v.params import Experiment
from d2v.results.cells import Cell, Table
from d2v.results.collect import REPORTED, collect
from d2v.results.console import console
from d2v.results.entries import UNDEFINED
from d2v.results.html import page
from d2v.results.latex import latex, main_file
from d2v.results.layout import ONE_PRETRAINING, document, on_one_pretraining
from d2v.results.markdown import markdown
from d2v.results.rows import label
from d2v.results.verdicts import answers
from d2v.util.files import write_text

SUFFIXES = ("csv", "md", "tex", "html")


def build(experiment: Experiment, results: Path, reported: Path = REPORTED) -> list[Table]:
    """Write `tables/<table>.{csv,md,tex,html}` in an experiment's results folder.

    Also writes `tables.tex`, which includes all tables, and `references.bib`, which it cites.
    Missing or unreadable metrics appear as gaps and are listed. The same runs give byte-identical
    files. Returns the tables.
    """
    folder = results / "tables"
    tables = collect(experiment, results, reported)
    for table in tables:
        shown = document(table)
        texts = (as_csv(table), markdown(shown), latex(shown), page(shown))
        for suffix, text in zip(SUFFIXES, texts, strict=True):
            write_text(folder / f"{table.name}.{suffix}", text)
    write_text(folder / "tables.tex", main_file(experiment.title, [table.name for table in tables]))
    write_text(folder / "references.bib", reported.with_name("references.bib").read_text("utf-8"))
    return tables


def render_console(experiment: Experiment, results: Path, reported: Path = REPORTED) -> str:
    """The tables as plain text, followed by their summary and the paths of their files."""
    tables = collect(experiment, results, reported)
    folder = results / "tables"
    return "\n\n".join(
        [
            *map(console, tables),
            *[ONE_PRETRAINING] * any(map(on_one_pretraining, tables)),
            *answers(tables),
            f"tables: {folder}/*.md, *.html (to read), *.tex (to cite), *.csv (cells)",
        ]
    )


def as_csv(table: Table) -> str:
    """CSV of the measured cells (four decimals), then the reported ones as printed.

    Missing values are empty. A value is `undefined` if the metric is undefined for any of its runs.
    """
    lines = []
    for row in table.rows:
        for column in table.columns:
            cell = table.cells[row, column]
            if not cell.planned:
                continue
            line = {
                "row": label(row),
                "column": column.heading,
                "metric": column.name,
                "split": column.split,
                "value": _value(cell),
                "stderr": "" if math.isnan(cell.stderr) else f"{cell.stderr:.4f}",
                "n": str(cell.n),
                "kind": "reproduced",
                "scale": table.experiment.scale,
                "source": f"experiment {table.experiment.name}",
                "runs": " ".join(cell.runs),
                "partial_data": "; ".join(cell.partial),
            }
            lines.append(line)
    for printed in table.reported.to_dict("records"):
        same = {key: printed[key] for key in ("column", "metric", "split", "value", "source")}
        unknown = {"stderr": "", "n": "", "runs": "", "partial_data": ""}
        kind = {"kind": "reported", "scale": "paper"}
        lines.append({"row": printed["method"], **same, **unknown, **kind})
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")


def _value(cell: Cell) -> str:
    if cell.undefined:
        return UNDEFINED
    return "" if math.isnan(cell.value) else f"{cell.value:.4f}"


def read_csv(text: str) -> pd.DataFrame:
    """Read the output of `as_csv`, with all cells as text."""
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
