"""Scores of predictions against references of one's own: `--references FILE`.

Modules that import pydantic are imported only when they are needed.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2v.util.arguments import Parser
from d2v.util.errors import UserError, counted, quoted


def add_option(parser: Parser, scores: str) -> None:
    """Add `--references FILE`; `scores` names what is printed."""
    parser.add_argument(
        "--references",
        type=Path,
        metavar="FILE",
        help="score the predictions. FILE has one line per input: its name (as printed, or its file"
        f" name), a tab and the correct answer. The last lines on standard error give {scores},"
        " with intervals",
    )


def read(path: Path, names: Sequence[str]) -> list[str]:
    """The references of the inputs called `names`, in their order.

    Raises UserError for a line without a tab, a name that stands there twice, an input without a
    reference, and inputs that share a reference by their file name.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read references: {error}") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, tab, reference = line.rstrip("\r").partition("\t")
        if not tab:
            raise UserError(
                f"{path}:{number}: no tab between the name of an input and what is right"
            )
        if name in found:
            raise UserError(f"{path}:{number}: {quoted(name)} has a reference already")
        found[name] = reference
    keys = [name if name in found else Path(name).name for name in names]
    missing = [name for name, key in zip(names, keys, strict=True) if key not in found]
    if missing:
        more = f" (and {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise UserError(f"{path}: no reference for {quoted(missing[0])}{more}")
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UserError(f"{path}: several inputs are called {quoted(twice)}; give their paths")
    return [found[key] for key in keys]


def classes(path: Path, references: Sequence[str], names: Sequence[str]) -> list[int]:
    """Numbers of the classes that the references name; raises UserError for another word."""
    for reference in references:
        if reference not in names:
            shown = ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
            raise UserError(f"{path}: {quoted(reference)} is no class of the model ({shown})")
    return [names.index(reference) for reference in references]


def numbers(path: Path, references: Sequence[str]) -> list[float]:
    """References as numbers; raises UserError for one that is none."""
    try:
        return [float(reference) for reference in references]
    except ValueError as error:
        raise UserError(f"{path}: {error}; the model predicts numbers") from None


def told(rows: Sequence[tuple[str, Any, Any]], names: Sequence[str], noun: str) -> str:
    """One line for each metric of (name, reference, prediction), with its 95 % interval."""
    from d2v.evaluation import metrics
    from d2v.evaluation.predictions import Prediction, score_rows
    from d2v.results.statistics import interval

    found, lines = [Prediction(*row) for row in rows], []
    for name, value in score_rows(found, names).items():
        metric, over = metrics.named(name), counted(len(rows), noun)
        low, high = interval(found, name)
        if math.isfinite(low + high):
            over = f"95 % interval {100 * low:.1f} to {100 * high:.1f}, {over}"
        score = f"{100 * value:.1f} {metric.unit}" if math.isfinite(value) else "undefined"
        lines.append(f"{metric.label}: {score} ({over})")
    return "\n".join(lines)


def unknown_letters(references: Sequence[str], letters: Sequence[str]) -> str | None:
    """Warning of characters in references that the model cannot write; None without any."""
    known = {*letters, " "}
    others = sorted({character for text in references for character in text} - known)
    if not others:
        return None
    count = sum(1 for text in references if {*text} - known)
    shown = ", ".join(map(repr, others[:8])) + (" ..." if len(others) > 8 else "")
    return (
        f"warning: {counted(count, 'reference')} with characters that the model cannot write"
        f" ({shown}); each counts as an error. Write references as the training transcripts"
    )
