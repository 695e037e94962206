"""`d2v doctor`: whether this machine, or the nodes of a cluster, can do what d2v needs."""

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from d2v.cli import choice
from d2v.util.arguments import Parser

if TYPE_CHECKING:
    from d2v.jobs import machine

SIGNS = {"ok": "ok", "note": "-", "warning": "warning", "error": "ERROR"}


def parser() -> Parser:
    """Argument parser of `d2v doctor`."""
    made = Parser(
        prog="d2v doctor",
        description="Check versions, extras, threads, locale, disks, Slurm, DVC and GPUs: what"
        " works, what does not, and what to do. The exit code is 1 if something needed is broken.",
    )
    choice.add(made)
    made.add_argument(
        "--nodes",
        nargs="?",
        const="",
        metavar="RUN",
        help="instead, submit a short Slurm job with the resources of a run of FILE (default: the"
        " first one), and check its nodes: versions, GPUs, names, shared folder, flock, network,"
        " clocks",
    )
    choice.add_json(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run `d2v doctor`; returns 1 if something needed is broken."""
    args = parser().parse(argv)
    from dataclasses import asdict

    from d2v.cli.schemas import DoctorFinding, DoctorReport
    from d2v.jobs import machine

    found = []
    examined = machine.examine() if args.nodes is None else _nodes(args)
    for finding in examined:
        found.append(finding)
        if not args.json:
            advice = f"; {finding.advice}" if finding.advice else ""
            print(
                f"{SIGNS[finding.state]:8} {finding.topic:15} {finding.found}{advice}", flush=True
            )
    broken = any(finding.state == "error" for finding in found)
    if args.json:
        findings = [DoctorFinding(**asdict(finding)) for finding in found]
        print(DoctorReport(valid=not broken, findings=findings).text())
    return 1 if broken else 0


def _nodes(args: argparse.Namespace) -> Iterator["machine.Finding"]:
    """What a job finds on its nodes, one line per check and node."""
    from d2v.experiment import runs
    from d2v.jobs import cluster, machine, nodes

    experiment = choice.of(args).load()
    run = runs.parse(experiment, args.nodes) if args.nodes else runs.all_runs(experiment)[0]
    for one in nodes.check(cluster.load(), run.id):
        topic = f"{one.node} {one.check}"
        if one.ok:
            yield machine.Finding(topic, "ok", one.said)
        else:
            yield machine.Finding(topic, "error", one.said, one.remedy)
