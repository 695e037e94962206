"""What `--json` prints: one class per command; the reference page is made from them.

`format` is the name and version of a report. A version may gain keys; removing a key or
changing its meaning requires a new version. Undefined numbers are null.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Report(BaseModel):
    """Base of all reports: complete, without other keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def text(self) -> str:
        """The report as JSON; numbers that are not finite are null."""
        return self.model_dump_json(indent=1)


class CheckReport(Report):
    """`d2v check --json`; printed for a file with errors, too, where the exit code is 2."""

    format: Literal["d2v.check/1"] = "d2v.check/1"
    file: str
    overrides: list[str]  # values of --set
    valid: bool
    experiment: str | None  # name; null if the file is not valid
    runs: dict[str, int]  # number of runs of each kind
    errors: list[str]  # one sentence each


class RunState(Report):
    """One run in `d2v status --json`."""

    run: str  # id
    # missing, queued, requeued, running, stalled, ending, done, or how the run ended
    state: str
    step: int | None  # latest step in the log
    steps: int | None  # number of steps; null until the grid is searched
    age_s: float | None  # seconds since the last step was logged, of a running run
    examples_per_s: float | None
    eta_s: float | None  # remaining seconds, of a running run
    loss: float | None
    target_std: float | None  # standard deviation of the targets
    prediction_std: float | None  # standard deviation of the predictions
    job: str | None  # id of its Slurm job
    link: int | None  # number of the job in the chain of jobs with a time limit
    links: int | None  # expected length of the chain
    node: str | None  # where it runs
    gpu_mib: float | None  # peak memory of the job's first GPU so far, MiB


class StatusReport(Report):
    """`d2v status --json`."""

    format: Literal["d2v.status/1"] = "d2v.status/1"
    experiment: str  # name
    counts: dict[str, int]  # number of runs in each state
    runs: list[RunState]  # in an order in which they can be executed


class PlannedSpeed(Report):
    """Assumed speed in `d2v plan --json`."""

    flops: dict[str, float]  # operations per second of one GPU, by modality
    source: str  # where the figure comes from


class PlannedRun(Report):
    """One run in `d2v plan --json`."""

    run: str  # id
    table: str  # the first table that needs it
    updates: int  # optimiser steps
    examples: float  # examples seen, including repetitions
    pflop: float  # 1e15 operations
    gpus: int
    gpu_hours: float
    hours: float
    cpu_hours: float
    disk_gb: float  # checkpoints
    links: int  # jobs in a row, each limited to the hours set in params/cluster.yaml


class PlannedComparison(Report):
    """Cost of one seed of a pre-training and of its counterparts, in `d2v plan --json`."""

    pretrain: str  # name in this experiment
    others: list[str]  # names in the other experiment; their costs are added
    pflop: float  # 1e15 operations
    gpu_hours: float
    other_pflop: float
    other_gpu_hours: float


class PlanReport(Report):
    """`d2v plan --json`."""

    format: Literal["d2v.plan/1"] = "d2v.plan/1"
    experiment: str  # name
    speed: PlannedSpeed
    jobs: list[PlannedRun]
    compared: list[PlannedComparison]  # empty unless the parameter file has `compare`


class VerifyReport(Report):
    """`d2v verify --json`; the exit code is 2 if there are errors."""

    format: Literal["d2v.verify/1"] = "d2v.verify/1"
    folder: str
    experiment: str  # name
    valid: bool
    runs: int  # runs whose metrics were recomputed
    numbers: int  # recomputed metrics
    cells: int  # recomputed table cells
    errors: list[str]  # one sentence each


class Side(Report):
    """A or B in `d2v compare --json`."""

    folder: str
    value: float | None  # a fraction; of an arm, the mean; null if it is undefined
    low: float | None  # 95 % interval of the bootstrap over examples; of an arm, null
    high: float | None
    seeds: list[float]  # of an arm, the value of each seed


class DifferenceOfSides(Report):
    """B minus A in `d2v compare --json`."""

    value: float | None
    low: float | None  # 95 % interval
    high: float | None
    p: float | None
    test: str  # method


class CompareReport(Report):
    """`d2v compare --json`."""

    format: Literal["d2v.compare/1"] = "d2v.compare/1"
    of: Literal["runs", "arms"]
    split: str
    metric: str
    higher_is_better: bool
    a: Side
    b: Side
    difference: DifferenceOfSides | None  # null if a value is undefined
    better: Literal["a", "b"] | None  # null if the interval includes zero or is undefined
    examples: int | None  # number of examples; of arms, null
    # parameters, data and code that differ: dotted key to the values of A and B; of arms, empty
    changes: dict[str, list[str | int | float | bool | None]]


class DoctorFinding(Report):
    """One line of `d2v doctor --json`."""

    topic: str
    # ok; note: absent, but not needed; warning: works with limits; error: needed and broken
    state: Literal["ok", "note", "warning", "error"]
    found: str
    advice: str  # what to do; empty if there is nothing to do


class DoctorReport(Report):
    """`d2v doctor --json`; the exit code is 1 if a finding is an error."""

    format: Literal["d2v.doctor/1"] = "d2v.doctor/1"
    valid: bool  # whether there is no error
    findings: list[DoctorFinding]
