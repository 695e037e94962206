"""Arrange a table's cells into the document that is shown.

Miniature experiments show data2vec and from scratch first. The paper's values follow in a separate
section, because they are at another scale. At paper scale, every reproduced row stands under the
reported row of the same name, with the gap.
"""

from d2v.params.data import Official
from d2v.results import entries, probes, rows
from d2v.results.cells import Gain, Table
from d2v.results.grid import Document, Section
from d2v.results.protocol import footnotes, joined, partial_notes, protocol, units
from d2v.results.wording import TITLES

ONE_PRETRAINING = (
    "All seeds of a row start from one pre-training: the intervals tell how another fine-tuning"
    " would differ, not how another pre-training would."
)
WIDE = 8  # columns of further metrics that fit side by side


def document(table: Table) -> Document:
    """Document of a table: measured and reported rows, gains, protocol and missing runs."""
    apart = table.experiment.scale != "paper"
    parts = [_scores(table) if apart else _together(table)]
    if notes := partial_notes(table):
        parts.append(Section("", [], None, notes))
    if points := gains(table):
        points += [ONE_PRETRAINING] * on_one_pretraining(table)
        parts.append(Section("", ["**Differences** with their 95 % intervals:"], None, points))
    if not apart and (notes := footnotes(table)):
        parts.append(Section("", [], None, notes))
    if further := _further(table):
        parts.append(further)
    if probed := probes.section(table):
        parts.append(probed)
    parts.append(Section("Protocol", points=protocol(table)))
    if table.missing:
        parts.append(Section("Missing runs", points=table.missing))
    if apart:
        parts.append(_reported_apart(table))
    return Document(table.name, title(table), _subtitle(table), parts)


def gains(table: Table) -> list[str]:
    """One sentence per score and pair of rows: the difference, its interval and the verdict."""
    names = "{} − {}: " if len(table.pairs) > 1 else ""
    return [
        f"{names.format(row, other)}{g.column.heading}: {entries.signed(g)}, **{g.verdict}**"
        for row, other, g in _gains(table)
    ]


def on_one_pretraining(table: Table) -> bool:
    """Whether a row of several seeds that is compared starts from one pre-training."""
    return any(gain.single for _, _, gain in _gains(table))


def _gains(table: Table) -> list[tuple[str, str, Gain]]:
    """Compared rows, and their differences in each score that both have."""
    return [
        (row, other, table.gain(c, other, row))
        for row, other in table.pairs
        for c in rows.scores(table)
        if table.compares(row, other, c)
    ]


# --- sections ---------------------------------------------------------------------------------


def _scores(table: Table) -> Section:
    return Section("", _opening(table), rows.measured(table, rows.scores(table)))


def _together(table: Table) -> Section:
    return Section("", [*_opening(table), units(table)], rows.together(table))


def _further(table: Table) -> Section | None:
    columns = [c for c in table.columns if not c.headline]
    if not columns:
        return None
    grid = rows.listed(table, columns) if len(columns) > WIDE else rows.measured(table, columns)
    return Section("Further metrics of the same runs", [], grid)


def _reported_apart(table: Table) -> Section:
    number, _, sets = TITLES[table.name]
    warning = f"**Another scale**: full-size models on {sets}; not comparable with the rows above."
    return Section(
        f"Reported by the paper ({number})",
        [warning, units(table)],
        rows.marked(rows.reported_grid(table)),
        footnotes(table),
    )


# --- words ------------------------------------------------------------------------------------


def title(table: Table) -> str:
    """Title of a table: what is measured, and on which data set."""
    _, what, _ = TITLES[table.name]
    return f"{what[0].upper()}{what[1:]}: {_sets(table)}"


def _sets(table: Table) -> str:
    """What a table measures on: the paper's set, or the sets of an experiment with other data."""
    experiment = table.experiment
    groups = {task.data: experiment.group_of(task.data) for task in table.tasks.values()}
    official = all(isinstance(group, Official) for group in groups.values())
    if experiment.scale == "paper" and official:
        return TITLES[table.name][2]
    words = [getattr(group, "heading", name) for name, group in groups.items()]
    return joined(list(dict.fromkeys(words)))


def _subtitle(table: Table) -> str:
    return f"{table.experiment.title}, in the shape of the paper's {TITLES[table.name][0]}."


def _opening(table: Table) -> list[str]:
    notes = [f"**{t.column}**: {t.note}" for t in table.tasks.values() if t.note]
    notes = list(dict.fromkeys(notes))
    split = "splits as under Protocol" if table.experiment.scale == "paper" else "test split"
    text = f"Mean ± standard error over n fine-tuning seeds, {split}. ↑ higher, ↓ lower is better."
    if any(cell.interval for cell in table.cells.values()):
        text += " [low, high]: 95 % interval over the examples of a single run (bootstrap)."
    text += " Bold: best mean of its block and column."
    return [text, *notes]
