"""`d2v reproduce`: the whole workflow of an experiment, then its tables and its cost."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from d2v.cli import choice
from d2v.util import locks, verbosity
from d2v.util.arguments import Parser
from d2v.util.errors import FailedAfterwards, UserError

if TYPE_CHECKING:  # imported late, so that --help is quick
    from d2v.cli.following import Follower
    from d2v.params import Experiment

PROFILE = Path("workflow/profiles/local")
PAUSE_S = 0.5  # between two looks at Snakemake's log
WARM_FROM = 4  # runs to do from which a process that starts their jobs is worthwhile
CANCEL_S = 30.0  # time that Snakemake has to cancel its jobs after Ctrl-C


def parser() -> Parser:
    """Argument parser of `d2v reproduce`."""
    made = Parser(
        prog="d2v reproduce",
        description="Run the whole workflow of an experiment and print its tables.",
    )
    choice.add(made)
    made.add_argument(
        "--cores", default="all", metavar="N", help="number of CPU cores to use (default: all)"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run `d2v reproduce [FILE]`; returns the exit code."""
    args = parser().parse(argv)
    from d2v import params
    from d2v.experiment import runs
    from d2v.params import prepared

    chosen = choice.of(args)
    experiment = chosen.load()
    if not Path("Snakefile").is_file():
        raise UserError(f"{Path.cwd()}: no Snakefile here; run d2v in the project folder")
    prepared.check(experiment, chosen.file, runs.all_datasets(experiment))
    params.check_stages(experiment)
    return reproduce(experiment, chosen.path(), args.cores)


def reproduce(experiment: "Experiment", experiment_path: Path, cores: str) -> int:
    """Run whatever is missing or out of date, then print tables, folders, time and memory.

    The parameters, read from the file `experiment_path`, have been checked. Returns Snakemake's
    exit code or, if only work after a training has failed, that of FailedAfterwards.
    """
    from d2v.cli import following
    from d2v.experiment import folders
    from d2v.jobs import warm

    started = time.perf_counter()
    # a Snakemake whose caller was killed continues: wait for it, and pass the claim on to the new
    # Snakemake, so that the next call waits for that one, too
    locks.claim(Path(".snakemake"), wait=True)
    command = [sys.executable, "-m", "snakemake", "--profile", str(PROFILE), "--cores", cores]
    command += ["--config", f"experiment={experiment_path}"]
    log = folders.work(experiment) / "workflow.log"
    if not verbosity.quiet():
        print(f"running the workflow of {experiment.name}; full output: {log}", flush=True)
    follower = following.Follower(experiment, log)
    missing = sum(not run.metrics_path.exists() for run in follower.runs)
    with warm.serving(missing >= WARM_FROM) as more:
        code = _run(command, follower, more)
    if code:
        said = "\n".join(follower.failure())
        print(
            f"{said}\nThe workflow stopped; finished work is kept. Fix the error above, and run the"
            f" same command again to resume. Full output: {log}",
            file=sys.stderr,
        )
        return code
    from d2v.results import tables

    results = folders.results(experiment)
    print(tables.render_console(experiment, results))
    print(f"\n{_cost(experiment, time.perf_counter() - started)}")
    print(f"page {results / 'index.html'}  tables {results / 'tables'}/")
    print(f"runs {results / 'runs'}/  logs {folders.WORK}/")
    return told_failures(experiment)


def told_failures(experiment: "Experiment") -> int:
    """Print what failed after the training of any run; return the exit code."""
    from d2v.experiment import finished, runs

    found = [(run.id, line) for run in runs.all_runs(experiment) for line in finished.failures(run)]
    for name, line in found:
        print(f"warning: {name}: {line}", file=sys.stderr)
    return FailedAfterwards.exit_code if found else 0


def _run(command: list[str], follower: "Follower", more: dict[str, str]) -> int:
    """Run Snakemake with its output in the follower's log; return its exit code.

    `more` is added to its environment.

    After Ctrl-C, which Snakemake receives as well, wait until it has cancelled its jobs.
    """
    follower.log.parent.mkdir(parents=True, exist_ok=True)
    with follower.log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=locks.claimed(),
            env=os.environ | more,
        )
    try:
        while process.poll() is None:
            follower.look()
            time.sleep(PAUSE_S)
    except KeyboardInterrupt:
        try:
            process.wait(CANCEL_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        raise
    finally:
        follower.close()
    return process.returncode


def _cost(experiment: "Experiment", seconds: float) -> str:
    """Duration of this call, and total time and peak memory of all runs, in one line."""
    from d2v.experiment import runs, stored

    found = [stored.intact(run) for run in runs.all_runs(experiment)]
    told = [metrics["provenance"] for metrics in found if metrics and metrics.get("provenance")]
    spent = timedelta(seconds=round(sum(p.get("wall_s") or 0 for p in told)))
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    other = children / (2**20 if sys.platform == "darwin" else 2**10)
    largest = max([other, *(p.get("peak_mib") or 0 for p in told)])
    return (
        f"this call took {timedelta(seconds=round(seconds))}; {len(told)} runs took {spent} in all;"
        f" largest process {largest:.0f} MiB"
    )
