"""Probes of frozen features: a section under the table, and accuracy by layer for the page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2v.experiment import runs, stored
from d2v.params import Experiment
from d2v.results.cells import INPUT, SCRATCH, Table, row_of
from d2v.results.grid import Entry, Grid, Head, Row, Section
from d2v.results.statistics import Estimate, estimate
from d2v.results.wording import number

KINDS = {"knn": "k-NN", "linear": "linear, best layer", "weighted": "linear, weighted layers"}
NONE = "–"


@dataclass(frozen=True)
class Probed:
    """The probes of one run."""

    task: str
    row: str
    run: str
    start: str  # the pre-training; empty for random weights
    found: dict[str, Any]  # as d2v.evaluation.probing.probe returns it

    def score(self, kind: str, layer: int | None = None) -> float:
        """Accuracy on the test split in %: of one layer, or by default of the best one on dev."""
        if kind == "weighted":
            return 100 * float(self.found["weighted"]["test"])
        layers = self.found["layers"]
        at = self._best(kind) if layer is None else layer
        return 100 * float(layers[at][kind]["test"])

    def _best(self, kind: str) -> int:
        scores = [entry[kind]["dev"] for entry in self.found["layers"]]
        return scores.index(max(scores))


def read(experiment: Experiment, table: str, results: Path) -> tuple[Probed, ...]:
    """The finished probes of a table's tasks."""
    found = []
    for run in runs.probe_runs(experiment):
        if run.params.table != table:
            continue
        try:
            content = stored.read(results / "runs" / run.id / stored.NAME, run.id)
        except stored.Damaged:  # the page names it
            continue
        if content and content.get("probe"):
            row = row_of(experiment, run.params, str(run.arm))
            start = run.source.id if run.source else ""
            found.append(Probed(run.name, row, run.id, start, content["probe"]))
    return tuple(found)


def section(table: Table) -> Section | None:
    """Means over seeds of every probe, with its protocol; None without probes."""
    probed: Sequence[Probed] = table.probed
    if not probed:
        return None
    tasks = list(dict.fromkeys(p.task for p in probed))
    heads = [
        Head(table.tasks[task].column, f"{words}, %", "↑")
        for task in tasks
        for words in KINDS.values()
    ]
    rows = []
    for row in table.rows:
        mine = {task: [p for p in probed if (p.task, p.row) == (task, row)] for task in tasks}
        entries = [_entry(mine[task], kind) for task in tasks for kind in KINDS]
        if any(mine.values()):
            rows.append(Row("measured", _label(row), entries))
    points = [line for task in tasks for line in _protocol(table, task)]
    return Section("Probes of frozen features", [], Grid(heads, rows), points)


def by_layer(table: Table, task: str, kind: str) -> dict[str, list[Estimate]]:
    """Mean accuracy by layer, of each row of a task."""
    found: dict[str, list[Estimate]] = {}
    for row in table.rows:
        mine = [p for p in table.probed if (p.task, p.row) == (task, row)]
        if mine:
            count = min(len(p.found["layers"]) for p in mine)
            found[row] = [mean((p, p.score(kind, layer)) for p in mine) for layer in range(count)]
    return found


def mean(scored: Iterable[tuple[Probed, float]]) -> Estimate:
    """Mean over seeds; where they start from several pre-trainings, each of these counts once."""
    pairs = list(scored)
    groups: dict[str, list[float]] = {}
    for p, value in pairs:
        groups.setdefault(p.start, []).append(value)
    values = [value for _, value in pairs]
    units = [sum(g) / len(g) for g in groups.values()] if len(groups) > 1 else values
    spread = estimate(units)
    return Estimate(estimate(values).value, spread.stderr, spread.freedom)


def _entry(probed: list[Probed], kind: str) -> Entry:
    if not probed:
        return Entry(NONE, verdict="not run", hover="not run yet")
    found = mean((p, p.score(kind)) for p in probed)
    spread = "" if found.stderr != found.stderr else f" ± {number(found.stderr, '.1f')}"
    text = f"{number(found.value, '.1f')}{spread} (n={len(probed)})"
    return Entry(text, found.value, runs=tuple(p.run for p in probed))


def _label(row: str) -> str:
    return {SCRATCH: "random weights", INPUT: f"{INPUT} (this run)"}.get(row, f"{row} (this run)")


def _protocol(table: Table, task: str) -> list[str]:
    p = table.tasks[task].probe
    assert p is not None
    first = next(probed for probed in table.probed if probed.task == task)
    count = first.found["examples"]["train"]
    how = "their mean over positions" if p.positions == "mean" else "all positions side by side"
    lines = [
        f"{table.tasks[task].column}: nothing of the model is trained; {count} labelled examples,"
        f" {how}, standardised; k-NN with {p.neighbours} neighbours by cosine; logistic regression"
        f" (scikit-learn), C from {', '.join(f'{c:g}' for c in p.c)}; C and layer chosen on"
        f" {table.tasks[task].dev_split}."
    ]
    for row, layers in by_layer(table, task, "linear").items():
        scores = ", ".join(number(found.value, ".1f") for found in layers)
        lines.append(
            f"{_label(row)}, linear by layer, from the input of the first block: {scores}."
        )
    return lines
