"""`d2v run`, `d2v select` and `d2v units`: the steps of an experiment, one at a time."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from d2v.cli import choice
from d2v.util.arguments import Parser, UsageError
from d2v.util.errors import UserError

if TYPE_CHECKING:
    from d2v.params import Experiment


def check_place(experiment: "Experiment") -> None:
    """Raise UserError if the current folder has neither the project nor files of the experiment.

    Otherwise, work/ and results/ would be created in an unrelated folder, without the data.
    """
    from d2v.experiment import folders

    prepared = Path(experiment.prepared)
    signs = [Path("Snakefile"), folders.results(experiment), folders.work(experiment)]
    if not any(path.exists() for path in [*signs, *([] if prepared.is_absolute() else [prepared])]):
        raise UserError(
            f"{Path.cwd()}: contains neither a Snakefile nor {prepared},"
            f" results/{experiment.name} or work/{experiment.name}; run d2v in the project folder"
        )


def run_parser() -> Parser:
    """Argument parser of `d2v run`."""
    made = _parser("run", "start one run as a job, or attach to its job if it is already running")
    made.add_argument(
        "name", metavar="RUN", help="ID of the run, for example pretrain/vision/seed0"
    )
    made.add_argument(
        "--launch",
        choices=("local", "slurm", "debug"),
        default="local",
        help="local: a job on this machine that survives this command; slurm: a cluster job,"
        " configured in params/cluster.yaml; debug: in this process",
    )
    made.add_argument(
        "--tolerant",
        action="store_true",
        help="end with exit code 0, not 8, if only work after the training has failed, such as a"
        " picture; the workflow does this, because it would remove the metrics otherwise",
    )
    return made


def run_main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v run [FILE] RUN`."""
    args = _parsed(run_parser(), argv)
    from d2v.experiment import runs

    chosen = choice.of(args)
    experiment = chosen.load()
    check_place(experiment)
    runs.parse(experiment, args.name)  # before anything is written or imported
    from d2v.jobs import launch

    launch.run(chosen.path(), args.name, args.launch, args.tolerant)


def select_parser() -> Parser:
    """Argument parser of `d2v select`."""
    made = _parser("select", "choose the best setting of a task from its finished grid")
    made.add_argument("name", metavar="TASK", help="name of the task, under `finetune:`")
    return made


def select_main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v select [FILE] TASK`."""
    args = _parsed(select_parser(), argv)
    from d2v.experiment import grid_choice

    experiment = choice.of(args).load()
    check_place(experiment)
    grid_choice.choose(experiment, args.name)


def units_parser() -> Parser:
    """Argument parser of `d2v units`."""
    made = _parser("units", "fit the k-means units that a pre-training run predicts")
    made.add_argument(
        "name", metavar="PRETRAIN", help="name of the pre-training run, under `pretrain:`"
    )
    return made


def units_main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v units [FILE] PRETRAIN`."""
    args = _parsed(units_parser(), argv)
    from d2v.experiment import pretraining

    experiment = choice.of(args).load()
    check_place(experiment)
    pretraining.make_units(experiment, args.name)


def _parser(name: str, text: str) -> Parser:
    made = Parser(prog=f"d2v {name}", description=f"{text[0].upper()}{text[1:]}.")
    choice.add(made)
    return made


def _parsed(made: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parsed arguments; raises UsageError for a parameter file alone, which [FILE] NAME allows."""
    args = made.parse(argv)
    if args.name.endswith(choice.SUFFIXES):
        raise UsageError(f"{made.prog}: missing name after {args.name}; see `{made.prog} --help`")
    return args
