"""Jobs on a Slurm cluster: submitted through submitit, followed through squeue and sacct.

submitit's own job state is not used. It treats a lost node as the end of the job, although Slurm
requeues the job, and without Slurm accounting it waits forever for a job that was killed.
"""

import io
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

from d2v.jobs.cluster import Cluster, minutes
from d2v.jobs.job import Job
from d2v.jobs.local import Ending, Record, State
from d2v.util.errors import UserError
from d2v.util.files import rename

ASK_S = 20  # timeout of a Slurm command
SUBMIT_S = 30  # how long a submission is retried
STUCK_S = 15  # how long a queued job may report a hopeless reason before it is given up
# Seconds after which a job that stays in one of these states counts as ended. Slurm requeues a job
# a little later after a lost node or a pre-emption, and the files of a node may arrive late.
LAST = {"COMPLETED": 5, "FAILED": 5, "OUT_OF_MEMORY": 5, "CANCELLED": 3, "DEADLINE": 3}
LAST |= {"TIMEOUT": 20, "NODE_FAIL": 60, "PREEMPTED": 60, "BOOT_FAIL": 60}
LOST = {"": 20}  # the same for a job that is unknown to Slurm
INTERRUPTED = ("TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL")
RUNNING = ("RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
FIELDS = {"JobArrayID": 40, "State": 20, "RestartCnt": 12, "NodeList": 400, "Reason": 80}
# errors of a submission for which a retry does not help
REFUSED = re.compile(
    r"invalid|not available|not be satisfied|not permitted|denied|violates|unrecognized|unknown"
    r"|illegal|not allowed|configuration source",
    re.IGNORECASE,
)
# reasons for which a queued job never starts
HOPELESS = re.compile(
    r"PartitionConfig|PartitionNodeLimit|PartitionTimeLimit|BadConstraints|InvalidAccount"
    r"|InvalidQOS|AccountNotAllowed|QOSNotAllowed|MaxWallDurationPerJobLimit|Max\w+PerJob"
    r"|DependencyNeverSatisfied"
)
HELD = re.compile(r"launch.failed.requeued.held", re.IGNORECASE)


class Slurm:
    """Launcher for the jobs of one run on a Slurm cluster."""

    pause_s = 1.0

    def __init__(self, cluster: Cluster, run_id: str, folder: Path) -> None:
        self.name = run_id
        self.resources = cluster.slurm.of(run_id)
        self.retries, self.requeue = self.resources.retries, self.resources.requeue
        self.known, self.of = State("unreachable"), ""  # latest state, and the job's id
        self.since = self.asked = -1e9  # times of the last change and of the last query

    # --- submission ---------------------------------------------------------------------------

    def submit(self, folder: Path, job: Job, cpus: int) -> Record:
        """Submit the job; if Slurm is only busy, retry for up to `SUBMIT_S` seconds.

        Raises UserError with Slurm's own message if it refuses the job or does not answer.
        """
        end, pause = time.monotonic() + SUBMIT_S, 1.0
        while True:
            said = _down()
            if said is None:
                record, said = self._sbatch(folder, job, cpus)
                # the controller may have accepted the job although sbatch timed out
                record = record or self.find(job.attempt, folder)
                if record is not None:
                    return record
            if REFUSED.search(said) or time.monotonic() + pause > end:
                raise UserError(
                    f"{self.name}: Slurm did not accept the job: {said}"
                    " (the request is set in params/cluster.yaml)"
                )
            time.sleep(pause)
            pause *= 2

    def _sbatch(self, folder: Path, job: Job, cpus: int) -> tuple[Record | None, str]:
        """Submit once; return the record, or None and the error message of sbatch."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        again = 10**6 if self.requeue else 0  # time limits that the job may hit
        with _clean_environment(), redirect_stderr(io.StringIO()):
            executor = submitit.AutoExecutor(
                folder,
                cluster="slurm",
                slurm_max_num_timeout=again,
                slurm_python=self._python(),
            )
            executor.update_parameters(**self._asked_for(job, cpus))
            try:
                number = executor.submit(job).job_id
            except (FailedJobError, FailedSubmissionError) as error:
                return None, " ".join(re.sub(r"sbatch: (error: )?", "", str(error)).split())
        return _record(number), ""

    def _asked_for(self, job: Job, cpus: int) -> dict[str, Any]:
        """Options for submitit's executor."""
        r = self.resources
        threads = r.cpus or cpus
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        asked = {
            "name": self.name.replace("/", "-"),
            "timeout_min": minutes(r.hours),
            "nodes": r.nodes,
            "tasks_per_node": r.processes,
            "cpus_per_task": threads,
            "gpus_per_node": r.gpus or None,
            "mem_gb": r.memory_gb,
            "slurm_partition": r.partition,
            "slurm_account": r.account,
            "slurm_qos": r.qos,
            "slurm_constraint": r.constraint,
            "slurm_signal_delay_s": r.signal_s,
            "slurm_comment": _comment(job.attempt),
            "slurm_setup": [*r.setup, *(f"export {name}={threads}" for name in names)],
            # srun no longer inherits --cpus-per-task from sbatch; without --kill-on-bad-exit, the
            # remaining processes would wait for one that died
            "slurm_srun_args": [
                "--cpu-bind=none",
                f"--cpus-per-task={threads}",
                "--kill-on-bad-exit=1",
            ],
            "slurm_additional_parameters": {
                "requeue" if self.requeue else "no-requeue": True,
                **r.sbatch,
            },
            "slurm_stderr_to_stdout": True,
        }
        return {key: value for key, value in asked.items() if value is not None}

    def _python(self) -> str | None:
        container = self.resources.container
        return f"{container} python3" if container else None

    def find(self, attempt: str, folder: Path) -> Record | None:
        """Record of an attempt's job, found by the comment of its submission; None if unknown."""
        done = _ask(
            "squeue", "-h", "-t", "all", "-u", str(os.getuid()), "-O", "JobID:40,Comment:80"
        )
        for line in done.stdout.splitlines() if done else ():
            number, _, comment = line.partition(" ")
            if comment.strip() == _comment(attempt):
                _adopt(folder, number)
                return _record(number)
        return None

    # --- following the job --------------------------------------------------------------------

    def state(self, record: Record, fresh: bool = False) -> State:
        """State that Slurm reports; queried often after a change, later every `poll_s` seconds."""
        now = time.monotonic()
        if self.of != record["id"]:
            self.of, self.known, self.since, self.asked = record["id"], State(""), now, -1e9
        pause = min(self.resources.poll_s, max(1.0, (now - self.since) / 4))
        if not fresh and now - self.asked < pause:
            return self.known
        found, self.asked = look(record["id"]), time.monotonic()
        if found.phase == "unreachable":
            found = replace(self.known, phase="unreachable")
        same = (found.word, found.restarts) == (self.known.word, self.known.restarts)
        if not same or self.known.phase in ("", "unreachable"):
            self.since = now
        patience = (LAST | LOST).get(found.word)
        if found.phase == "ending" and patience is not None and now - self.since >= patience:
            found = replace(found, phase="ended" if found.word else "lost")
        self.known = found
        return found

    def stuck(self, state: State) -> Ending | None:
        """Why a queued job will never start, if its state has not changed for `STUCK_S` seconds."""
        if state.phase != "queued" or time.monotonic() - self.since < STUCK_S:
            return None
        if HELD.search(state.reason):
            return Ending("could not be started again and is held", max(1, self.retries))
        return _hopeless(state)

    def ending(self, record: Record, state: State, folder: Path) -> Ending:
        """How the job ended: refused, interrupted, cancelled, out of memory or killed."""
        hopeless = _hopeless(state)  # some Slurm versions fail a job that others refuse
        if hopeless is not None:
            return hopeless
        if state.phase == "lost":
            return Ending("is unknown to Slurm", max(1, self.retries))
        if state.word in INTERRUPTED:
            told = f"was interrupted ({state.word})"
            if self.requeue:
                return Ending(told, max(1, self.retries))
            return Ending(f"{told}, and requeue is false in params/cluster.yaml")
        if state.word == "CANCELLED":
            return Ending("was cancelled")
        if state.word == "OUT_OF_MEMORY":
            return Ending("ran out of memory; request more (memory_gb in params/cluster.yaml)")
        if state.word == "DEADLINE":
            return Ending("passed its deadline")
        return Ending(f"ended without a result ({state.word}); was it killed?", self.retries)

    def cancel(self, record: Record, force: bool = False) -> None:
        """Cancel the job; raises UserError if Slurm does not answer."""
        how = ["--signal=KILL", "--full"] if force else []
        done = _ask("scancel", *how, record["id"])
        if done is None or (done.returncode and "Invalid job id" not in done.stderr):
            raise UserError(
                f"job {record['id']} could not be cancelled because Slurm does not respond;"
                f" run `scancel {record['id']}` later"
            )


def _hopeless(state: State) -> Ending | None:
    if not HOPELESS.search(state.reason):
        return None
    said = f"will never start: Slurm says {state.reason}"
    return Ending(f"{said} (the request is set in params/cluster.yaml)")


def look(number: str) -> State:
    """State of a job from squeue, or from sacct if the queue no longer lists it."""
    found = queue("-j", number)
    if found is None:
        return State("unreachable")
    if number in found:
        return found[number]
    done = _ask("sacct", "-n", "-X", "-P", "-j", number, "-o", "State,NodeList")
    rows = done.stdout.splitlines() if done and not done.returncode else []
    word, _, nodes = rows[-1].partition("|") if rows else ("", "", "")
    word = word.split(" ")[0]  # sacct prints "CANCELLED by 0"
    # the accounting still lists a job as running that the controller has lost
    return State("ending", word if word in LAST else "", nodes=nodes)


def queue(*words: str) -> dict[str, State] | None:
    """State of each job that the controller knows, keyed by id; None if it does not answer."""
    layout = ",".join(f"{name}:{width}" for name, width in FIELDS.items())
    done = _ask("squeue", "-h", "-a", "-t", "all", "-O", layout, *words)
    if done is None or (done.returncode and "Invalid job id" not in done.stderr):
        return None
    found = {}
    for line in done.stdout.splitlines():
        cells = []
        for width in FIELDS.values():
            cells.append(line[:width].strip())
            line = line[width:]
        number, word, restarts, nodes, reason = cells
        phase = "running" if word in RUNNING else "queued"
        if word in LAST or word == "COMPLETING":
            phase = "ending"
        reason = "" if reason == "None" else reason
        found[number] = State(phase, word, reason, nodes, int(restarts or 0))
    return found


def _adopt(folder: Path, number: str) -> None:
    """Rename the submission pickle to the job's id if the launcher was killed before doing so."""
    from submitit.core.utils import JobPaths

    wanted = JobPaths(folder, number).submitted_pickle
    for stray in [] if wanted.exists() else folder.glob("*.pkl"):
        rename(stray, wanted)
        return


def _record(number: str) -> Record:
    array = number.partition("_")[0] if "_" in number else None
    return {"id": number, "array": array}


def _comment(attempt: str) -> str:
    return f"d2v {attempt}"


def _ask(*words: str) -> "subprocess.CompletedProcess[str] | None":
    """Run a Slurm command; None if it times out or is not installed."""
    try:
        # a session of its own: Ctrl-C must reach us only, and the command must be able to finish
        return subprocess.run(
            words, capture_output=True, text=True, timeout=ASK_S, start_new_session=True
        )
    except (subprocess.TimeoutExpired, FileNotFoundError):
        return None


def _down() -> str | None:
    """Why no job can be submitted; None if the controller answers."""
    if shutil.which("sbatch") is None:
        return "unknown command `sbatch`; is this machine part of the cluster?"
    done = _ask("scontrol", "ping")
    if done is None:
        return "no answer to `scontrol ping`"
    if "is UP" in done.stdout:
        return None
    said = (done.stderr or done.stdout).strip().split("\n")[0]
    return f"`scontrol ping` says: {said}"


@contextmanager
def _clean_environment() -> Iterator[None]:
    """Hide the Slurm variables of an enclosing job, so that the new job does not inherit them."""
    from submitit.helpers import clean_env

    where = os.environ.get("SLURM_CONF")
    with clean_env():
        if where is not None:
            os.environ["SLURM_CONF"] = where
        yield
