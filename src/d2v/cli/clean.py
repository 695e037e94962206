"""`d2v clean`: checkpoints that nothing needs any more, listed or removed."""

from collections.abc import Sequence

from d2v.cli import choice
from d2v.util.arguments import Parser

RULES = ("none", "last", "best", "all")


def parser() -> Parser:
    """Argument parser of `d2v clean`."""
    made = Parser(
        prog="d2v clean",
        description="List checkpoints and optimiser states that finished runs no longer need, by"
        " the rules under disk: in params/cluster.yaml. Nothing is removed without --yes.",
    )
    choice.add(made)
    made.add_argument(
        "--checkpoints",
        choices=RULES,
        help="rule for all runs, instead of those in params/cluster.yaml. all: keep everything;"
        " last: the last checkpoint and the weights of the result; best: the weights of the result,"
        " without the optimiser's state; none: no weights, unless an unfinished run starts from"
        " them",
    )
    made.add_argument("--yes", action="store_true", help="remove what is listed")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v clean [FILE]`."""
    args = parser().parse(argv)
    from d2v.experiment import retention, runs
    from d2v.jobs import cluster

    experiment, disk = choice.of(args).load(), cluster.load().disk
    found = retention.find(experiment, lambda run: args.checkpoints or disk.of(run))
    for note in found.notes:
        print(note)
    total = removed = 0
    works = {run.id: run.work for run in runs.all_runs(experiment)}
    for spare in sorted(found.spare, key=lambda spare: spare.size, reverse=True):
        print(f"{gigabytes(spare.size):>10}  {spare.folder}: {', '.join(spare.names)}", flush=True)
        total += spare.size
        removed += retention.remove(spare, works[spare.run]) if args.yes else 0
    if not found.spare:
        print("nothing to remove")
    elif args.yes:
        print(f"removed {gigabytes(removed)}")
    else:
        print(f"{gigabytes(total)} can be removed: run the command again with --yes")


def gigabytes(size: int) -> str:
    """A number of bytes in GB, or in MB below 0.1 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
