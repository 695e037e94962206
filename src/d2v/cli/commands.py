"""Prepare data, run experiments and build result tables. Heavy imports are deferred."""

import argparse
import errno
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from d2v.util.errors import UserError, shortened

if TYPE_CHECKING:
    from d2v.params import Experiment

EXPERIMENT = Path("params/mini.yaml")
# commands that parse their own arguments: name to (module with main(argv) or
# module:function; help text)
OWN = {
    "fetch": (
        "d2v.data.fetch.fetch",
        "download the raw sources of the miniature or of an official set",
    ),
    "layout": ("d2v.data.mini.mini", "write a miniature set in its official on-disk layout"),
    "prepare": ("d2v.cli.prepare", "convert a data set from its official layout to shards"),
    "plan": ("d2v.cli.plan", "estimate the cost of an experiment: updates, FLOP, GPU-hours, disk"),
    "clean": ("d2v.cli.clean", "list or remove checkpoints that nothing needs any more"),
    "doctor": ("d2v.cli.doctor", "check this machine, or with --nodes the nodes of a Slurm job"),
    "data": ("d2v.cli.data", "fetch sources and update the prepared sets with DVC"),
    "convert": ("d2v.interop.convert", "convert a checkpoint between supported formats"),
    "features": ("d2v.cli.inference:features_main", "write hidden states and logits to a file"),
    "transcribe": ("d2v.cli.inference:transcribe_main", "print transcripts of audio files"),
    "verify": ("d2v.results.verify", "recompute all metrics from the stored predictions"),
    "compare": (
        "d2v.results.compare",
        "compare two runs on the same examples: difference, confidence interval, p-value",
    ),
    "probe": ("d2v.cli.probe", "probe the frozen features of a checkpoint, layer by layer"),
    "classify": ("d2v.cli.inference:classify_main", "print the predicted class of files or texts"),
}

MENDED_BY = {
    errno.EROFS: "; work/, results/ and the path given with -o must be on a writable disk",
    errno.EACCES: "; request access to it, or work in a folder of your own",
    errno.EPERM: "; request access to it, or work in a folder of your own",
    errno.ENOSPC: "; free up space on that disk",
    errno.EDQUOT: "; free up space in your quota",
}


def parser() -> argparse.ArgumentParser:
    """Argument parser of `d2v`."""
    top = argparse.ArgumentParser(prog="d2v", description=__doc__.split(". ")[0] + ".")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in OWN.items():
        own = commands.add_parser(name, help=text, add_help=False)
        own.add_argument("rest", nargs="*")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.add_argument(
            "--params",
            type=Path,
            default=EXPERIMENT,
            metavar="FILE",
            help="parameter file of the experiment (default: %(default)s)",
        )
        return command

    add("check", "check a parameter file and count its runs")
    reproduce = add("reproduce", "run the whole workflow of an experiment and print its tables")
    reproduce.add_argument(
        "--cores", default="all", help="number of CPU cores to use (default: all)"
    )
    run = add("run", "start one run as a job, or attach to its job if it is already running")
    run.add_argument("run", metavar="RUN", help="ID of the run, for example pretrain/vision/seed0")
    run.add_argument(
        "--launch",
        choices=("local", "slurm", "debug"),
        default="local",
        help="local: a job on this machine that survives this command; slurm: a cluster job,"
        " configured in params/cluster.yaml; debug: in this process",
    )
    grid_choice = add("select", "choose the best setting of a task from its finished grid")
    grid_choice.add_argument("task", metavar="TASK", help="name of the task, under `finetune:`")
    units = add("units", "fit the k-means units that a pre-training run predicts")
    units.add_argument(
        "pretrain", metavar="PRETRAIN", help="name of the pre-training run, under `pretrain:`"
    )
    add("tables", "build the result tables and print them")
    status = add("status", "show the state of every run of the experiment")
    status.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=10.0,
        metavar="SECONDS",
        help="refresh every SECONDS seconds (default: 10) until all runs have ended",
    )
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run `d2v` and return the exit code.

    An error that the user can fix is one line on standard error; with D2V_DEBUG=1, it is shown with
    its traceback.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names are not necessarily UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if words and words[0] in OWN:
            module, _, function = OWN[words[0]][0].partition(":")
            getattr(importlib.import_module(module), function or "main")(words[1:])
            return 0
        args = parser().parse_args(words)
        return COMMANDS[args.command](args) or 0
    except UserError as error:
        if os.environ.get("D2V_DEBUG"):
            raise
        print(f"error: {shortened(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("cancelled", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `d2v status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        if os.environ.get("D2V_DEBUG") or error.errno is None:
            raise
        print(f"error: {_of_disk(error)}", file=sys.stderr)
        return 2


def _of_disk(error: OSError) -> str:
    """Describe a file system error in one line: the file, the reason and the remedy."""
    file = error.filename if error.filename2 is None else error.filename2
    where = "" if file is None else f"{os.fsdecode(file) if isinstance(file, bytes) else file}: "
    return f"{where}{error.strerror}{MENDED_BY.get(error.errno or 0, '')}"


def _check(args: argparse.Namespace) -> None:
    from d2v import params
    from d2v.experiment import runs
    from d2v.params import prepared

    experiment = params.load(args.params)
    prepared.check(experiment, args.params, runs.all_datasets(experiment))
    params.check_stages(experiment)
    found = runs.all_runs(experiment)
    kinds = ["pretrain", "select", "finetune", "decode"]
    kinds += ["probe"] * any(run.kind == "probe" for run in found)
    counts = {kind: sum(r.kind == kind for r in found) for kind in kinds}
    print(
        f"{args.params}: valid; " + ", ".join(f"{n} {kind}" for kind, n in counts.items()) + " runs"
    )


def _check_place(experiment: "Experiment") -> None:
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


def _reproduce(args: argparse.Namespace) -> int:
    from d2v.cli import reproduce

    if not Path("Snakefile").is_file():
        raise UserError(f"{Path.cwd()}: no Snakefile here; run d2v in the project folder")
    return reproduce.reproduce(args.params, args.cores)


def _run(args: argparse.Namespace) -> None:
    from d2v import params
    from d2v.jobs import launch

    _check_place(params.load(args.params))
    launch.run(args.params, args.run, args.launch)


def _select(args: argparse.Namespace) -> None:
    from d2v import params
    from d2v.experiment import grid_choice

    experiment = params.load(args.params)
    _check_place(experiment)
    grid_choice.choose(experiment, args.task)


def _units(args: argparse.Namespace) -> None:
    from d2v import params
    from d2v.experiment import pretraining

    experiment = params.load(args.params)
    _check_place(experiment)
    pretraining.make_units(experiment, args.pretrain)


def _tables(args: argparse.Namespace) -> None:
    from d2v import params
    from d2v.experiment import folders
    from d2v.results import summary, tables
    from d2v.results.page import build, records
    from d2v.util.files import remove_file

    experiment = params.load(args.params)
    _check_place(experiment)
    results = folders.results(experiment)
    found = records.collect(experiment, results, folders.work(experiment))
    summary.write(found, results)
    done = sum(record.finished for record in found)
    if done < len(found):  # remove the file by which the workflow marks tables as complete
        remove_file(results / "tables" / folders.COMPLETE)
    page = build.build(experiment, results, found, tables.build(experiment, results))
    print(tables.render_console(experiment, results))
    if done < len(found):
        print(f"preview: {done} of {len(found)} runs are finished; `d2v reproduce` runs the rest")
    print(f"page: {page}")


def _status(args: argparse.Namespace) -> None:
    from d2v import params
    from d2v.jobs import status

    experiment = params.load(args.params)
    if args.watch is not None:
        status.watch(experiment, args.watch)
        return
    for line in status.lines(experiment):
        print(line)


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "check": _check,
    "reproduce": _reproduce,
    "run": _run,
    "select": _select,
    "units": _units,
    "tables": _tables,
    "status": _status,
}

if __name__ == "__main__":
    sys.exit(main())
