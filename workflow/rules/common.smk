# The experiment and the functions that rules use to query it. Parameters are validated here, before
# Snakemake builds the DAG.

import atexit
import sys
from pathlib import Path

from d2v.jobs import cluster, launch, staleness
from d2v.util import locks
from d2v import params
from d2v.data import own_stages
from d2v.experiment import finished, folders, overridden, purged, runs
from d2v.util.errors import UserError
from d2v.params import prepared

LAUNCH = config.get("launch", "local")  # where runs are executed; set by a profile
try:
    # With `set=KEY=VALUE`, the experiment is a parameter file with overrides, under its own name.
    EXPERIMENT = overridden.write(
        Path(config.get("experiment", "params/mini.yaml")), overridden.words_of(config.get("set"))
    ).as_posix()
    config["experiment"] = EXPERIMENT  # read by the executor
    experiment = params.load(EXPERIMENT)
    own_stages.write_stages(Path(EXPERIMENT), experiment)
    prepared.check(experiment, Path(EXPERIMENT), runs.all_datasets(experiment))
    params.check_stages(experiment)
    cluster.load()  # reports its errors here
    if LAUNCH not in launch.PLACES:
        raise UserError(f"launch={LAUNCH}: must be one of {', '.join(launch.PLACES)}")
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)

# After SIGKILL, Snakemake's lock remains and would block this start. A job of this workflow on
# another machine must not claim it, because that lock belongs to the running workflow.
if not workflow.remote_exec:
    locks.claim(Path(".snakemake"))

# DVC decides whether data is out of date. The query takes seconds, so it runs while the DAG is
# built; its answer is reported before the first job starts, or otherwise at the end.
if workflow.is_main_process:
    data_state = staleness.Watch(
        [
            name
            for name in runs.all_datasets(experiment)
            if folders.meta_path(experiment, name).exists()
        ],
        Path(experiment.stages),
    )
    atexit.register(data_state.report)


onstart:
    data_state.report()


# The commands of this environment come first on the PATH, even if it is not activated.
shell.prefix(f"export PATH='{Path(sys.executable).parent}':\"$PATH\"; ")

RESULTS, WORK = folders.results(experiment), folders.work(experiment)
RUNS, TABLES = RESULTS / "runs", RESULTS / "tables"
known = runs.by_id(experiment)

# Finished runs that lost files which other runs still need (deleted by hand, or by a purge of the
# file system), or whose metrics are damaged: Snakemake, which sees only that there are metrics, is
# told to run them again by `needs`.
lost = purged.lost(experiment)
if lost and workflow.is_main_process:
    print(f"warning: {purged.sentence(lost)}", file=sys.stderr)


wildcard_constraints:
    name="[^/]+",
    arm="|".join(params.ARMS),
    point="[^/]+",
    seed=r"\d+",
    dataset="[^/]+",


def run_of(kind, wildcards):
    """Return the run that an output's wildcards name."""
    parts = [
        kind,
        *(wildcards.get(key) for key in ("name", "arm", "point")),
        f"seed{wildcards.seed}",
    ]
    run_id = "/".join(part for part in parts if part)
    return known.get(run_id) or runs.parse(experiment, run_id)


def after(run):
    """Return the metrics of the run before `run`.

    If that run is or was repeated because it lost files, `run` does not have to follow. Snakemake
    does not look for other reasons to run what follows a run that is forced, so there must be none.
    """
    path, own = run.previous.metrics_path, run.metrics_path
    again = run.previous.id in lost
    if run.id in lost or not own.exists():
        return path
    newer = path.exists() and path.stat().st_mtime > own.stat().st_mtime
    stays = (again or newer) and finished.stands(run, repeated=again)
    return ancient(path) if stays else path


def needs(kind):
    """Return an input function: prepared sets, the previous run, and the choice from the grid."""

    def files(wildcards):
        run = run_of(kind, wildcards)
        if run.id in lost:  # as --forcerun does
            workflow.dag.forcefiles.add(str(run.metrics_path))
        found = [folders.meta_path(experiment, name) for name in run.datasets]
        if run.previous:
            found.append(after(run))
        if kind == "pretrain" and run.units:
            found.append(run.units)
        if kind == "finetune" and run.params.grid:
            found.append(folders.chosen_path(experiment, run.name))
        return found

    return files


def defining(kind):
    """Return a params function: only this run's parameters, so that editing them reruns it alone."""
    return lambda wildcards: runs.as_lines(run_of(kind, wildcards).defining())


def threads_of(kind):
    """Return a threads function: a local run's CPUs; params/cluster.yaml sets those of a job."""
    return lambda wildcards: 1 if LAUNCH == "slurm" else run_of(kind, wildcards).cpus


def about(kind):
    """Return a params function: one line that describes the run."""
    return lambda wildcards: run_of(kind, wildcards).describe()
