"""`d2v compare`: two runs on the same examples, or two arms over their seeds."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2v.cli import choice
from d2v.util.arguments import Parser

if TYPE_CHECKING:
    from d2v.cli.schemas import CompareReport
    from d2v.cli.schemas import Side as Shown
    from d2v.results.compare import Outcome, Side


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
    choice.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v compare A B`."""
    args = parser().parse(argv)
    from d2v.results import compare

    of_arms = compare.are_arms(args.a, args.b)
    if args.json:
        both = compare.compare_arms if of_arms else compare.compare_runs
        print(_report(both(args.a, args.b, args.split, args.metric), of_arms).text())
        return
    shown = compare.arms if of_arms else compare.lines
    print("\n".join(shown(args.a, args.b, args.split, args.metric)))


def _report(found: "Outcome", of_arms: bool) -> "CompareReport":
    from d2v.cli import schemas

    difference = None
    if found.difference is not None:
        difference = schemas.DifferenceOfSides(**asdict(found.difference))
    winners: dict[str, Any] = {"A is better": "a", "B is better": "b"}
    return schemas.CompareReport(
        of="arms" if of_arms else "runs",
        split=found.split,
        metric=found.metric,
        higher_is_better=found.higher_is_better,
        a=_side(found.a),
        b=_side(found.b),
        difference=difference,
        better=winners.get(found.verdict),
        examples=found.examples,
        changes={key: list(values) for key, values in found.changes.items()},
    )


def _side(side: "Side") -> "Shown":
    from d2v.cli.schemas import Side as Shown

    return Shown(
        folder=str(side.folder),
        value=side.value,
        low=side.low,
        high=side.high,
        seeds=list(side.seeds),
    )
