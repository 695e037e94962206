"""Start a run as a job, wait for it, and never start a second one while the first is alive.

`work/<experiment>/<run>/` holds everything that the next launch needs: `job.json` (the job's id and
state), `lock` (held by the job while it runs), `pulse.json` (the job's heartbeat and node),
`outcome.json` (how the job ended), `train.log` (the job's output) and `launch.log` (the launcher's
messages).
"""

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from d2v import params
from d2v.experiment import finished, runs
from d2v.experiment.run import Run
from d2v.jobs import cluster
from d2v.jobs.job import Job, word_of
from d2v.jobs.local import Ending, Launcher, Local, Record, State
from d2v.jobs.slurm import Slurm
from d2v.util import locks
from d2v.util.errors import UserError
from d2v.util.files import read_json, write_json
from d2v.util.progress import Relay

CANCEL_S = 10.0  # time a cancelled job has to exit before it is killed
LEAVE_S = 60.0  # time a job has to exit after it has written its outcome
REACH_S = 40.0  # how long to wait for an answer about an earlier job

LAUNCHERS: dict[str, Callable[[cluster.Cluster, str, Path], Launcher]] = {
    "local": Local,
    "slurm": Slurm,
}
PLACES = (*LAUNCHERS, "debug")  # debug: run in this process


class JobError(UserError):
    """A job ended without a result; the message is the one that the job reported."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run(experiment_path: Path, run_id: str, place: str = "local") -> None:
    """Execute one run at `place`, print its output, and wait until it has ended.

    Raises JobError with the job's own message and exit code, and UserError for invalid parameters
    or if the cluster refuses the job.
    """
    experiment = params.load(experiment_path)
    params.check_stages(experiment)
    run = runs.parse(experiment, run_id)
    if finished.up_to_date(run):
        if os.environ.get("RANK", "0") == "0":
            print(f"{run.id}: already done ({run.metrics_path})", flush=True)
        return
    if place == "debug":
        from d2v.experiment import execute

        first = os.environ.get("RANK", "0") == "0"  # among torchrun's processes
        lock = run.work / "lock"
        with locks.held(lock) if first else nullcontext():
            execute.execute(run)
        return
    jobs = _Jobs(place, experiment_path, run)
    with _interrupts(), closing(jobs.relay):
        attached = jobs.wait_for_one()
        if attached and not run.metrics_path.exists():
            # the job was already ending when the workflow removed the old result before calling us
            jobs.wait_for_one()


class _Jobs:
    """The jobs of one run, one after the other."""

    def __init__(self, place: str, experiment_path: Path, run: Run) -> None:
        self.name, self.experiment = run.id, experiment_path
        self.cpus, self.spec, self.folder = run.cpus, run.fingerprint(), run.work
        self.log, self.lock = self.folder / "train.log", self.folder / "submit.lock"
        self.cluster = cluster.load()
        self.relay = Relay(self.name)
        self._go_to(place)

    def wait_for_one(self) -> bool:
        """Attach to the run's job, or start one, and wait; return whether it attached.

        A job that died without an outcome is resubmitted as long as each job makes progress.
        """
        self.seen = self.log.stat().st_size if self.log.exists() else 0
        attached, deaths, reached = None, 0, -1
        while True:
            with locks.held(self.lock):  # only one launcher of a run at a time
                record = self._attach()
                attached = record is not None if attached is None else attached
                record = record or self._submit()
            try:
                ending = self._follow(record)
            except KeyboardInterrupt:
                self._cancel(record)
                raise
            word = self._word(record)
            if word is not None and word["error"] is None:
                return attached
            if word is not None:
                raise JobError(f"{self.name}: {word['error']} (log: {self.log})", word["exit_code"])
            deaths, reached = 1 if self._step() > reached else deaths + 1, self._step()
            message = f"job {record['id']} {ending.said}"
            if deaths > ending.again:
                raise JobError(f"{self.name}: {message} (log: {self.log})")
            self._say(f"resubmitting because {message}")

    # --- finding or starting a job ------------------------------------------------------------

    def _go_to(self, place: str) -> None:
        self.place = place
        self.launcher = LAUNCHERS[place](self.cluster, self.name, self.folder)

    def _attach(self) -> Record | None:
        """Record of the job that is still alive, at any place, if its parameters are current."""
        record = read_json(self.folder / "job.json")
        if not record:
            return None
        wanted, here = self.place, record["place"]
        if wanted != here:
            self._go_to(here)
        if record["id"] is None:  # its launcher was killed during the submission
            record |= self.launcher.find(record["attempt"], self._submitit(record)) or {}
        if record["id"] is not None and self._lives(record):
            if record["spec"] == self.spec:
                write_json(self.folder / "job.json", record)
                self._say(f"attached to job {record['id']}, submitted {record['submitted']}")
                return record
            self._say(f"job {record['id']} runs with different parameters; cancelling it")
            self._cancel(record)
        if wanted != here:
            self._go_to(wanted)
        return None

    def _lives(self, record: Record) -> bool:
        """Whether the job may still be running; waits until this is known.

        Raises UserError if the cluster does not answer within `REACH_S` seconds.
        """
        end = time.monotonic() + REACH_S
        while True:
            state = self.launcher.state(record)
            if state.phase == "unreachable":
                if time.monotonic() > end:
                    raise UserError(
                        f"{self.name}: job {record['id']} may still be running, but its cluster"
                        " does not respond; try again later"
                    )
            elif state.phase != "ending" or self._word(record) is not None:
                return state.phase in ("queued", "running")
            time.sleep(self.launcher.pause_s)

    def _submit(self) -> Record:
        """Start a job; `job.json` is written before and after, so that no job is ever lost."""
        attempt = secrets.token_hex(4)
        submitted = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"id": None, "place": self.place, "attempt": attempt, "spec": self.spec}
        record |= {"submitted": submitted, "state": "submitted"}
        write_json(self.folder / "job.json", record)
        requeue = self.launcher.requeue
        job = Job(self.experiment, self.name, self.spec, self.folder, attempt, requeue)
        try:
            record |= self.launcher.submit(self._submitit(record), job, self.cpus)
        except BaseException as error:
            found = self.launcher.find(attempt, self._submitit(record))
            if found is not None:
                self._cancel(record | found)
            said = "refused" if isinstance(error, UserError) else "cancelled"
            write_json(self.folder / "job.json", record | {"state": said})
            raise
        write_json(self.folder / "job.json", record)
        return record

    def _submitit(self, record: Record) -> Path:
        return self.folder / "submitit" / record["attempt"]  # one per attempt: job ids may recur

    # --- following it to its end --------------------------------------------------------------

    def _follow(self, record: Record) -> Ending:
        """Print new lines of the log until the job has ended, left its outcome, or is stuck."""
        rest, noted, leave = b"", "", None
        while True:
            word = self._word(record)
            state = self.launcher.state(record, fresh=word is not None)
            if word is None and str(state) != noted:
                noted = str(state)
                self._note(record, state)
            rest = self._show(rest)
            if word is not None:
                leave = leave or time.monotonic() + LEAVE_S
                if state.phase not in ("queued", "running") or time.monotonic() > leave:
                    if state.phase in ("queued", "running"):
                        self._cancel(record)
                    return Ending("ended")
            elif not state.living:
                return self.launcher.ending(record, state, self._submitit(record))
            stuck = self.launcher.stuck(state)
            if stuck is not None:
                self._cancel(record)
                return stuck
            time.sleep(self.launcher.pause_s)

    def _show(self, rest: bytes) -> bytes:
        """Print the complete new lines of the log; return the last, incomplete one."""
        if not self.log.exists():
            return rest
        with self.log.open("rb") as file:
            file.seek(self.seen)
            new = file.read()
        self.seen += len(new)
        *lines, rest = (rest + new).split(b"\n")
        for line in lines:
            self.relay.show(line.decode(errors="replace"))
        return rest

    def _say(self, text: str) -> None:
        """Print a line and append it to `launch.log`, because the workflow empties its own log."""
        print(text, flush=True)
        with (self.folder / "launch.log").open("a") as file:
            print(datetime.now(UTC).isoformat(timespec="seconds"), text, file=file)

    def _note(self, record: Record, state: State) -> None:
        """Report a change of state and record it in `job.json`."""
        if state.word:
            self._say(f"{self.name}: job {record['id']} {state}")
        with locks.held(self.lock):
            now = read_json(self.folder / "job.json")
            if now is not None and now["attempt"] == record["attempt"]:
                record |= {"state": state.phase, "reason": state.reason}
                record |= {"nodes": state.nodes, "restarts": state.restarts}
                write_json(self.folder / "job.json", record)

    def _word(self, record: Record) -> Record | None:
        """Outcome of the run; None if there is none, or if it only reports the loss of a peer."""
        word = word_of(self.folder, record["attempt"])
        return None if word is not None and word["lost_peer"] else word

    def _step(self) -> int:
        """Progress of the run: step of the newest checkpoint plus decoded items and trials."""
        found = (self.folder / "checkpoints").glob("step-*")
        steps = (folder.name.removeprefix("step-") for folder in found)
        step = max((int(step) for step in steps if step.isdecimal()), default=0)
        journals = [self.folder / "trials.jsonl", *self.folder.glob("decoded-*.jsonl")]
        return step + sum(path.read_bytes().count(b"\n") for path in journals if path.exists())

    def _cancel(self, record: Record) -> None:
        with _undisturbed():
            self.launcher.cancel(record)
            end = time.monotonic() + CANCEL_S
            while self.launcher.state(record, fresh=True).phase in ("queued", "running"):
                if time.monotonic() > end:
                    self.launcher.cancel(record, force=True)
                    return
                time.sleep(self.launcher.pause_s)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Make SIGTERM and SIGHUP cancel the job, as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled(interrupt, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore further signals, so that a second Ctrl-C does not interrupt the cancellation."""
    with _handled(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _handled(handler: Any, *numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
