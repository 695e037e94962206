"""Start a run as a job, wait for it, and never start a second one while the first still lives.

`work/<experiment>/<run>/` holds what the next start needs to know: `job.json` (which job), `lock`
(held by the job while it works), `outcome.json` (how it ended) and `train.log` (what it said).
"""

import json
import os
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from d2v import locks, params, runs
from d2v.errors import UserError

CLUSTER = Path("params/cluster.yaml")
POLL_S = 0.1
CANCEL_S = 10.0  # what a cancelled job may take before it is killed


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


Record = dict[str, Any]  # job.json


class Launcher(Protocol):
    """A place where jobs run."""

    def submit(self, folder: Path, arguments: tuple[Any, ...], cpus: int) -> Record:
        """Start `job(*arguments)`; returns what identifies it later."""

    def alive(self, record: Record) -> bool:
        """Whether the job is queued or running."""

    def cancel(self, record: Record) -> None:
        """Ask the job to end now."""

    def kill(self, record: Record) -> None:
        """End it by force."""


class Local:
    """submitit's local executor: the job survives its launcher."""

    def __init__(self, cluster: Cluster) -> None:
        self.resources = cluster.local

    def submit(self, folder: Path, arguments: tuple[Any, ...], cpus: int) -> Record:
        """Start the job; its submitit folder is new, since process ids come back."""
        import submitit

        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(cpus)
        executor = submitit.AutoExecutor(folder, cluster="local")
        executor.update_parameters(
            timeout_min=60 * self.resources.hours,
            gpus_per_node=self.resources.gpus,
            local_stderr_to_stdout=True,
        )
        submitted = executor.submit(job, *arguments)
        pid = int(submitted.job_id)
        return {"id": submitted.job_id, "started": locks.process_start(pid)}

    def alive(self, record: Record) -> bool:
        """Whether the controller that was started then is still the process of that id."""
        started = locks.process_start(int(record["id"]))
        return started is not None and started == record["started"]

    def cancel(self, record: Record) -> None:
        """Interrupt the controller, which interrupts and then kills its tasks."""
        self._signal(record, signal.SIGINT)

    def kill(self, record: Record) -> None:
        """Kill the controller."""
        self._signal(record, signal.SIGKILL)

    def _signal(self, record: Record, number: int) -> None:
        if self.alive(record):
            os.kill(int(record["id"]), number)


LAUNCHERS: dict[str, type[Local]] = {"local": Local}
PLACES = (*LAUNCHERS, "debug")  # debug: in this process


def run(experiment_path: Path, run_id: str, place: str = "local") -> None:
    """Carry out one run at `place` and wait for its end, printing what it says.

    Raises JobError with the job's own message and exit code, UserError for wrong parameters.
    """
    experiment = params.load(experiment_path)
    run = runs.parse(experiment, run_id)
    folder = runs.work_folder(experiment, run)
    spec = runs.fingerprint(experiment, run)
    if place == "debug":
        from d2v import execute

        first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
        with locks.held(folder / "lock") if first else nullcontext():
            execute.execute(experiment_path, run.id)
        return
    launcher = LAUNCHERS[place](_cluster())
    with _interrupts():
        with locks.held(folder / "submit.lock"):  # launchers of one run take turns
            record, seen = _attach(launcher, place, folder, spec) or _submit(
                launcher, place, folder, (experiment_path, run.id, spec), runs.cpus(experiment, run)
            )
        try:
            _follow(launcher, record, folder, run.id, seen)
        except KeyboardInterrupt:
            _cancel(launcher, record, folder)
            raise
    _raise_failure(record, folder, run.id)


def _attach(launcher: Launcher, place: str, folder: Path, spec: str) -> tuple[Record, int] | None:
    """The run's job if it still lives and does what is wanted, and how much of its log is old."""
    record = read_json(folder / "job.json")
    if not record or record["place"] != place or not _alive(launcher, record, folder):
        return None
    if record["spec"] != spec:
        print(f"job {record['id']} runs with other parameters: it is cancelled", flush=True)
        _cancel(launcher, record, folder)
        return None
    print(f"job {record['id']} has been running since {record['submitted']}: attached", flush=True)
    return record, _size(folder / "train.log")


def _submit(
    launcher: Launcher, place: str, folder: Path, arguments: tuple[Path, str, str], cpus: int
) -> tuple[Record, int]:
    """Start a job and write down which; the part of the log that is there is not its own."""
    attempt = secrets.token_hex(4)
    seen = _size(folder / "train.log")
    record = launcher.submit(folder / "submitit" / attempt, (*arguments, folder, attempt), cpus)
    record |= {
        "place": place,
        "attempt": attempt,
        "spec": arguments[2],
        "submitted": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / "job.json", record)
    return record, seen


def _alive(launcher: Launcher, record: Record, folder: Path) -> bool:
    # the lock: a task outlives its controller when that alone was killed
    return launcher.alive(record) or locks.is_held(folder / "lock")


def _follow(launcher: Launcher, record: Record, folder: Path, name: str, seen: int) -> None:
    """Print the job's new lines until it has ended."""
    log, rest = folder / "train.log", ""
    while True:
        alive = _alive(launcher, record, folder)
        if log.exists():
            with log.open("rb") as file:
                file.seek(seen)
                new = file.read()
            seen += len(new)
            *lines, rest = (rest + new.decode(errors="replace")).split("\n")
            for line in lines:
                print(f"{name} | {line}", flush=True)
        if not alive:
            return
        time.sleep(POLL_S)


def _cancel(launcher: Launcher, record: Record, folder: Path) -> None:
    launcher.cancel(record)
    end = time.monotonic() + CANCEL_S
    while _alive(launcher, record, folder) and time.monotonic() < end:
        time.sleep(POLL_S)
    launcher.kill(record)
    pid, started = _holder(folder)
    if pid and locks.is_held(folder / "lock") and locks.process_start(pid) == started:
        os.kill(pid, signal.SIGKILL)


def _raise_failure(record: Record, folder: Path, name: str) -> None:
    outcome = read_json(folder / "outcome.json")
    log = folder / "train.log"
    if outcome is None or outcome["attempt"] != record["attempt"]:
        said = "".join(
            path.read_text(errors="replace")
            for path in sorted((folder / "submitit" / record["attempt"]).glob("*.out"))
        )
        last = said.strip().rpartition("\n")[2]
        hint = f" ({last})" if "Error" in last else "; was it killed, or out of memory?"
        raise JobError(f"{name}: job {record['id']} ended without a result{hint}; see {log}")
    if outcome["error"] is not None:
        raise JobError(f"{name}: {outcome['error']} (log: {log})", outcome["exit_code"])


# --- in the job ---------------------------------------------------------------------------------


def job(experiment_path: Path, run_id: str, spec: str, folder: Path, attempt: str) -> None:
    """What a job does: take the run's lock, execute, and leave word of how it ended."""
    outcome: dict[str, Any] = {"attempt": attempt, "error": None, "exit_code": 0}
    with _log_to(folder / "train.log"), locks.held(folder / "lock") as lock:
        lock.truncate(0)
        print(os.getpid(), locks.process_start(os.getpid()), file=lock, flush=True)
        try:
            experiment = params.load(experiment_path)
            if runs.fingerprint(experiment, runs.parse(experiment, run_id)) != spec:
                raise UserError(f"{experiment_path} changed while the job was starting: run again")
            from d2v import execute

            execute.execute(experiment_path, run_id)
        except UserError as error:
            outcome |= {"error": str(error), "exit_code": error.exit_code}
            print(f"error: {error}", flush=True)
        except Exception as error:
            traceback.print_exc()
            outcome |= {"error": f"{type(error).__name__}: {error}", "exit_code": 1}
        write_json(folder / "outcome.json", outcome)


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send this process's output, and its children's, to the end of a file."""
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


# --- files and signals --------------------------------------------------------------------------


def is_running(folder: Path) -> bool:
    """Whether a job works on the run now."""
    return locks.is_held(folder / "lock")


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none (or half of one)."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(values, indent=1) + "\n")
    draft.replace(path)


def _cluster() -> Cluster:
    return params.load_as(Cluster, CLUSTER) if CLUSTER.exists() else Cluster()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _holder(folder: Path) -> tuple[int, float | None]:
    """Process that last took the run's lock, and its start time."""
    try:
        pid, started = (folder / "lock").read_text().split()
    except (FileNotFoundError, ValueError):
        return 0, None
    return int(pid), float(started)


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
