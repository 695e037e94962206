"""`d2v compare A B`: two runs on the same examples."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from d2v.errors import UserError
from d2v.metrics import named

SAID = ("name", "arm", "seed", "setting", "pretrain_run", "steps")  # of metrics.json
SOURCES = ("git_commit", "params_sha256", "data_sha256", "versions", "device")  # of its provenance


def main(argv: Sequence[str]) -> None:
    """Print the metric of both runs, the difference with its interval, and how sure it is."""
    parser = argparse.ArgumentParser(prog="d2v compare", description=main.__doc__)
    parser.add_argument("a", type=Path, metavar="A", help="folder of a run under results/*/runs/")
    parser.add_argument("b", type=Path, metavar="B", help="folder of another run")
    parser.add_argument("--metric", help="default: the first of the run")
    parser.add_argument("--split", default="test", help="default: %(default)s")
    args = parser.parse_args(argv)
    print("\n".join(lines(args.a, args.b, args.split, args.metric)))


def lines(a: Path, b: Path, split: str = "test", name: str | None = None) -> Iterator[str]:
    """What is printed; raises UserError where the runs cannot be compared."""
    from d2v.predictions import read_predictions, score_rows
    from d2v.results import statistics

    told = {folder: _read(folder) for folder in (a, b)}
    if name is None:
        name = next(iter(told[a]["metrics"].get(split) or {}), "") or _no_metric(a, split)
    metric = named(name)
    rows = {folder: read_predictions(folder / f"predictions-{split}.tsv") for folder in (a, b)}
    _check_same(a, b, rows)
    if any(getattr(row, metric.column) is None for row in rows[a] + rows[b]):
        raise UserError(f"{a}, {b}: no column {metric.column}, which {name} needs")
    for sign, folder in (("A", a), ("B", b)):
        low, high = statistics.interval(rows[folder], name)
        value = score_rows(rows[folder], [name])[name]
        bounds = f"[{100 * low:.2f}, {100 * high:.2f}]"
        yield f"{sign}  {folder}: {metric.label} {100 * value:.2f} {bounds}"
    found = statistics.compare(rows[a], rows[b], name)
    better = (found.difference > 0) == metric.higher_is_better
    word = "equal" if found.difference == 0 else "B is better" if better else "A is better"
    yield (
        f"B − A: {100 * found.difference:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}],"
        f" p = {found.p:.2g} ({found.test}): {word}"
    )
    yield (
        f"{len(rows[a])} examples of split {split}; values times 100 ({metric.unit}), in brackets"
        " 95 % of the bootstrap over examples. Another training seed may give another difference."
    )
    yield from _differences(told[a], told[b])


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
