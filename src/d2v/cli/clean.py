"""`d2v clean`: checkpoints that nothing needs any more, listed or removed."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from d2v import params
from d2v.experiment import retention, runs
from d2v.jobs import cluster

EXPERIMENT = Path("params/mini.yaml")


def main(argv: Sequence[str]) -> None:
    """List what the rules of params/cluster.yaml leave to be removed; with --yes, remove it."""
    parser = argparse.ArgumentParser(
        prog="d2v clean",
        description="List checkpoints and optimiser states of finished runs that nothing needs any"
        " more, by the rules under `disk:` in params/cluster.yaml. Nothing is removed without"
        " --yes.",
    )
    parser.add_argument(
        "--params",
        type=Path,
        default=EXPERIMENT,
        metavar="FILE",
        help="parameter file of the experiment (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoints",
        choices=get_args(retention.Rule),
        help="rule for all runs, instead of those in params/cluster.yaml. all: keep everything;"
        " last: the last checkpoint and the weights of the result; best: the weights of the result,"
        " without the optimiser's state; none: no weights, unless an unfinished run starts from"
        " them",
    )
    parser.add_argument("--yes", action="store_true", help="remove what is listed")
    args = parser.parse_args(argv)
    experiment = params.load(args.params)
    disk = cluster.load().disk
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
