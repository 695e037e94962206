"""`params/cluster.yaml`: where runs are carried out. Nothing in it changes a result."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import Field

from d2v import params

FILE = Path("params/cluster.yaml")


class LocalJobs(params.Strict):
    """Jobs on this machine."""

    gpus: params.Count = 0  # 0 hides all of them; otherwise one process a GPU
    hours: params.Positive = 168


class Resources(params.Strict):
    """What a job asks of Slurm, and what happens when it is interrupted."""

    partition: str | None = None  # None, here and below: what the cluster gives by itself
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: params.Positive = 1
    gpus: params.Count = 0  # per node
    tasks: params.Positive | None = None  # processes per node; None: one a GPU, at least one
    cpus: params.Positive | None = None  # per process; None: the run's own
    memory_gb: params.Rate | None = None  # per node
    hours: params.Rate = 24
    signal_s: params.Positive = 120  # the job is told so long before its time is up
    requeue: bool = True  # after a time limit, a pre-emption, a lost node; False: reported
    retries: params.Count = (
        2  # submissions of a job that died and got no further than the one before
    )
    poll_s: params.Rate = 10  # seconds between two questions to Slurm
    # lines of shell before Python: modules, variables
    setup: list[str] = Field(default_factory=list)
    # command that starts a container, for example `apptainer exec --nv d2v.sif`: python3 is added
    container: str | None = None
    # further options of sbatch
    sbatch: dict[str, str | int | bool] = Field(default_factory=dict)

    @property
    def processes(self) -> int:
        """Processes on each node."""
        return self.tasks or max(self.gpus, 1)


class SlurmJobs(Resources):
    """Resources of every job, and what some jobs ask for instead."""

    # by pattern of run ids or rules; of each only what is given counts
    overrides: dict[str, Resources] = Field(default_factory=dict)

    def of(self, name: str) -> Resources:
        """Resources of a run (`pretrain/vision/seed0`) or of a rule of the workflow (`data`).

        Every pattern that fits is applied, in the order of the file.
        """
        given = {key: getattr(self, key) for key in Resources.model_fields}
        for pattern, override in self.overrides.items():
            if fnmatchcase(name, pattern):
                given |= {key: getattr(override, key) for key in override.model_fields_set}
        return Resources.model_validate(given)

    def of_rule(self, name: str) -> Mapping[str, Any]:
        """The same for a rule without a GPU, in the words of Snakemake's Slurm executor."""
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
    """The file."""

    local: LocalJobs = LocalJobs()
    slurm: SlurmJobs = SlurmJobs()


def load() -> Cluster:
    """Read the file, if there is one; raises ParamsError with every fault."""
    return params.load_as(Cluster, FILE) if FILE.exists() else Cluster()


def minutes(hours: float) -> int:
    """Whole minutes, at least one: Slurm's unit of time."""
    return max(1, round(60 * hours))
