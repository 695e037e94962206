"""The code that a job runs on its allocated machines: each of its processes calls a `Job`."""

import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from d2v.experiment import runs
from d2v.util import locks
from d2v.util.errors import UserError
from d2v.util.files import read_json, write_json

PULSE_S = 10.0  # seconds between two heartbeats of a job


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

    def __call__(self) -> None:
        """Execute the run and record in `outcome.json` how it ended.

        The main process holds the run's lock while the run lasts, and writes `train.log`. Other
        processes record only a failure (`outcome-<rank>.json`). Raises Ended after a failure, so
        that the job itself also exits with an error.
        """
        rank = _rank()
        if rank > 0:
            self._leave_word(self._execute(), rank)
            return
        with log_to(self.folder / "train.log"), locks.held(self.folder / "lock") as lock:
            lock.truncate(0)
            print(os.getpid(), locks.process_start(os.getpid()), file=lock, flush=True)
            with _every(PULSE_S, self._pulse):
                outcome = self._execute()
            self._leave_word(outcome, rank)

    def checkpoint(self) -> Any:
        """Resubmit the same job, which resumes from its checkpoint; None if it is not requeued."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self) if self.requeue else None

    def _execute(self) -> dict[str, Any]:
        try:
            run = runs.load(self.experiment, self.run)
            if run.fingerprint() != self.spec:
                raise UserError(
                    f"{self.experiment} changed while the job was starting; run the command again"
                )
            from d2v.experiment import execute

            execute.execute(run)
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

    def _leave_word(self, outcome: dict[str, Any], rank: int) -> None:
        if rank == 0 or outcome["error"]:
            name = f"outcome-{rank}.json" if rank else "outcome.json"
            head = {"attempt": self.attempt, "restarts": _restarts(), "time": time.time()}
            write_json(self.folder / name, {**head, "lost_peer": False, **outcome})
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
