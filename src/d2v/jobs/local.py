"""The interface of a launcher, the state of a job, and the launcher for this machine."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from d2v.jobs.cluster import Cluster
from d2v.jobs.job import Job, log_to
from d2v.util import locks

Record = dict[str, Any]  # content of job.json


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


class Launcher(Protocol):
    """A place that executes the jobs of one run."""

    requeue: bool  # whether an interrupted job is restarted automatically
    pause_s: float  # seconds between two checks of a job

    def submit(self, folder: Path, job: Job, cpus: int) -> Record:
        """Start the job, with `folder` (a new one) for submitit; return what identifies the job."""

    def find(self, attempt: str, folder: Path) -> Record | None:
        """Record of the job of an attempt whose submission was interrupted; None if unknown."""

    def state(self, record: Record, fresh: bool = False) -> State:
        """State of a job; `fresh` queries it now instead of returning a recent answer."""

    def stuck(self, state: State) -> Ending | None:
        """Why a queued job will never start; None if it may start."""

    def ending(self, record: Record, state: State, folder: Path) -> Ending:
        """Why a job ended without recording an outcome."""

    def cancel(self, record: Record, force: bool = False) -> None:
        """Ask the job to end; `force` kills it."""


class Local:
    """Launcher through submitit's local executor: the job survives its launcher."""

    requeue = False
    pause_s = 0.1

    def __init__(self, cluster: Cluster, run_id: str, folder: Path) -> None:
        self.resources = cluster.local
        self.lock = folder / "lock"

    def submit(self, folder: Path, job: Job, cpus: int) -> Record:
        """Start a controller, which starts the job; `folder` is new because process ids recur."""
        import submitit

        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(cpus)
        executor = submitit.AutoExecutor(folder, cluster="local")
        executor.update_parameters(
            timeout_min=60 * self.resources.hours,
            gpus_per_node=self.resources.gpus,
            tasks_per_node=max(1, self.resources.gpus),
            local_stderr_to_stdout=True,
        )
        # the controller does not share our output: on Ctrl-C it prints a traceback, and if it
        # outlived us, it would keep open a pipe that a caller reads until it is closed
        with log_to(folder / "controller.log"):
            submitted = executor.submit(job)
        pid = int(submitted.job_id)
        return {"id": submitted.job_id, "started": locks.process_start(pid)}

    def find(self, attempt: str, folder: Path) -> Record | None:
        """Return None: such a job cannot be identified; the run's lock makes others wait for it."""
        return None

    def state(self, record: Record, fresh: bool = False) -> State:
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

    def cancel(self, record: Record, force: bool = False) -> None:
        """Interrupt the controller, which interrupts and then kills its tasks; `force` kills it."""
        if self._controlled(record):
            os.kill(int(record["id"]), signal.SIGKILL if force else signal.SIGINT)
        task = locks.holder(self.lock)
        if force and task is not None:
            os.kill(task, signal.SIGKILL)
