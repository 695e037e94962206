"""`d2v doctor --nodes`: a job that requests what a run requests, and checks the nodes it gets.

The checks take less than half a minute once the job runs. Every node reports what works, what does
not, and what to do about it.
"""

import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from d2v.experiment import folders, provenance
from d2v.jobs import launch, node_checks
from d2v.jobs.cluster import Cluster, Resources, SlurmJobs
from d2v.jobs.followed import Followed
from d2v.jobs.job import Job
from d2v.jobs.local import Launcher
from d2v.jobs.node_checks import Finding, Probe
from d2v.jobs.work import JobError
from d2v.util.errors import UserError
from d2v.util.files import read_json, remove_folder, write_json, write_text

HOURS = 0.1  # time limit of the job
FOLDER = folders.WORK / "doctor"


def check(cluster: Cluster, run_id: str) -> Iterator[Finding]:
    """Check the nodes of a job with the resources of a run, for instance `pretrain/vision/seed0`.

    Yields one finding per check and node. Raises UserError if Slurm refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise UserError("unknown command `sbatch`; is this machine part of a cluster?")
    resources = cluster.slurm.of(run_id)
    changes = {"hours": HOURS, "requeue": False, "retries": 0}
    asked = SlurmJobs.model_validate({**resources.model_dump(), **changes})
    work = _Work(resources, run_id)
    one = Followed(work, "slurm", Cluster(slurm=asked))
    error = None
    try:
        launch.wait_for(one, lambda line: None)
    except JobError as failed:
        if not work.reports.exists() or not list(work.reports.glob("report-*.json")):
            raise
        error = failed
    yield from _findings(work, resources)
    if error is not None:
        yield Finding("job", "-", False, str(error), "see the log of the job")
    remove_folder(work.reports)


@dataclass
class _Work:
    """The check as a piece of work: always a new job."""

    resources: Resources
    run_id: str

    def __post_init__(self) -> None:
        self.name = "doctor/nodes"
        self.request = self.run_id
        self.folder = FOLDER
        self.spec = secrets.token_hex(8)
        self.cpus = 1
        self.reports = Path()

    def job(self, attempt: str, launcher: Launcher) -> Job:
        self.reports = self.folder / attempt
        write_text(self.reports / node_checks.TOKEN, attempt)
        write_json(self.reports / node_checks.HERE, provenance.versions())
        gpus = self.resources.gpu_count
        head = (Path(), self.name, self.spec, self.folder, attempt)
        return Probe(*head, wanted=gpus, stage=self.resources.stage)

    def done(self) -> bool:
        return False

    def exists(self) -> bool:
        return True

    def clear(self) -> None:
        return


def _findings(work: _Work, resources: Resources) -> Iterator[Finding]:
    """What the processes reported, ordered by check, then by node."""
    found: dict[tuple[int, str], list[Finding]] = {}
    nodes = set()
    for path in sorted(work.reports.glob("report-*.json")):
        report = read_json(path) or {}
        nodes.add(report.get("node"))
        for values in report.get("findings", ()):
            one = Finding(**values)
            found.setdefault((node_checks.CHECKS.index(one.check), one.node), []).append(one)
    for key in sorted(found):
        yield next((one for one in found[key] if not one.ok), found[key][0])
    if len(nodes) < resources.nodes:
        missing = resources.nodes - len(nodes)
        remedy = "look at the job's output in work/doctor/submitit, or exclude the node"
        yield Finding("job", "-", False, f"{missing} of the nodes did not report", remedy)
