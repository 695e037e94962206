"""`d2v verify`: recompute all metrics and table cells of an experiment."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from d2v.cli import choice
from d2v.util.arguments import Parser
from d2v.util.errors import UserError, counted

if TYPE_CHECKING:
    from d2v.params import Experiment


def parser() -> Parser:
    """Argument parser of `d2v verify`."""
    made = Parser(
        prog="d2v verify",
        description="Recompute the metrics of all runs from their predictions, and all table cells"
        " from the metrics.",
    )
    made.add_argument(
        "results",
        type=Path,
        metavar="FOLDER|FILE",
        help="results folder: results/<experiment>, or the parameter file of the experiment",
    )
    made.add_argument(
        "--params",
        type=Path,
        metavar="FILE",
        help="parameter file of the results (default: params.yaml in FOLDER, or"
        " params/<experiment>.yaml)",
    )
    choice.add_json(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run `d2v verify`; raises UserError, after the list of errors, if there are any.

    With --json, the errors are part of the report, and the exit code is 2.
    """
    args = parser().parse(argv)
    from d2v.results.verify import verify

    experiment, folder = _named(args.results, args.params)
    found = verify(experiment, folder)
    if args.json:
        from d2v.cli.schemas import VerifyReport

        report = VerifyReport(
            folder=str(folder),
            experiment=experiment.name,
            valid=not found.faults,
            runs=found.runs,
            numbers=found.numbers,
            cells=found.cells,
            errors=found.faults,
        )
        print(report.text())
        return 2 if found.faults else 0
    for fault in found.faults:
        print(fault)
    said = f"{found.numbers} numbers of {found.runs} runs and {found.cells} cells"
    if found.faults:
        errors = counted(len(found.faults), "error")
        raise UserError(f"{folder}: {errors} (above); {said} were checked")
    print(f"{folder}: {said} are what the stored predictions give")
    return 0


def _named(place: Path, file: Path | None) -> "tuple[Experiment, Path]":
    """Parameters and results folder of the experiment that the arguments name."""
    from d2v import params
    from d2v.experiment import folders

    if place.suffix in choice.SUFFIXES:
        experiment = params.load(place)
        return experiment, folders.results(experiment)
    kept = place / "params.yaml"  # of an experiment with overrides
    usual = kept if kept.is_file() else Path("params") / f"{place.resolve().name}.yaml"
    return params.load(file or usual), place
