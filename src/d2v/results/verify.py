"""`d2v verify`: recompute every number of an experiment from its stored predictions."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from d2v.experiment import stored
from d2v.util.errors import UserError

if TYPE_CHECKING:  # imported late, so that --help is quick
    from d2v.params import Experiment

KEY = ["row", "column", "metric", "split", "kind"]
SHOWN = ["value", "stderr", "n", "runs"]


@dataclass
class Report:
    """Counts of what was recomputed, and the differences from what is stored."""

    runs: int = 0
    numbers: int = 0
    cells: int = 0
    faults: list[str] = field(default_factory=list)


def verify(experiment: "Experiment", results: Path) -> Report:
    """Check all finished runs and the stored tables.

    Raises UserError if there are no runs.
    """
    report = Report()
    place = results / "runs"
    for path in sorted(place.rglob(stored.NAME)):  # safe: only reads
        report.faults += _run(path, path.parent.relative_to(place).as_posix(), report)
    if not report.runs and not report.faults:
        raise UserError(
            f"{results}/runs: no metrics.json of any run; nothing to verify (run `d2v reproduce`"
            " first)"
        )
    report.faults += _cells(experiment, results, report)
    return report


def _run(path: Path, run: str, report: Report) -> Iterator[str]:
    """Faults of a metrics.json, which is that of the run with the id `run` by its place."""
    from d2v.evaluation.predictions import score

    try:
        content = stored.read(path, run)
    except stored.Damaged as error:
        yield (
            f"{path}: {error.fault}; remove a copy, or run `d2v reproduce`, which makes damaged"
            " files again"
        )
        return
    report.runs += 1
    for split, values in (content["metrics"] if content else {}).items():
        try:
            found = score(path.with_name(f"predictions-{split}.tsv"), [*values])
        except UserError as error:
            yield str(error)
            continue
        report.numbers += len(values)
        for name, value in values.items():
            if not _equal(value, found[name]):
                yield f"{path}: {split} {name} is {value}, its predictions give {found[name]}"


def _cells(experiment: "Experiment", results: Path, report: Report) -> Iterator[str]:
    from d2v.results.collect import collect
    from d2v.results.tables import as_csv, read_csv

    for table in collect(experiment, results):
        path = results / "tables" / f"{table.name}.csv"
        try:
            stored = read_csv(path.read_text("utf-8")).set_index(KEY)[SHOWN]
        except (OSError, ValueError, KeyError) as error:
            yield f"{path}: cannot be read ({error}); build it with `d2v tables`"
            continue
        found = read_csv(as_csv(table)).set_index(KEY)[SHOWN]
        report.cells += len(found)
        for key in stored.index.symmetric_difference(found.index):
            yield f"{path}: {' / '.join(key)} is only in one of the file and the runs"
        for key in stored.index.intersection(found.index):
            for name in SHOWN:
                if stored.loc[key, name] != found.loc[key, name]:
                    yield (
                        f"{path}: {' / '.join(key)}: {name} is {stored.loc[key, name] or 'empty'},"
                        f" the runs give {found.loc[key, name] or 'nothing'}"
                    )


def _equal(value: float | None, found: float) -> bool:
    """Whether two values agree up to rounding: other library versions may sum in another order."""
    if value is None or math.isnan(value):
        return math.isnan(found)
    return math.isclose(value, found, rel_tol=1e-9, abs_tol=1e-12)
