"""`d2v doctor`: whether this machine can do what d2v needs."""

from collections.abc import Sequence

from d2v.cli import choice
from d2v.util.arguments import Parser

SIGNS = {"ok": "ok", "note": "-", "warning": "warning", "error": "ERROR"}


def parser() -> Parser:
    """Argument parser of `d2v doctor`."""
    made = Parser(
        prog="d2v doctor",
        description="Check versions, extras, threads, locale, disks, Slurm, DVC and GPUs: what"
        " works, what does not, and what to do. The exit code is 1 if something needed is broken.",
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
    for finding in machine.examine():
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
