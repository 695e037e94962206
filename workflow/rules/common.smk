# The experiment, and what the rules ask about it. Parameters are checked here, before the DAG.

import atexit
import sys
from pathlib import Path

from d2v.jobs import cluster, launch, staleness
from d2v.util import locks
from d2v import params
from d2v.experiment import runs
from d2v.util.errors import UserError
from d2v.params import prepared

EXPERIMENT = config.get("experiment", "params/mini.yaml")
LAUNCH = config.get("launch", "local")  # where runs are carried out; a profile says
try:
    experiment = params.load(EXPERIMENT)
    prepared.check(experiment, Path(EXPERIMENT), runs.all_datasets(experiment))
    params.check_stages(experiment)
    machines = cluster.load()
    if LAUNCH not in launch.PLACES:
        raise UserError(f"launch={LAUNCH}: must be one of {', '.join(launch.PLACES)}")
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)

# After SIGKILL Snakemake's lock stays and would refuse this start. Not for a job of this workflow on
# another machine: the lock is that of the workflow itself.
if not workflow.remote_exec:
    locks.claim(Path(".snakemake"))

# DVC judges whether data is out of date. Asking takes seconds, so it happens while the DAG is built;
# the answer is told before the first job starts, or else in the end.
if workflow.is_main_process:
    data_state = staleness.Watch(
        [
            name
            for name in runs.all_datasets(experiment)
            if runs.meta_path(experiment, name).exists()
        ],
        Path(experiment.stages),
    )
    atexit.register(data_state.report)


onstart:
    data_state.report()


# The commands of this environment come first, also where it was not activated.
shell.prefix(f"export PATH='{Path(sys.executable).parent}':\"$PATH\"; ")

RUNS = f"{runs.RESULTS}/{experiment.name}/runs"
WORK = f"{runs.WORK}/{experiment.name}"
TABLES = f"{runs.RESULTS}/{experiment.name}/tables"


wildcard_constraints:
    name="[^/]+",
    arm="|".join(params.ARMS),
    setting="[^/]+",
    seed=r"\d+",
    dataset="[^/]+",


def run_of(kind, wildcards):
    """The run that the wildcards of an output name."""
    fields = {key: wildcards.get(key) for key in ("arm", "setting")}
    return runs.Run(kind, wildcards.name, int(wildcards.seed), **fields)


def needs(kind):
    """Input function: prepared sets, the pre-training, and the choice on the grid."""

    def files(wildcards):
        run = run_of(kind, wildcards)
        found = [runs.meta_path(experiment, name) for name in runs.datasets(experiment, run)]
        source = runs.pretrain_run(experiment, run)
        if source:
            found.append(runs.metrics_path(experiment, source))
        if kind == "finetune" and experiment.finetune[run.name].grid:
            found.append(runs.chosen_path(experiment, run.name))
        return found

    return files


def defining(kind):
    """Params function: the parameters of this run only, so that editing it reruns it alone."""
    return lambda wildcards: runs.as_lines(runs.resolve(experiment, run_of(kind, wildcards).id))


def threads_of(kind):
    """Threads of a run here; of a run that is elsewhere, the one that waits for it."""
    return lambda wildcards: (
        1 if LAUNCH == "slurm" else runs.cpus(experiment, run_of(kind, wildcards))
    )


def on_cluster(rule):
    """What a rule without a GPU asks of Slurm; nothing on this machine."""
    return machines.slurm.of_rule(rule) if LAUNCH == "slurm" else {}


def about(kind):
    """What a run does, in words."""
    return lambda wildcards: runs.describe(experiment, run_of(kind, wildcards))
