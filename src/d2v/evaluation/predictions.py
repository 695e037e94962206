"""Prediction files, and the metrics computed from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2v.evaluation import metrics
from d2v.util.errors import UserError
from d2v.util.files import write_text


@dataclass(frozen=True)
class Prediction:
    """One example: its reference, its prediction and, for transcripts, the greedy decoding."""

    id: str
    reference: Any
    prediction: Any
    greedy: str | None = None


def write_predictions(path: str | Path, rows: Sequence[Prediction]) -> None:
    """Write id, reference, prediction and, if present, greedy: tab-separated, atomically.

    Numbers are written so that they can be read back exactly. Raises UserError for a tab or line
    break inside a field.
    """
    path = Path(path)
    names = _columns(rows)
    lines = ["\t".join(names)]
    for row in rows:
        fields = [str(getattr(row, name)) for name in names]
        if any(mark in field for field in fields for mark in "\t\n\r"):
            raise UserError(f"{path}: example {row.id!r} has a tab or line break; remove it")
        lines.append("\t".join(fields))
    write_text(path, "\n".join(lines) + "\n")


def _columns(rows: Sequence[Prediction]) -> list[str]:
    names = ["id", "reference", "prediction"]
    return [*names, "greedy"] if rows and rows[0].greedy is not None else names


def read_predictions(path: str | Path) -> list[Prediction]:
    """Rows of a prediction file, with values as text.

    Raises UserError that names the file and the line, also for an example that is there twice.
    """
    try:
        header, *lines = Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read predictions: {error}") from None
    names = header.split("\t")
    if names not in (
        ["id", "reference", "prediction"],
        ["id", "reference", "prediction", "greedy"],
    ):
        raise UserError(f"{path}:1: not a prediction file (id, reference, prediction[, greedy])")
    rows = []
    places: dict[str, int] = {}  # lines by the id of their example
    for number, line in enumerate(lines, start=2):
        fields = line.split("\t")
        if len(fields) != len(names):
            raise UserError(f"{path}:{number}: {len(fields)} fields, {len(names)} are expected")
        if places.setdefault(fields[0], number) != number:
            raise UserError(
                f"{path}:{number}: example {fields[0]} is already in line {places[fields[0]]};"
                " remove the file, so that `d2v reproduce` evaluates the run again"
            )
        rows.append(Prediction(*fields))
    return rows


def score(path: str | Path, names: Sequence[str]) -> dict[str, float]:
    """Metrics recomputed from a prediction file: {name: fraction, NaN where undefined}.

    Raises UserError that names the file if values do not fit a metric.
    """
    try:
        return score_rows(read_predictions(path), names)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def score_rows(rows: Sequence[Prediction], names: Sequence[str]) -> dict[str, float]:
    """Metrics of predictions; the same whether rows were just computed or read from a file.

    Raises ValueError for a value of the wrong type, UserError for an unknown metric.
    """
    found = {}
    for name in names:
        metric = metrics.named(name)
        if any(getattr(row, metric.column) is None for row in rows):
            raise ValueError(f"no column {metric.column}, which {name} needs")
        references = [(metric.reference or metric.value)(row.reference) for row in rows]
        predictions = [metric.value(getattr(row, metric.column)) for row in rows]
        found[name] = metrics.compute(name, references, predictions)
    return found
