"""Start a run as a job, wait for it, and never start a second one while the first still lives.

`work/<experiment>/<run>/` holds what the next start needs to know: `job.json` (which job), `lock`
(held by the job while it works), `outcome.json` (how it ended) and `train.log` (what it said).
"""

import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from d2v import locks, params, runs
from d2v.errors import UserError
from d2v.files import read_json, write_json
from d2v.job import job, log_to

CLUSTER = Path("params/cluster.yaml")
POLL_S = 0.1
CANCEL_S = 10.0  # what a cancelled job may take before it is killed

Record = dict[str, Any]  # job.json


class JobError(UserError):
    """A job ended without a result; the message is the job's own."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LocalJobs(params.Strict):
    """Jobs on this machine."""

    gpus: params.Count = 0
    hours: params.Positive = 168


class Cluster(params.Strict):
    """`params/cluster.yaml`: where runs are carried out."""

    local: LocalJobs = LocalJobs()


class Launcher(Protocol):
    """A place where jobs run."""

    def submit(self, folder: Path, arguments: tuple[Any, ...], cpus: int) -> Record:
        """Start `job(*arguments)`; returns what identifies it later."""

    def alive(self, record: Record) -> bool:
        """Whether the job is queued or running."""

    def cancel(self, record: Record, force: bool = False) -> None:
        """Ask the job to end now, or make it."""


class Local:
    """submitit's local executor: the job survives its launcher."""

    def __init__(self, cluster: Cluster) -> None:
        self.resources = cluster.local

    def submit(self, folder: Path, arguments: tuple[Any, ...], cpus: int) -> Record:
        """Start a controller, which starts the job; `folder` is new, as process ids come back."""
        import submitit

        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(cpus)
        executor = submitit.AutoExecutor(folder, cluster="local")
        executor.update_parameters(
            timeout_min=60 * self.resources.hours,
            gpus_per_node=self.resources.gpus,
            local_stderr_to_stdout=True,
        )
        # not to our output: Ctrl-C makes the controller print a traceback, and one that outlives us
        # would keep the pipe open that a caller reads to its end
        with log_to(folder / "controller.log"):
            submitted = executor.submit(job, *arguments)
        pid = int(submitted.job_id)
        return {"id": submitted.job_id, "started": locks.process_start(pid)}

    def alive(self, record: Record) -> bool:
        """Whether the controller that was started then is still the process of that id."""
        started = locks.process_start(int(record["id"]))
        return started is not None and started == record["started"]

    def cancel(self, record: Record, force: bool = False) -> None:
        """Interrupt the controller, which interrupts and then kills its tasks; or kill it."""
        if self.alive(record):
            os.kill(int(record["id"]), signal.SIGKILL if force else signal.SIGINT)


LAUNCHERS: dict[str, type[Local]] = {"local": Local}
PLACES = (*LAUNCHERS, "debug")  # debug: in this process


def run(experiment_path: Path, run_id: str, place: str = "local") -> None:
    """Carry out one run at `place` and wait for its end, printing what it says.

    Raises JobError with the job's own message and exit code, UserError for wrong parameters.
    """
    experiment = params.load(experiment_path)
    run = runs.parse(experiment, run_id)
    if place == "debug":
        from d2v import execute

        first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
        lock = runs.work_folder(experiment, run) / "lock"
        with locks.held(lock) if first else nullcontext():
            execute.execute(experiment_path, run.id)
        return
    jobs = _Jobs(place, experiment_path, experiment, run)
    with _interrupts():
        attached = jobs.wait_for_one()
        if attached and not runs.metrics_path(experiment, run).exists():
            # it was about to end when the workflow, before it called us, removed the old result
            jobs.wait_for_one()


class _Jobs:
    """The jobs of one run at one place."""

    def __init__(
        self, place: str, experiment_path: Path, experiment: params.Experiment, run: runs.Run
    ) -> None:
        cluster = params.load_as(Cluster, CLUSTER) if CLUSTER.exists() else Cluster()
        self.launcher: Launcher = LAUNCHERS[place](cluster)
        self.place, self.name = place, run.id
        self.cpus = runs.cpus(experiment, run)
        self.folder = runs.work_folder(experiment, run)
        self.log = self.folder / "train.log"
        self.spec = runs.fingerprint(experiment, run)
        self.arguments = (experiment_path, run.id, self.spec, self.folder)

    def wait_for_one(self) -> bool:
        """Attach to the run's job, or start one, and wait; returns whether it was attached."""
        with locks.held(self.folder / "submit.lock"):  # launchers of one run take turns
            record = self._attach()
            attached = record is not None
            seen = self.log.stat().st_size if self.log.exists() else 0
            if record is None:
                record = self._submit()
        try:
            self._follow(record, seen)
        except KeyboardInterrupt:
            self._cancel(record)
            raise
        self._raise_failure(record)
        return attached

    def _attach(self) -> Record | None:
        """The job that still lives, if it does what is wanted."""
        record = read_json(self.folder / "job.json")
        if not record or record["place"] != self.place or not self._alive(record):
            return None
        if record["spec"] != self.spec:
            print(f"job {record['id']} runs with other parameters: it is cancelled", flush=True)
            self._cancel(record)
            return None
        print(f"attached to job {record['id']}, submitted {record['submitted']}", flush=True)
        return record

    def _submit(self) -> Record:
        """Start a job and write down which."""
        attempt = secrets.token_hex(4)
        submitit_folder = self.folder / "submitit" / attempt
        record = self.launcher.submit(submitit_folder, (*self.arguments, attempt), self.cpus)
        submitted = datetime.now(UTC).isoformat(timespec="seconds")
        record |= {"place": self.place, "attempt": attempt, "spec": self.spec}
        record |= {"submitted": submitted}
        write_json(self.folder / "job.json", record)
        return record

    def _alive(self, record: Record) -> bool:
        # the lock: a task outlives its controller when that alone was killed
        return self.launcher.alive(record) or locks.is_held(self.folder / "lock")

    def _follow(self, record: Record, seen: int) -> None:
        """Print what the job adds to the log, from byte `seen` on, until it has ended."""
        rest = b""
        while True:
            alive = self._alive(record)
            if self.log.exists():
                with self.log.open("rb") as file:
                    file.seek(seen)
                    new = file.read()
                seen += len(new)
                *lines, rest = (rest + new).split(b"\n")
                for line in lines:
                    print(f"{self.name} | {line.decode(errors='replace')}", flush=True)
            if not alive:
                return
            time.sleep(POLL_S)

    def _cancel(self, record: Record) -> None:
        self.launcher.cancel(record)
        end = time.monotonic() + CANCEL_S
        while self._alive(record) and time.monotonic() < end:
            time.sleep(POLL_S)
        self.launcher.cancel(record, force=True)
        task = locks.holder(self.folder / "lock")
        if task is not None:
            os.kill(task, signal.SIGKILL)

    def _raise_failure(self, record: Record) -> None:
        outcome = read_json(self.folder / "outcome.json")
        if outcome is None or outcome["attempt"] != record["attempt"]:
            said = [
                path.read_text(errors="replace").strip().rpartition("\n")[2]
                for path in (self.folder / "submitit" / record["attempt"]).glob("*.out")
            ]
            errors = [line for line in said if "Error" in line]
            hint = f": {errors[0]}" if errors else "; was it killed, or out of memory?"
            raise JobError(
                f"{self.name}: job {record['id']} ended without a result{hint} (log: {self.log})"
            )
        if outcome["error"] is not None:
            message = f"{self.name}: {outcome['error']} (log: {self.log})"
            raise JobError(message, outcome["exit_code"])


@contextmanager
def _interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP cancel the job as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {n: signal.signal(n, interrupt) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
