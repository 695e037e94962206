"""`d2v check`: validate a parameter file without running anything."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from d2v.cli import choice
from d2v.util import verbosity
from d2v.util.arguments import Parser

if TYPE_CHECKING:
    from d2v.params import Experiment

TEXT = "Check a parameter file and count its runs."


def parser() -> Parser:
    """Argument parser of `d2v check`."""
    made = Parser(prog="d2v check", description=TEXT)
    choice.add(made)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v check [FILE]`; raises ParamsError with all errors of the file."""
    args = parser().parse(argv)
    chosen = choice.of(args)
    experiment = chosen.load()
    counts = _counts(chosen, experiment)
    if not verbosity.quiet():
        said = ", ".join(f"{n} {kind}" for kind, n in counts.items())
        print(f"{chosen.label}: valid; {said} runs")
        if chosen.sets:
            print(f"experiment {experiment.name}")


def _counts(chosen: choice.Chosen, experiment: "Experiment") -> dict[str, int]:
    """Number of runs of each kind; raises ParamsError."""
    from d2v import params
    from d2v.experiment import runs
    from d2v.params import prepared

    prepared.check(experiment, chosen.file, runs.all_datasets(experiment))
    params.check_stages(experiment)
    found: Counter[str] = Counter(run.kind for run in runs.all_runs(experiment))
    kinds = ["pretrain", "select", "finetune", "decode", *["probe"] * ("probe" in found)]
    return {kind: found[kind] for kind in kinds}
