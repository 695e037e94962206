"""`params/cluster.yaml`: where runs are executed. Nothing in it changes a result."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from d2v import params
from d2v.experiment.retention import Rule

FILE = Path("params/cluster.yaml")
# a number of GPUs per node, or their type and number
Gpus = params.Count | Annotated[str, Field(pattern=r"^[A-Za-z][\w.-]*:[0-9]+$")]


class LocalJobs(params.Strict):
    """Jobs on this machine."""

    gpus: params.Count = 0  # 0 hides all GPUs; otherwise one process per GPU
    hours: params.Positive = 168


class Resources(params.Strict):
    """Resources that a job requests from Slurm, and what happens when it is interrupted."""

    partition: str | None = None  # None, here and below: the cluster's default
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: params.Positive = 1
    gpus: Gpus = 0  # per node; with a type: a100:2
    tasks: params.Positive | None = None  # processes per node; None: one per GPU, at least one
    cpus: params.Positive | None = None  # per process; None: the run's own number
    memory_gb: params.Rate | None = None  # per node
    hours: params.Rate = 24
    signal_s: params.Positive = 120  # seconds before the time limit at which the job is signalled
    requeue: bool = True  # after a time limit, pre-emption or lost node; False: report an error
    # resubmissions of a job that died, or requeues of an interrupted one, without further progress
    retries: params.Count = 2
    poll_s: params.Rate = 10  # minimum number of seconds between two queries to Slurm
    at_once: params.Positive | None = None  # most jobs of an array that run at the same time
    # folder on a node's own disk to which a job copies its prepared sets; None: they are read from
    # where they are
    stage: str | None = None
    # shell lines that run before Python: modules, variables
    setup: list[str] = Field(default_factory=list)
    # command that starts a container, e.g. `apptainer exec --nv d2v.sif`; python3 is appended
    container: str | None = None
    srun: list[str] = Field(default_factory=list)  # additional options of srun
    # additional options of sbatch
    sbatch: dict[str, str | int | bool] = Field(default_factory=dict)

    @property
    def gpu_count(self) -> int:
        """GPUs on each node, of whatever type."""
        return self.gpus if isinstance(self.gpus, int) else int(self.gpus.rpartition(":")[2])

    @property
    def processes(self) -> int:
        """Processes on each node."""
        return self.tasks or max(self.gpu_count, 1)


# what a rule of the workflow gets unless an override names it: one process without a GPU
RULE: dict[str, Any] = {"nodes": 1, "gpus": 0, "tasks": 1}


class SlurmJobs(Resources):
    """Resources of every job, and overrides for some jobs."""

    # keyed by pattern of run ids or rules; each override changes only the fields that it sets
    overrides: dict[str, Resources] = Field(default_factory=dict)

    def of(self, name: str) -> Resources:
        """Resources of a run (`pretrain/vision/seed0`) or of a rule of the workflow (`data`).

        Every matching pattern is applied, in the order of the file. Rules use one process without
        a GPU unless an override sets other values.
        """
        given = {key: getattr(self, key) for key in Resources.model_fields}
        if "/" not in name:
            given |= RULE
        for pattern, override in self.overrides.items():
            if fnmatchcase(name, pattern):
                given |= {key: getattr(override, key) for key in override.model_fields_set}
        return Resources.model_validate(given)


class Disk(params.Strict):
    """What `d2v clean` leaves of the checkpoints of finished runs."""

    checkpoints: Rule = "best"  # see d2v.experiment.retention
    overrides: dict[str, Rule] = Field(default_factory=dict)  # by pattern of run ids

    def of(self, name: str) -> Rule:
        """The rule of a run; the last pattern that matches counts."""
        found = self.checkpoints
        for pattern, rule in self.overrides.items():
            found = rule if fnmatchcase(name, pattern) else found
        return found


class Cluster(params.Strict):
    """Content of `params/cluster.yaml`."""

    local: LocalJobs = LocalJobs()
    slurm: SlurmJobs = SlurmJobs()
    disk: Disk = Disk()


def load() -> Cluster:
    """Read the file if it exists, else use the defaults; raises ParamsError with all errors."""
    return params.load_as(Cluster, FILE) if FILE.exists() else Cluster()


def minutes(hours: float) -> int:
    """Whole minutes, at least one: Slurm's unit of time."""
    return max(1, round(60 * hours))
