"""Where jobs run: what is known about a job, what every place can do, and this machine."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from d2v.jobs.cluster import Cluster
from d2v.jobs.job import Job, log_to
from d2v.util import locks

Record = dict[str, Any]  # job.json


@dataclass(frozen=True)
class State:
    """What is known about a job.

    phase: queued, running, ending (it may come back, or has a little left to do), ended, lost
    (nobody has heard of it) or unreachable (nobody answers).
    """

    phase: str
    word: str = ""  # the cluster's own
    reason: str = ""  # why it is queued
    nodes: str = ""
    restarts: int = 0

    @property
    def living(self) -> bool:
        """Whether the job may still do something."""
        return self.phase not in ("ended", "lost")

    def __str__(self) -> str:
        where = f" on {self.nodes}" if self.nodes and self.phase == "running" else ""
        why = f" ({self.reason})" if self.phase == "queued" and self.reason else ""
        again = f", {self.restarts}x requeued" if self.restarts else ""
        return f"{self.phase}{where}{why}{again}"


@dataclass(frozen=True)
class Ending:
    """Why a job ended that left no word."""

    said: str
    again: int = 0  # submissions that it is worth, as long as none of them gets any further


class Launcher(Protocol):
    """A place where the jobs of one run are carried out."""

    requeue: bool  # whether a job comes back by itself
    pause_s: float  # between two looks at it

    def submit(self, folder: Path, job: Job, cpus: int) -> Record:
        """Start the job, with `folder` (a new one) for submitit; returns what identifies it."""

    def find(self, attempt: str, folder: Path) -> Record | None:
        """The job of an attempt whose submission was cut off."""

    def state(self, record: Record, fresh: bool = False) -> State:
        """What is known about a job; `fresh`: now, and not a little while ago."""

    def stuck(self, state: State) -> Ending | None:
        """Why a queued job will never start, if that is so."""

    def ending(self, record: Record, state: State, folder: Path) -> Ending:
        """What to make of a job that ended and left no word."""

    def cancel(self, record: Record, force: bool = False) -> None:
        """Ask the job to end now, or make it."""


class Local:
    """submitit's local executor: the job survives its launcher."""

    requeue = False
    pause_s = 0.1

    def __init__(self, cluster: Cluster, run_id: str, folder: Path) -> None:
        self.resources = cluster.local
        self.lock = folder / "lock"

    def submit(self, folder: Path, job: Job, cpus: int) -> Record:
        """Start a controller, which starts the job; `folder` is new, as process ids come back."""
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
        # not to our output: Ctrl-C makes the controller print a traceback, and one that outlives us
        # would keep the pipe open that a caller reads to its end
        with log_to(folder / "controller.log"):
            submitted = executor.submit(job)
        pid = int(submitted.job_id)
        return {"id": submitted.job_id, "started": locks.process_start(pid)}

    def find(self, attempt: str, folder: Path) -> Record | None:
        """None: such a job is not known, and is waited for by its lock."""
        return None

    def state(self, record: Record, fresh: bool = False) -> State:
        """Running as long as its controller does, or a task that outlives it."""
        controlled = self._controlled(record) or locks.is_held(self.lock)
        return State("running" if controlled else "ended")

    def _controlled(self, record: Record) -> bool:
        # whether the controller that was started then is the process of that id
        started = locks.process_start(int(record["id"]))
        return started is not None and started == record["started"]

    def stuck(self, state: State) -> Ending | None:
        """None: nothing waits here."""
        return None

    def ending(self, record: Record, state: State, folder: Path) -> Ending:
        """What submitit noted of an error outside the run, or a guess."""
        said = [
            path.read_text(errors="replace").strip().rpartition("\n")[2]
            for path in folder.glob("*.out")
        ]
        errors = [line for line in said if "Error" in line]
        hint = f": {errors[0]}" if errors else "; was it killed, or out of memory?"
        return Ending(f"ended without a result{hint}")

    def cancel(self, record: Record, force: bool = False) -> None:
        """Interrupt the controller, which interrupts and then kills its tasks; or kill it."""
        if self._controlled(record):
            os.kill(int(record["id"]), signal.SIGKILL if force else signal.SIGINT)
        task = locks.holder(self.lock)
        if force and task is not None:
            os.kill(task, signal.SIGKILL)
