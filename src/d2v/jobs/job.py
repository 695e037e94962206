"""The code that a job runs on its allocated machines: each of its processes calls a `Job`."""

import gc
import os
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from d2v.data import staging
from d2v.experiment import runs
from d2v.jobs import devices
from d2v.training import layout
from d2v.util import locks
from d2v.util.errors import UserError, spared
from d2v.util.files import read_json, write_json

PULSE_S = 10.0  # seconds between two heartbeats of a job
LOCK_S = 600.0  # how long a job waits for an earlier one that still holds the run's lock
DISK_S = 60.0  # how long a job tries to record its outcome on a full disk


class Ended(Exception):
    """The job failed, and its error has already been reported."""


@dataclass(frozen=True)
class Job:
    """One attempt at a run; it holds names only, because it is pickled for submission."""

    experiment: Path  # parameter file
    run: str
    spec: str  # fingerprint of the run's parameters when it was submitted
    folder: Path  # work folder of the run
    attempt: str
    requeue: bool = False  # whether the job is requeued after an interruption
    gpus: int = 0  # GPUs that were requested for each node
    retries: int = 2  # requeues in a row that may bring no progress
    stage: str | None = None  # folder on the node's own disk to which prepared sets are copied

    def __call__(self) -> None:
        """Execute the run and record in `outcome.json` how it ended.

        The main process holds the run's lock while the run lasts, and writes `train.log`. Other
        processes record only a failure (`outcome-<rank>.json`). Raises Ended after a failure, so
        that the job itself also exits with an error. A job that was given up in the meantime does
        nothing.
        """
        rank = _rank()
        if _overtaken(self.folder, self.attempt):
            print("this job was cancelled or replaced by another one; it exits", flush=True)
            return
        if rank > 0:
            self._leave_word(self._execute(), rank)
            return
        with log_to(self.folder / "train.log"):
            try:
                with locked(self.folder / "lock"):
                    self._idle_requeues()
                    with _every(PULSE_S, self._pulse):
                        outcome = self._execute()
                    self._leave_word(outcome, rank)
            except UserError as error:
                print(f"error: {error}", flush=True)
                self._leave_word({"error": str(error), "exit_code": error.exit_code}, rank)

    def _idle_requeues(self) -> None:
        """Raise UserError if the job was requeued too often in a row without progress."""
        path = self.folder / "starts.json"
        before = read_json(path) or {}
        reached, idle = progress(self.folder), 0
        if before.get("attempt") == self.attempt and before["reached"] >= reached:
            idle = before["idle"] + 1
        if idle > self.retries:
            raise UserError(
                f"the job was requeued {idle} times in a row without a new checkpoint; save"
                " checkpoints more often (train.checkpoint_minutes), or raise hours, signal_s or"
                " retries in params/cluster.yaml"
            )
        with spared("the note of this start"):
            write_json(path, {"attempt": self.attempt, "reached": reached, "idle": idle})

    def checkpoint(self) -> Any:
        """Resubmit the same job, which resumes from its checkpoint; None if it is not requeued."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self) if self.requeue else None

    def _execute(self) -> dict[str, Any]:
        try:
            devices.check(self.gpus)
            self._work()
        except UserError as error:
            print(f"error: {error}", flush=True)
            return {"error": str(error), "exit_code": error.exit_code}
        except Exception as error:
            if type(error).__name__ == "UncompletedJobError":  # submitit's, at the signal
                said = "the job was asked to stop (time limit or pre-emption), and requeue is false"
                print(f"error: {said}", flush=True)
            else:
                traceback.print_exc()
                said = f"{type(error).__name__}: {error}"
            return {"error": said, "exit_code": 1, "lost_peer": _lost_peer(error)}
        return {"error": None, "exit_code": 0}

    def _work(self) -> None:
        run = runs.load(self.experiment, self.run)
        if run.fingerprint() != self.spec:
            raise UserError(
                f"{self.experiment} changed while the job was starting; run the command again"
            )
        with _uncollected():
            from d2v.experiment import execute
        if self.stage is not None:
            staging.stage([run.prepared / name for name in run.datasets], self.stage)
        execute.execute(run)

    def _leave_word(self, outcome: dict[str, Any], rank: int) -> None:
        if rank == 0 or outcome["error"]:
            name = f"outcome-{rank}.json" if rank else "outcome.json"
            head = {"attempt": self.attempt, "restarts": _restarts(), "time": time.time()}
            head["processes"] = int(os.environ.get("SLURM_NTASKS", 1))
            _insist(lambda: write_json(self.folder / name, {**head, "lost_peer": False, **outcome}))
        if outcome["error"]:
            raise Ended(outcome["error"])

    def _pulse(self, started: str) -> None:
        """Record where the job runs, and the peak memory of its first GPU (MiB)."""
        node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        torch = sys.modules.get("torch")
        gpu = None
        if torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized():
            gpu = round(torch.cuda.max_memory_reserved() / 2**20)
        said = {"attempt": self.attempt, "restarts": _restarts(), "node": node, "gpu_mib": gpu}
        write_json(self.folder / "pulse.json", {**said, "started": started, "time": time.time()})


@dataclass(frozen=True)
class Command(Job):
    """One attempt at a rule of the workflow: `run` is its name."""

    command: str = ""

    def _work(self) -> None:
        # the commands of this Python's environment come first, whether it is activated or not
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        words = ["bash", "-c", f"set -euo pipefail; {self.command}"]
        code = subprocess.run(words, env=os.environ | {"PATH": path}).returncode
        if code:
            raise Failed(f"the command of this rule failed with exit code {code}", code)


class Failed(UserError):
    """A command failed; its own message is in the log."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code if exit_code > 0 else 1


@contextmanager
def _uncollected() -> Iterator[None]:
    """Import a lot without looking for garbage in it, neither meanwhile nor later.

    PyTorch and what comes with it are 200,000 objects that stay. Visiting them again and again, up
    to the end of the process, takes a second of the five that a start computes.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def progress(folder: Path) -> int:
    """Progress of a run: step of the newest checkpoint plus decoded items and trials."""
    step = layout.newest_step(folder / "checkpoints")
    journals = [folder / "trials.jsonl", *folder.glob("decoded-*.jsonl")]
    return step + sum(path.read_bytes().count(b"\n") for path in journals if path.exists())


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a run, and write into it who holds it.

    Raises UserError if another process still holds it after `LOCK_S` seconds.
    """
    with locks.held_within(path, LOCK_S, lambda: _holder(path)) as file:
        file.truncate(0)
        job = os.environ.get("SLURM_JOB_ID", "-")
        host, pid = os.uname().nodename, os.getpid()
        print(pid, locks.process_start(pid), host, job, int(time.time()), file=file, flush=True)
        yield


def _holder(path: Path) -> str:
    """Who holds a lock, and since when, as far as it says so."""
    words = path.read_text().split()
    if len(words) != 5:
        return f"{path}: held by another process"
    pid, _, host, job, since = words
    age = timedelta(seconds=round(time.time() - int(since)))
    where = f"process {pid} on {host}" + ("" if job == "-" else f" (job {job})")
    return f"{path}: held by {where} for {age}"


def _overtaken(folder: Path, attempt: str) -> bool:
    """Whether the launcher has cancelled this attempt or started another one since."""
    record = read_json(folder / "job.json")
    if record is None:
        return False
    return record["attempt"] != attempt or record.get("state") in ("cancelled", "refused")


def _insist(write: Callable[[], None]) -> None:
    """Write a file that others wait for; a full disk is waited for, up to `DISK_S` seconds."""
    end = time.monotonic() + DISK_S
    while True:
        try:
            write()
            return
        except OSError as error:
            if time.monotonic() > end:
                print(f"error: {error.filename}: {error.strerror}", flush=True)
                return
            time.sleep(1.0)


def word_of(folder: Path, attempt: str) -> dict[str, Any] | None:
    """Outcome that an attempt recorded; None if it recorded none.

    If several processes failed, the outcome is that of the first one that did not merely lose a
    peer, because the others only noticed that it was gone.
    """
    found = [read_json(path) for path in folder.glob("outcome*.json")]
    own = [word for word in found if word is not None and word["attempt"] == attempt]
    last = max((word["restarts"] for word in own), default=0)
    own = [word for word in own if word["restarts"] == last]
    return min(own, key=lambda word: (word["lost_peer"], word["time"]), default=None)


def _lost_peer(error: Exception) -> bool:
    """Whether the error message indicates that another process of the job is gone."""
    words = r"connection (closed|reset)|broken pipe|peer|gloo|nccl|socket|tcpstore|timed? ?out"
    return isinstance(error, RuntimeError) and bool(re.search(words, str(error), re.IGNORECASE))


def _rank() -> int:
    from submitit import JobEnvironment

    return JobEnvironment().global_rank


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


@contextmanager
def _every(seconds: float, what: Callable[[str], None]) -> Iterator[None]:
    """Call `what(start time)` every `seconds` in a background thread while the block runs."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    done = threading.Event()

    def beat() -> None:
        while not done.wait(seconds):
            try:
                what(started)
            except OSError:  # the run itself reports a full disk
                continue

    with suppress(OSError):
        what(started)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append the output of this process and of its children to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("a") as file:
        before = os.dup(1), os.dup(2)
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in zip((1, 2), before, strict=True):
                os.dup2(old, number)
                os.close(old)
