"""`d2v status`: the state of every run of an experiment."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from d2v.cli import choice
from d2v.util.arguments import Parser, UsageError

if TYPE_CHECKING:
    from d2v.cli.schemas import StatusReport
    from d2v.params import Experiment


def parser() -> Parser:
    """Argument parser of `d2v status`."""
    made = Parser(prog="d2v status", description="Show the state of every run of the experiment.")
    choice.add(made)
    made.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=10.0,
        metavar="SECONDS",
        help="refresh every SECONDS seconds (default: 10) until all runs have ended",
    )
    choice.add_json(made)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v status [FILE]`."""
    args = parser().parse(argv)
    from d2v.jobs import status

    if args.json and args.watch is not None:
        raise UsageError("d2v status: --json and --watch exclude each other")
    experiment = choice.of(args).load()
    if args.json:
        print(_report(experiment).text())
        return
    if args.watch is not None:
        status.watch(experiment, args.watch)
        return
    for line in status.lines(experiment):
        print(line)


def _report(experiment: "Experiment") -> "StatusReport":
    from dataclasses import asdict

    from d2v.cli.schemas import RunState, StatusReport
    from d2v.jobs import status

    found = status.all_facts(experiment)
    return StatusReport(
        experiment=experiment.name,
        counts=dict(Counter(facts.state for facts in found)),
        runs=[RunState(**asdict(facts)) for facts in found],
    )
