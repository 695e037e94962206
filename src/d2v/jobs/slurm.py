"""Jobs on a Slurm cluster: submitted through submitit as arrays, followed through one question.

submitit's own job state is not used. It treats a lost node as the end of the job, although Slurm
requeues the job, and without Slurm accounting it waits forever for a job that was killed.
"""

import io
import re
import shutil
import time
from collections.abc import Hashable, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

from d2v.jobs import squeue
from d2v.jobs.cluster import Cluster
from d2v.jobs.job import Job
from d2v.jobs.local import Busy, Ending, Record, State
from d2v.jobs.sbatch import Submission, clean_environment
from d2v.util.errors import UserError
from d2v.util.files import read_json

RENEW_S = 2.0  # least time between questions about the end of cancelled jobs
STUCK_S = 15  # how long a queued job may report a hopeless reason before it is given up
FOUND_S = 60.0  # how long a submission whose launcher was killed may still reach the controller
# Seconds after which a job that stays in one of these states counts as ended. Slurm requeues a job
# a little later after a lost node or a pre-emption, and the files of a node may arrive late.
LAST = {"COMPLETED": 5, "FAILED": 5, "OUT_OF_MEMORY": 5, "CANCELLED": 3, "DEADLINE": 3}
LAST |= {"TIMEOUT": 20, "NODE_FAIL": 60, "PREEMPTED": 60, "BOOT_FAIL": 60}
LOST = {"": 20}  # the same for a job that is unknown to Slurm
LISTED = 12  # questions after which a job counts as lost that only the accounting still lists
INTERRUPTED = ("TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL")
# limits on the number of jobs: they pass
LIMIT = re.compile(
    r"Max\w*Submit\w*|Max\w*JobCount|MaxJobs\w*Limit|GrpSubmit\w*|job submit limit", re.IGNORECASE
)
ARRAY = re.compile(r"invalid (job )?array|array (size|index)|MaxArraySize", re.IGNORECASE)
# the controller is busy, away or throttles
BUSY = re.compile(
    r"timed out|try again|temporarily|unable to contact|connection refused|zero bytes|throttl"
    r"|rate limit|too many|backup controller|not responding|communication connection failure",
    re.IGNORECASE,
)
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
NOT_ACCEPTED = "Slurm did not accept the job"
HELD = re.compile(r"launch.failed.requeued.held", re.IGNORECASE)
# what a shell or a container runtime says if it cannot even start Python
NO_PYTHON = re.compile(
    r"not found|no such file|permission denied|no module named|cannot execute|FATAL|exec format",
    re.IGNORECASE,
)


class Slurm:
    """Launcher for the jobs of one run on a Slurm cluster."""

    most = 250
    pause_s = 1.0

    def __init__(self, cluster: Cluster, run_id: str, folder: Path) -> None:
        self.name, self.folder = run_id, folder
        self.resources = cluster.slurm.of(run_id)
        self.retries, self.requeue = self.resources.retries, self.resources.requeue
        self.gpus, self.stage = self.resources.gpu_count, self.resources.stage
        self.question = _question(self.resources.poll_s)
        self.known, self.of = State("unreachable"), ""  # latest state, and the job's id
        self.since = self.seen = 0.0  # when the state changed; the time of its first answer

    # --- submission ---------------------------------------------------------------------------

    def like(self, cpus: int) -> Hashable:
        """The request; jobs with the same one form an array."""
        return self.resources.model_dump_json(), cpus

    def submit(self, folder: Path, jobs: Sequence[Job], cpus: int) -> list[Record]:
        """Submit the jobs, as an array if there are several.

        Raises Busy if Slurm does not accept them at the moment, and UserError with Slurm's own
        message if it refuses them.
        """
        if shutil.which("sbatch") is None:
            raise UserError(
                f"{self.name}: unknown command `sbatch`; is this machine part of the cluster?"
            )
        known = self.question.refresh()
        if known.failed > (2 if known.asked else 0):  # sbatch would only wait for the controller
            raise Busy(f"{NOT_ACCEPTED}: `squeue` says {known.said or 'nothing'}")
        name = self.name if len(jobs) == 1 else f"{self.name}+{len(jobs) - 1}"
        submission = Submission(folder, self.resources, name.replace("/", "-"), folder.name, cpus)
        with clean_environment(), redirect_stderr(io.StringIO()):
            number, said = submission.sbatch(jobs)
        if number is not None:
            self.question.soon, self.question.submitted = True, time.time()
            if len(jobs) == 1:
                return [{"id": number, "array": None}]
            return [{"id": f"{number}_{i}", "array": number} for i in range(len(jobs))]
        if said is None:
            raise Busy(f"{NOT_ACCEPTED}: no answer to `sbatch`", unsure=True)
        text = f"{NOT_ACCEPTED}: {said}"
        if ARRAY.search(said) and len(jobs) > 1:
            raise Busy(text, limit=True)
        if LIMIT.search(said) and not self._hopeless_limit(len(jobs)):
            raise Busy(text, limit=True)
        if REFUSED.search(said) and not BUSY.search(said):
            raise UserError(f"{self.name}: {text} (the request is set in params/cluster.yaml)")
        raise Busy(text, unsure="timed out" in said)

    def _hopeless_limit(self, count: int) -> bool:
        """Whether a limit refuses a single job of a user who has no other one."""
        known = self.question.known
        return count == 1 and known.asked > 0 and not any(s.waiting for s in known.jobs.values())

    def find(self, record: Record) -> tuple[bool, Record]:
        """The job of an interrupted submission, by its comment; waits until it must be known."""
        since = float(record.get("known", record.get("time", 0.0) + FOUND_S))
        known, number = self.question.named(_comment(record), since)
        if number is None or record.get("index") is None:
            return known, {"id": number, "array": None} if number else {}
        return known, {"id": f"{number}_{record['index']}", "array": number}

    # --- following the job --------------------------------------------------------------------

    def count(self) -> int | None:
        """Jobs of the user that are queued or running; None until asked after a submission."""
        known = self.question.refresh()
        if known.failed or known.asked <= self.question.submitted:
            self.soon()
            return None
        return sum(state.waiting for state in known.jobs.values())

    def soon(self) -> None:
        """Ask Slurm again as early as `poll_s` allows, although nothing has changed lately."""
        self.question.soon = True

    def renew(self) -> None:
        """Ask Slurm now, unless it was asked a moment ago; for the end of a cancelled job."""
        if time.time() - self.question.known.tried > RENEW_S:
            self.question.refresh(now=True)

    def state(self, record: Record) -> State:
        """State that Slurm reports, as of the latest answer."""
        found = self.question.state(record["id"])
        answer = self.question.known
        if self.of != record["id"]:
            self.of, self.known, self.since, self.seen = record["id"], State(""), time.time(), 0.0
        if found.phase == "unreachable":
            self.known = replace(self.known, phase="unreachable")
            return self.known
        same = (found.word, found.restarts) == (self.known.word, self.known.restarts)
        if not same or self.known.phase in ("", "unreachable"):
            self.since, self.seen = time.time(), answer.asked
        if found.phase == "ending":
            self.soon()
            patience = (LAST | LOST).get(found.word, 0.0)
            if not found.word and found.reason:
                patience = LISTED * self.resources.poll_s
            if found.word != "COMPLETING" and answer.asked - self.seen >= patience > 0:
                found = replace(found, phase="ended" if found.word else "lost")
        self.known = found
        return found

    def stuck(self, state: State) -> Ending | None:
        """Why a queued job will never start, if its state has not changed for `STUCK_S` seconds."""
        if state.phase != "queued" or time.time() - self.since < STUCK_S:
            return None
        if HELD.search(state.reason):
            return Ending("could not be started again and is held", max(1, self.retries), "held")
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
            word = "out of time" if state.word == "TIMEOUT" else "interrupted"
            if self.requeue:
                return Ending(told, max(1, self.retries), word)
            return Ending(f"{told}, and requeue is false in params/cluster.yaml", state=word)
        if state.word == "CANCELLED":
            return Ending("was cancelled", state="cancelled")
        if state.word == "OUT_OF_MEMORY":
            said = "ran out of memory; request more (memory_gb in params/cluster.yaml)"
            return Ending(said, state="out of memory")
        if state.word == "DEADLINE":
            return Ending("passed its deadline", state="out of time")
        return self._killed(record, state, folder)

    def _killed(self, record: Record, state: State, folder: Path) -> Ending:
        """A job that ended without a result, or before Python started: then with what was said."""
        pulse = read_json(self.folder / "pulse.json") or {}
        last, path = _last_lines(folder, str(record["id"]))
        if pulse.get("attempt") == record["attempt"] or not last:
            return Ending(f"ended without a result ({state.word}); was it killed?", self.retries)
        said = f"ended before the run started ({state.word}): {last} (see {path})"
        return Ending(said, 0 if NO_PYTHON.search(last) else self.retries)

    def cancel(self, records: Sequence[Record], force: bool = False) -> None:
        """Cancel the jobs in one call; raises UserError if Slurm does not answer."""
        how = ["--signal=KILL", "--full"] if force else []
        numbers = _expressions(records)
        for first in range(0, len(numbers), 200):
            some = numbers[first : first + 200]
            done = squeue.ask("scancel", *how, *some)
            # a job that has ended in the meantime is an error for scancel
            if done is None or (done.returncode and "contact" in done.stderr.lower()):
                raise UserError(
                    f"job {some[0]} could not be cancelled because Slurm does not respond;"
                    f" run `scancel {' '.join(some)}` later"
                )
        self.soon()


def _expressions(records: Sequence[Record]) -> list[str]:
    """Ids of jobs for scancel; those of an array are joined, as in 12_[0-4,7]."""
    arrays: dict[str, list[int]] = {}
    for record in records:
        if record.get("array"):
            arrays.setdefault(record["array"], []).append(int(record["id"].partition("_")[2]))
    alone = [str(record["id"]) for record in records if record["id"] and not record.get("array")]
    return alone + [f"{array}_[{_ranges(sorted(found))}]" for array, found in arrays.items()]


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as 0-4,7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


_questions: dict[float, squeue.Question] = {}  # one for all runs of this process


def _question(poll_s: float) -> squeue.Question:
    return _questions.setdefault(poll_s, squeue.Question(poll_s))


def _comment(record: Record) -> str:
    return f"d2v {record.get('batch') or record['attempt']}"


def _hopeless(state: State) -> Ending | None:
    if not HOPELESS.search(state.reason):
        return None
    said = f"will never start: Slurm says {state.reason}"
    return Ending(f"{said} (the request is set in params/cluster.yaml)", state="refused")


def _last_lines(folder: Path, number: str, count: int = 3) -> tuple[str, Path]:
    """Last lines of the job's own output, outside the run's log, and their file."""
    found = sorted(folder.glob(f"{number}_*log.out"))
    for path in found:
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
        lines = [line for line in lines if line]
        if lines:
            return " / ".join(lines[-count:]), path
    return "", folder
