"""`d2v compare A B`: compare two runs on the same examples, or two arms over their seeds."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2v.experiment import stored
from d2v.results.wording import number
from d2v.util.errors import UserError

SAID = ("name", "arm", "seed", "setting", "pretrain_run", "steps")  # keys of metrics.json
SEED = re.compile(r"seed(0|[1-9]\d*)")  # folder of a run in that of its arm
SOURCES = ("git_commit", "params_sha256", "data_sha256", "versions", "device")  # of provenance


@dataclass(frozen=True)
class Side:
    """A or B: its value as a fraction, with the 95 % interval of the bootstrap (NaN for an arm)."""

    folder: Path
    value: float
    low: float = math.nan
    high: float = math.nan
    seeds: tuple[float, ...] = ()  # of an arm
    shared: bool = False  # whether all seeds of an arm start from one pre-training


@dataclass(frozen=True)
class Difference:
    """B minus A, with its 95 % interval, p-value and test."""

    value: float
    low: float
    high: float
    p: float
    test: str


@dataclass(frozen=True)
class Outcome:
    """A comparison of two runs, or of two arms."""

    split: str
    metric: str
    higher_is_better: bool
    a: Side
    b: Side
    difference: Difference | None  # None if a value is undefined
    examples: int | None  # None for arms
    # dotted keys of parameters, data and code that differ between runs, with both values
    changes: Mapping[str, tuple[Any, Any]]

    @property
    def verdict(self) -> str:
        """Which run is better; no winner if the interval includes zero or is undefined."""
        if self.difference is None:
            return verdict(math.nan, math.nan, self.higher_is_better)
        return verdict(self.difference.low, self.difference.high, self.higher_is_better)


def are_arms(a: Path, b: Path) -> bool:
    """Whether both folders hold one folder per seed."""
    return all(any(folder.glob("seed*/metrics.json")) for folder in (a, b))


def compare_arms(a: Path, b: Path, split: str = "test", name: str | None = None) -> Outcome:
    """Compare two arms over their seeds, as the tables do (Welch's t).

    Where the runs of an arm start from several pre-trainings, each pre-training counts once. Raises
    UserError if a value is undefined, if a seed is there twice, or if the arms are not of one task.
    """
    from d2v.evaluation.metrics import named
    from d2v.results.statistics import Estimate, estimate, welch

    sides: list[Side] = []
    found: list[Estimate] = []
    both = [_seeds(arm) for arm in (a, b)]
    _check_task(both[0], both[1], split)
    for arm, told in zip((a, b), both, strict=True):
        first = next(iter(told))
        name = name or _first_metric(first, told[first], split)
        values: dict[str, list[float]] = {}
        for folder, run in told.items():
            value = (run["metrics"].get(split) or {}).get(name)
            if value is None or not math.isfinite(value):
                raise UserError(f"{folder}/metrics.json: {name} of split {split} is undefined")
            values.setdefault(run.get("pretrain_run") or str(folder), []).append(value)
        seeds = [value for group in values.values() for value in group]
        independent = [sum(g) / len(g) for g in values.values()] if len(values) > 1 else seeds
        found.append(estimate(independent))
        shared = len(values) == 1 < len(seeds)
        sides.append(Side(arm, found[-1].value, seeds=tuple(seeds), shared=shared))
    assert name is not None
    between = welch(found[1], found[0])
    test = f"Welch's t, {between.freedom:.1f} degrees of freedom"
    difference = Difference(between.value, *between.bounds, between.p, test)
    better = named(name).higher_is_better
    return Outcome(split, name, better, sides[0], sides[1], difference, None, {})


def compare_runs(a: Path, b: Path, split: str = "test", name: str | None = None) -> Outcome:
    """Compare two runs on the same examples; raises UserError if they cannot be compared."""
    from d2v.evaluation.metrics import named
    from d2v.evaluation.predictions import read_predictions
    from d2v.results import statistics

    told = {folder: _read(folder) for folder in (a, b)}
    name = name or _first_metric(a, told[a], split)
    metric = named(name)
    rows = {folder: read_predictions(folder / f"predictions-{split}.tsv") for folder in (a, b)}
    _check_same(a, b, rows)
    if any(getattr(row, metric.column) is None for row in rows[a] + rows[b]):
        raise UserError(f"{a}, {b}: no column {metric.column}, which {name} needs")
    for folder in (a, b):
        _check_fits(folder, told[folder]["metrics"], split, name)
    sides = []
    for folder in (a, b):
        value = _score(folder, rows[folder], split, name)
        interval = statistics.interval(rows[folder], name) if math.isfinite(value) else ()
        sides.append(Side(folder, value, *interval))
    difference = None
    if all(math.isfinite(side.value) for side in sides):
        found = statistics.compare(rows[a], rows[b], name)
        difference = Difference(found.difference, found.low, found.high, found.p, found.test)
    changes = _changes(told[a], told[b])
    better = metric.higher_is_better
    return Outcome(split, name, better, sides[0], sides[1], difference, len(rows[a]), changes)


def arms(a: Path, b: Path, split: str = "test", name: str | None = None) -> Iterator[str]:
    """Lines that compare two arms; raises as `compare_arms`."""
    from d2v.evaluation.metrics import named

    found = compare_arms(a, b, split, name)
    label = named(found.metric).label
    for sign, side in (("A", found.a), ("B", found.b)):
        text = ", ".join(number(100 * value, ".2f") for value in side.seeds)
        yield f"{sign}  {side.folder}: {label} {number(100 * side.value, '.2f')} ({text})"
        if side.shared:
            yield f"   all seeds of {sign} start from one pre-training, so they are not independent"
    yield _difference(found)


def lines(a: Path, b: Path, split: str = "test", name: str | None = None) -> Iterator[str]:
    """Lines that compare two runs; raises as `compare_runs`."""
    from d2v.evaluation.metrics import named

    found = compare_runs(a, b, split, name)
    metric = named(found.metric)
    sides = (("A", found.a), ("B", found.b))
    for sign, side in sides:
        value = "undefined"
        if math.isfinite(side.value):
            value = f"{number(100 * side.value, '.2f')} {_bounds(side.low, side.high)}"
        yield f"{sign}  {side.folder}: {metric.label} {value}"
    if found.difference is None:
        undefined = [sign for sign, side in sides if not math.isfinite(side.value)]
        yield (
            f"B − A: not compared, because {metric.label} is undefined for"
            f" {' and '.join(undefined)} (constant predictions, values that are not finite, or"
            " nothing to score)"
        )
    else:
        yield _difference(found)
    yield (
        f"{found.examples} examples of split {split}; values times 100 ({metric.unit}), in brackets"
        " 95 % of the bootstrap over examples. Another training seed may give another difference."
    )
    yield "They differ in:" if found.changes else "No difference in parameters, data and code."
    for key, (first, second) in found.changes.items():
        yield f"  {key}: {first} -> {second}"


def _difference(found: Outcome) -> str:
    difference = found.difference
    assert difference is not None
    return (
        f"B − A: {number(100 * difference.value, '+.2f')}"
        f" {_bounds(difference.low, difference.high, '+')}, p = {difference.p:.2g}"
        f" ({difference.test}): {found.verdict}"
    )


def verdict(low: float, high: float, higher_is_better: bool) -> str:
    """Which run is better; no winner if the interval includes zero or is undefined."""
    if not math.isfinite(low) or not math.isfinite(high):
        return "no winner (the interval is undefined)"
    if low <= 0 <= high:
        return "no winner (the interval includes zero)"
    return "B is better" if (low > 0) == higher_is_better else "A is better"


def _bounds(low: float, high: float, sign: str = "") -> str:
    if math.isnan(low) or math.isnan(high):
        return "[undefined]"
    return f"[{number(100 * low, sign + '.2f')}, {number(100 * high, sign + '.2f')}]"


def _score(folder: Path, rows: Sequence[Any], split: str, name: str) -> float:
    from d2v.evaluation.predictions import score_rows

    try:
        return score_rows(rows, [name])[name]
    except (ValueError, IndexError) as error:
        raise UserError(f"{folder}/predictions-{split}.tsv: no {name} of it: {error}") from None


def _check_fits(folder: Path, metrics: Mapping[str, Any], split: str, name: str) -> None:
    """Raise UserError for a metric of another kind of task, e.g. a word error rate of classes."""
    from d2v.params import TASK_METRICS

    known = metrics.get(split) or {}
    fitting = {n for group in TASK_METRICS.values() if {*group} & {*known} for n in group}
    if known and name not in {*known, *fitting}:
        raise UserError(
            f"{folder}/metrics.json: metric {name} does not fit this run, whose metrics of split"
            f" {split} are {', '.join(known)}"
        )


def _read(folder: Path) -> dict[str, Any]:
    content = stored.read(folder / stored.NAME, stored.place(folder))
    if content is None:
        raise UserError(
            f"{folder}: no metrics.json, so this is no finished run; give a folder below"
            " results/<experiment>/runs/"
        )
    return content


def _seeds(arm: Path) -> dict[Path, dict[str, Any]]:
    """Metrics of an arm's runs, by folder; raises UserError for a copy, which is no further run."""
    found: dict[Path, dict[str, Any]] = {}
    known: dict[int, Path] = {}
    for folder in sorted(path.parent for path in arm.glob("seed*/metrics.json")):
        name = SEED.fullmatch(folder.name)
        if name is None:
            raise UserError(
                f"{folder}: not the name of a run's folder (such as seed0), so this may be a copy,"
                " which would count as another seed; move it out of the arm's folder"
            )
        found[folder] = _read(folder)
        seed = found[folder].get("seed")
        other = known.setdefault(int(name[1]) if seed is None else seed, folder)
        if other != folder:
            raise UserError(
                f"{folder}: is of the same seed as {other}, which would count twice; remove the"
                " copy"
            )
    return found


def _check_task(a: Mapping[Path, Any], b: Mapping[Path, Any], split: str) -> None:
    """Raise UserError if the runs of two arms were evaluated on other examples, as for two runs.

    Where predictions are missing, the arms must be of one task.
    """
    from d2v.evaluation.predictions import read_predictions

    first = [next(iter(runs)) for runs in (a, b)]
    files = {folder: folder / f"predictions-{split}.tsv" for folder in first}
    if all(file.exists() for file in files.values()):
        _check_same(
            first[0], first[1], {folder: read_predictions(file) for folder, file in files.items()}
        )
        return
    names = [runs[folder].get("name") for runs, folder in zip((a, b), first, strict=True)]
    if names[0] != names[1]:
        raise UserError(
            f"{first[0].parent} and {first[1].parent}: are of different tasks ({names[0]} and"
            f" {names[1]}), so they cannot be compared; give arms of one task"
        )


def _first_metric(folder: Path, run: Mapping[str, Any], split: str) -> str:
    for name in run["metrics"].get(split) or {}:
        return str(name)
    raise UserError(f"{folder}/metrics.json: no metrics of split {split}; give another --split")


def _check_same(a: Path, b: Path, rows: Mapping[Path, Sequence[Any]]) -> None:
    truth = [{row.id: row.reference for row in rows[folder]} for folder in (a, b)]
    if list(truth[0]) != list(truth[1]):
        one = sorted(truth[0].keys() ^ truth[1].keys())
        what = f"only one of them has {one[0]}" if one else "their order differs"
        raise UserError(
            f"{a} and {b} were evaluated on other examples ({len(truth[0])} and {len(truth[1])};"
            f" {what}): they cannot be compared"
        )
    for id, reference in truth[0].items():
        if truth[1][id] != reference:
            raise UserError(f"{a} and {b}: example {id} has another reference in each")


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    flat = [
        dict(_flat({k: run.get(k) for k in SAID}))
        | dict(_flat({k: run.get("provenance", {}).get(k) for k in SOURCES}))
        for run in (a, b)
    ]
    return {
        key: (flat[0].get(key), flat[1].get(key))
        for key in dict.fromkeys([*flat[0], *flat[1]])
        if flat[0].get(key) != flat[1].get(key)
    }


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
