"""`d2v compare A B`: compare two runs on the same examples, or two arms over their seeds."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from d2v.results.wording import number
from d2v.util.arguments import Parser
from d2v.util.errors import UserError

SAID = ("name", "arm", "seed", "setting", "pretrain_run", "steps")  # keys of metrics.json
SOURCES = ("git_commit", "params_sha256", "data_sha256", "versions", "device")  # of provenance


def parser() -> Parser:
    """Argument parser of `d2v compare`."""
    parser = Parser(
        prog="d2v compare",
        description="Print the metric of both runs, and the difference with its interval and"
        " p-value. Arms (folders with one folder per seed) are compared over their seeds.",
    )
    parser.add_argument(
        "a", type=Path, metavar="A", help="folder of a run or an arm, under results/*/runs/"
    )
    parser.add_argument("b", type=Path, metavar="B", help="folder of another run or arm")
    parser.add_argument("--metric", help="metric to compare (default: the runs' first metric)")
    parser.add_argument(
        "--split", default="test", help="split to compare on (default: %(default)s)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v compare A B`."""
    args = parser().parse(argv)
    both = arms if all(any(d.glob("seed*/metrics.json")) for d in (args.a, args.b)) else lines
    print("\n".join(both(args.a, args.b, args.split, args.metric)))


def arms(a: Path, b: Path, split: str = "test", name: str | None = None) -> Iterator[str]:
    """Lines that compare two arms over their seeds, as the tables do (Welch's t).

    Where the runs of an arm start from several pre-trainings, each pre-training counts once.
    """
    from d2v.evaluation.metrics import named
    from d2v.results.statistics import Estimate, estimate, welch

    found: list[Estimate] = []
    for sign, arm in (("A", a), ("B", b)):
        told = {
            folder: _read(folder)
            for folder in sorted(d.parent for d in arm.glob("seed*/metrics.json"))
        }
        first = next(iter(told))
        if name is None:
            name = next(iter(told[first]["metrics"].get(split) or {}), "") or _no_metric(
                first, split
            )
        values: dict[str, list[float]] = {}
        for folder, run in told.items():
            value = (run["metrics"].get(split) or {}).get(name)
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(f"{folder}/metrics.json: {name} of split {split} is undefined")
            values.setdefault(run.get("pretrain_run") or str(folder), []).append(value)
        seeds = [value for group in values.values() for value in group]
        independent = [sum(g) / len(g) for g in values.values()] if len(values) > 1 else seeds
        found.append(estimate(independent))
        text = ", ".join(number(100 * value, ".2f") for value in seeds)
        yield f"{sign}  {arm}: {named(name).label} {number(100 * found[-1].value, '.2f')} ({text})"
        if len(values) == 1 < len(seeds):
            yield f"   all seeds of {sign} start from one pre-training, so they are not independent"
    difference = welch(found[1], found[0])
    low, high = difference.bounds
    assert name is not None
    judged = verdict(low, high, named(name).higher_is_better)
    yield (
        f"B − A: {number(100 * difference.value, '+.2f')} {_bounds(low, high, '+')},"
        f" p = {difference.p:.2g} (Welch's t, {difference.freedom:.1f} degrees of freedom):"
        f" {judged}"
    )


def lines(a: Path, b: Path, split: str = "test", name: str | None = None) -> Iterator[str]:
    """Lines of the comparison; raises UserError if the runs cannot be compared."""
    from d2v.evaluation.metrics import named
    from d2v.evaluation.predictions import read_predictions
    from d2v.results import statistics

    told = {folder: _read(folder) for folder in (a, b)}
    if name is None:
        name = next(iter(told[a]["metrics"].get(split) or {}), "") or _no_metric(a, split)
    metric = named(name)
    rows = {folder: read_predictions(folder / f"predictions-{split}.tsv") for folder in (a, b)}
    _check_same(a, b, rows)
    if any(getattr(row, metric.column) is None for row in rows[a] + rows[b]):
        raise UserError(f"{a}, {b}: no column {metric.column}, which {name} needs")
    undefined = []
    for folder in (a, b):
        _check_fits(folder, told[folder]["metrics"], split, name)
    for sign, folder in (("A", a), ("B", b)):
        value = _score(folder, rows[folder], split, name)
        if not math.isfinite(value):
            undefined.append(sign)
            yield f"{sign}  {folder}: {metric.label} undefined"
            continue
        bounds = _bounds(*statistics.interval(rows[folder], name))
        yield f"{sign}  {folder}: {metric.label} {number(100 * value, '.2f')} {bounds}"
    if undefined:
        yield (
            f"B − A: not compared, because {metric.label} is undefined for"
            f" {' and '.join(undefined)} (constant predictions, values that are not finite, or"
            " nothing to score)"
        )
    else:
        found = statistics.compare(rows[a], rows[b], name)
        yield (
            f"B − A: {number(100 * found.difference, '+.2f')}"
            f" {_bounds(found.low, found.high, '+')}, p = {found.p:.2g} ({found.test}):"
            f" {verdict(found.low, found.high, metric.higher_is_better)}"
        )
    yield (
        f"{len(rows[a])} examples of split {split}; values times 100 ({metric.unit}), in brackets"
        " 95 % of the bootstrap over examples. Another training seed may give another difference."
    )
    yield from _differences(told[a], told[b])


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
    try:
        content: dict[str, Any] = json.loads((folder / "metrics.json").read_text("utf-8"))
        dict(content["metrics"])
        return content
    except FileNotFoundError:
        raise UserError(f"{folder}: no metrics.json, so this is no finished run") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}/metrics.json: cannot be read ({error!r})") from None


def _no_metric(folder: Path, split: str) -> str:
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


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    flat = [
        dict(_flat({k: run.get(k) for k in SAID}))
        | dict(_flat({k: run.get("provenance", {}).get(k) for k in SOURCES}))
        for run in (a, b)
    ]
    found = [
        f"  {key}: {flat[0].get(key)} -> {flat[1].get(key)}"
        for key in dict.fromkeys([*flat[0], *flat[1]])
        if flat[0].get(key) != flat[1].get(key)
    ]
    yield "They differ in:" if found else "No difference in parameters, data and code."
    yield from found


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
