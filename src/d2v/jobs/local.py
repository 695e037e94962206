"""The interface of a launcher, the state of a job, and the launcher for this machine."""

import os
import signal
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from d2v.jobs import warm
from d2v.jobs.cluster import Cluster
from d2v.jobs.job import Job, log_to
from d2v.util import locks

Record = dict[str, Any]  # content of job.json
PATIENT = 4  # failures in a row before pauses grow: a busy controller refuses some calls


def pause_s(failures: int, first: float, most: float) -> float:
    """Seconds until a cluster is called again after so many failures in a row."""
    return min(most, first * 2 ** min(max(0, failures - PATIENT), 6))


@dataclass(frozen=True)
class State:
    """State of a job.

    phase: queued, running, ending (it may be requeued, or is still cleaning up), ended, lost
    (the cluster does not know the job) or unreachable (the cluster does not answer).
    """

    phase: str
    word: str = ""  # the cluster's own name of the state
    reason: str = ""  # why the job is queued
    nodes: str = ""
    restarts: int = 0

    @property
    def waiting(self) -> bool:
        """Whether the job is queued or running."""
        return self.phase in ("queued", "running")

    @property
    def living(self) -> bool:
        """Whether the job may still be active."""
        return self.phase not in ("ended", "lost")

    def __str__(self) -> str:
        where = f" on {self.nodes}" if self.nodes and self.phase == "running" else ""
        why = f" ({self.reason})" if self.phase == "queued" and self.reason else ""
        again = f", {self.restarts}x requeued" if self.restarts else ""
        return f"{self.phase}{where}{why}{again}"


@dataclass(frozen=True)
class Ending:
    """Why a job ended without recording an outcome."""

    said: str
    again: int = 0  # resubmissions that are worthwhile without further progress
    state: str = "stopped"  # the word of `d2v status`


class Busy(Exception):
    """Jobs were not accepted at the moment: a limit, a throttle or a controller that is away."""

    def __init__(self, said: str, limit: bool = False, unsure: bool = False) -> None:
        super().__init__(said)
        self.limit = limit  # of jobs; fewer may be accepted
        self.unsure = unsure  # the submission may have succeeded


class Launcher(Protocol):
    """A place that executes the jobs of one run."""

    requeue: bool  # whether an interrupted job is restarted automatically
    retries: int  # requeues in a row that may bring no progress
    gpus: int  # GPUs of each node that a job gets
    stage: str | None  # folder on a node's own disk to which prepared sets are copied
    most: int  # jobs that one submission may start
    pause_s: float  # seconds between two checks of a job

    def like(self, cpus: int) -> Hashable:
        """What jobs must have in common to be submitted together."""

    def submit(self, folder: Path, jobs: Sequence[Job], cpus: int) -> list[Record]:
        """Start the jobs, with `folder` (a new one) for submitit; return what identifies each.

        Raises Busy if that is worth trying again, and UserError if not.
        """

    def find(self, record: Record) -> tuple[bool, Record]:
        """Whether it is known what became of an interrupted submission; what identifies the job.

        The latter is empty if there is no such job.
        """

    def state(self, record: Record) -> State:
        """State of a job as far as it is known; the phase is "" while it is not."""

    def count(self) -> int | None:
        """Jobs of the user that are queued or running; None until asked after a submission."""

    def soon(self) -> None:
        """Hint that states are about to change."""

    def renew(self) -> None:
        """Make the next `state` a new one, unless the last one is a moment old."""

    def stuck(self, state: State) -> Ending | None:
        """Why a queued job will never start; None if it may start."""

    def ending(self, record: Record, state: State, folder: Path) -> Ending:
        """Why a job ended without recording an outcome."""

    def cancel(self, records: Sequence[Record], force: bool = False) -> None:
        """Ask the jobs to end; `force` kills them."""


class Local:
    """Launcher through submitit's local executor: the job survives its launcher."""

    requeue, retries, most = False, 0, 1
    stage: str | None = None
    pause_s = 0.1

    def __init__(self, cluster: Cluster, run_id: str, folder: Path) -> None:
        self.resources = cluster.local
        self.gpus = cluster.local.gpus
        self.lock = folder / "lock"

    def like(self, cpus: int) -> Hashable:
        """Only itself."""
        return self

    def count(self) -> int | None:
        """No limit is known here."""
        return 0

    def soon(self) -> None:
        """States are always current here."""

    def renew(self) -> None:
        """States are always current here."""

    def submit(self, folder: Path, jobs: Sequence[Job], cpus: int) -> list[Record]:
        """Start a controller, which starts the job; `folder` is new because process ids recur."""
        import submitit

        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(cpus)
        executor = submitit.AutoExecutor(
            folder, cluster="local", local_python=warm.python(self.resources.gpus)
        )
        executor.update_parameters(
            timeout_min=60 * self.resources.hours,
            gpus_per_node=self.resources.gpus,
            tasks_per_node=max(1, self.resources.gpus),
            local_stderr_to_stdout=True,
        )
        # the controller does not share our output: on Ctrl-C it prints a traceback, and if it
        # outlived us, it would keep open a pipe that a caller reads until it is closed
        with log_to(folder / "controller.log"):
            [submitted] = [executor.submit(job) for job in jobs]
        pid = int(submitted.job_id)
        return [{"id": submitted.job_id, "started": locks.process_start(pid)}]

    def find(self, record: Record) -> tuple[bool, Record]:
        """No job: it cannot be identified; the run's lock makes others wait for it."""
        return True, {}

    def state(self, record: Record) -> State:
        """Running as long as the controller, or a task that outlives it, is alive."""
        controlled = self._controlled(record) or locks.is_held(self.lock)
        return State("running" if controlled else "ended")

    def _controlled(self, record: Record) -> bool:
        # a process id may have been reused, so the start times are compared as well
        started = locks.process_start(int(record["id"]))
        return started is not None and started == record["started"]

    def stuck(self, state: State) -> Ending | None:
        """Return None: there is no queue on this machine."""
        return None

    def ending(self, record: Record, state: State, folder: Path) -> Ending:
        """Error that submitit logged outside the run, or a likely cause."""
        said = [
            path.read_text(errors="replace").strip().rpartition("\n")[2]
            for path in folder.glob("*.out")
        ]
        errors = [line for line in said if "Error" in line]
        hint = f": {errors[0]}" if errors else "; was it killed, or did it run out of memory?"
        return Ending(f"ended without a result{hint}")

    def cancel(self, records: Sequence[Record], force: bool = False) -> None:
        """Interrupt the controller, which interrupts and then kills its tasks; `force` kills it."""
        for record in records:
            if self._controlled(record):
                os.kill(int(record["id"]), signal.SIGKILL if force else signal.SIGINT)
        task = locks.holder(self.lock)
        if force and task is not None:
            os.kill(task, signal.SIGKILL)
