"""`d2v check`: validate a parameter file without running anything."""

from collections import Counter
from collections.abc import Iterator, Sequence
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
    choice.add_json(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run `d2v check [FILE]`; raises ParamsError with all errors of the file.

    With --json, the errors are part of the report, and the exit code is 2.
    """
    args = parser().parse(argv)
    chosen = choice.of(args)
    if args.json:
        return _reported(chosen)
    experiment = chosen.load()
    counts = _counts(chosen, experiment)
    if not verbosity.quiet():
        said = ", ".join(f"{n} {kind}" for kind, n in counts.items())
        print(f"{chosen.label}: valid; {said} runs")
        if chosen.sets:
            print(f"experiment {experiment.name}")
    for line in _without_effect(experiment):
        verbosity.notice(f"note: {line}")
    return 0


def _without_effect(experiment: "Experiment") -> Iterator[str]:
    """Given safeguards that runs are too short for; no errors, since a trial may be short."""
    trained = {name: run for name, run in experiment.pretrain.items() if run.released is None}
    limits = {name: run.collapse for name, run in trained.items()}
    after = {name: p.after for name, p in limits.items() if "after" in p.model_fields_set}
    rebound = {name: run.train.rebound for name, run in trained.items()}
    steps = {name: limit.steps for name, limit in rebound.items() if limit is not None}
    for key, given in (("collapse.after", after), ("train.rebound.steps", steps)):
        if short := [name for name, least in given.items() if least > trained[name].train.steps]:
            yield f"{key} is more than train.steps and has no effect in {', '.join(short)}"


def _reported(chosen: choice.Chosen) -> int:
    from d2v.cli.schemas import CheckReport
    from d2v.params import ParamsError

    name, counts, errors = None, {}, []
    try:
        experiment = chosen.load()
        counts, name = _counts(chosen, experiment), experiment.name
    except ParamsError as error:
        head, *lines = str(error).split("\n  ")
        errors = lines or [head]
    report = CheckReport(
        file=str(chosen.file),
        overrides=list(chosen.sets),
        valid=not errors,
        experiment=name,
        runs=counts,
        errors=errors,
    )
    print(report.text())
    return 2 if errors else 0


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
