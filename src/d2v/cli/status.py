"""`d2v status`: the state of every run of an experiment."""

from collections.abc import Sequence

from d2v.cli import choice
from d2v.util.arguments import Parser


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
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v status [FILE]`."""
    args = parser().parse(argv)
    from d2v.jobs import status

    experiment = choice.of(args).load()
    if args.watch is not None:
        status.watch(experiment, args.watch)
        return
    for line in status.lines(experiment):
        print(line)
