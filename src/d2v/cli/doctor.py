"""`d2v doctor`: whether this machine, or the nodes of a cluster, can do what d2v needs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from d2v import params
from d2v.experiment import provenance, runs
from d2v.jobs import cluster

EXPERIMENT = Path("params/mini.yaml")


def main(argv: Sequence[str]) -> None:
    """Print what works and what does not; exit with code 1 if something does not."""
    parser = argparse.ArgumentParser(prog="d2v doctor", description=__doc__.split(": ")[1])
    parser.add_argument(
        "--nodes",
        nargs="?",
        const="",
        metavar="RUN",
        help="submit a short Slurm job with the resources of a run (default: the first one), and"
        " check its nodes: GPUs, network, shared folder, flock, clocks, names, versions",
    )
    parser.add_argument(
        "--params",
        type=Path,
        default=EXPERIMENT,
        metavar="FILE",
        help="parameter file of the experiment (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if args.nodes is None:
        print(", ".join(f"{name} {version}" for name, version in provenance.versions().items()))
        return
    from d2v.jobs import nodes

    experiment = params.load(args.params)
    run = runs.parse(experiment, args.nodes) if args.nodes else runs.all_runs(experiment)[0]
    code = nodes.main(cluster.load(), run.id)
    if code:
        sys.exit(code)
