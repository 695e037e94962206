"""`params/cluster.yaml`: where runs are executed. Nothing in it changes a result."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import Field

from d2v import params

FILE = Path("params/cluster.yaml")


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
    gpus: params.Count = 0  # per node
    tasks: params.Positive | None = None  # processes per node; None: one per GPU, at least one
    cpus: params.Positive | None = None  # per process; None: the run's own number
    memory_gb: params.Rate | None = None  # per node
    hours: params.Rate = 24
    signal_s: params.Positive = 120  # seconds before the time limit at which the job is signalled
    requeue: bool = True  # after a time limit, pre-emption or lost node; False: report an error
    retries: params.Count = 2  # resubmissions of a job that died without further progress
    poll_s: params.Rate = 10  # seconds between two queries to Slurm
    # shell lines that run before Python: modules, variables
    setup: list[str] = Field(default_factory=list)
    # command that starts a container, e.g. `apptainer exec --nv d2v.sif`; python3 is appended
    container: str | None = None
    # additional options of sbatch
    sbatch: dict[str, str | int | bool] = Field(default_factory=dict)

    @property
    def processes(self) -> int:
        """Processes on each node."""
        return self.tasks or max(self.gpus, 1)


class SlurmJobs(Resources):
    """Resources of every job, and overrides for some jobs."""

    # keyed by pattern of run ids or rules; each override changes only the fields that it sets
    overrides: dict[str, Resources] = Field(default_factory=dict)

    def of(self, name: str) -> Resources:
        """Resources of a run (`pretrain/vision/seed0`) or of a rule of the workflow (`data`).

        Every matching pattern is applied, in the order of the file.
        """
        given = {key: getattr(self, key) for key in Resources.model_fields}
        for pattern, override in self.overrides.items():
            if fnmatchcase(name, pattern):
                given |= {key: getattr(override, key) for key in override.model_fields_set}
        return Resources.model_validate(given)

    def of_rule(self, name: str) -> Mapping[str, Any]:
        """Resources of a rule without a GPU, as resource names of Snakemake's Slurm executor."""
        found = self.of(name)
        words = {
            "slurm_partition": found.partition,
            "slurm_account": found.account,
            "qos": found.qos,
            "constraint": found.constraint,
            "cpus_per_task": found.cpus,
            "mem_mb": found.memory_gb and round(1024 * found.memory_gb),
            "runtime": minutes(found.hours),
        }
        return {key: value for key, value in words.items() if value is not None}


class Cluster(params.Strict):
    """Content of `params/cluster.yaml`."""

    local: LocalJobs = LocalJobs()
    slurm: SlurmJobs = SlurmJobs()


def load() -> Cluster:
    """Read the file if it exists, else use the defaults; raises ParamsError with all errors."""
    return params.load_as(Cluster, FILE) if FILE.exists() else Cluster()


def minutes(hours: float) -> int:
    """Whole minutes, at least one: Slurm's unit of time."""
    return max(1, round(60 * hours))
