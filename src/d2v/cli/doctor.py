"""`d2v doctor`: whether this machine, or the nodes of a cluster, can do what d2v needs."""

from collections.abc import Sequence

from d2v.cli import choice
from d2v.util.arguments import Parser


def parser() -> Parser:
    """Argument parser of `d2v doctor`."""
    made = Parser(
        prog="d2v doctor",
        description="Show the versions in use; with --nodes, check the nodes of a Slurm job.",
    )
    choice.add(made)
    made.add_argument(
        "--nodes",
        nargs="?",
        const="",
        metavar="RUN",
        help="submit a short Slurm job with the resources of a run (default: the first one), and"
        " check its nodes: GPUs, network, shared folder, flock, clocks, names, versions",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run `d2v doctor`; the exit code is 1 if something does not work."""
    args = parser().parse(argv)
    from d2v.experiment import provenance, runs

    if args.nodes is None:
        print(", ".join(f"{name} {version}" for name, version in provenance.versions().items()))
        return 0
    from d2v.jobs import cluster, nodes

    experiment = choice.of(args).load()
    run = runs.parse(experiment, args.nodes) if args.nodes else runs.all_runs(experiment)[0]
    return nodes.main(cluster.load(), run.id)
