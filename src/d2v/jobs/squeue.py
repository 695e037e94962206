"""One question to Slurm for all jobs of a user on this machine, whatever the number of workflows.

Answers are kept in a file that all processes of the user share: whoever finds it out of date asks,
the others read. Every call, of squeue or sacct, comes at least `poll_s` seconds after the previous
one. Calls become rarer while nothing changes and while Slurm does not answer.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from d2v.jobs.local import State, pause_s
from d2v.util import locks
from d2v.util.files import read_json, write_json

ASK_S = 40  # timeout of a Slurm command
LOOK_S = 1.0  # how often the shared file is read
REST_S = 60.0  # longest pause between two calls
EVEN = 6  # equal answers after which the pause doubles
FORGET_S = 3600.0  # how long the accounting's words are kept
RUNNING = ("RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
ENDED = {"COMPLETED", "FAILED", "OUT_OF_MEMORY", "CANCELLED", "DEADLINE", "TIMEOUT", "NODE_FAIL"}
ENDED |= {"PREEMPTED", "BOOT_FAIL", "REVOKED"}
FIELDS = {"JobArrayID": 40, "State": 20, "RestartCnt": 12, "NodeList": 400, "Reason": 80}
FIELDS |= {"Comment": 60}


@dataclass(frozen=True)
class Answer:
    """What Slurm said last; times are in seconds of the clock."""

    tried: float = 0.0  # start of the last call
    failed: int = 0  # calls without an answer since the last answer
    said: str = ""  # the error message of the last one
    even: int = 0  # answers since the last change
    asked: float = 0.0  # start of the last call of squeue that was answered
    jobs: dict[str, State] = field(default_factory=dict)  # by id
    comments: dict[str, str] = field(default_factory=dict)  # id of the job or array, by comment
    # the accounting's words on jobs that squeue does not list: state, nodes, and when it was asked
    accounts: dict[str, tuple[str, str, float]] = field(default_factory=dict)


class Question:
    """The shared answer, and when to ask again."""

    def __init__(self, poll_s: float, folder: Path | None = None) -> None:
        """`folder` holds the shared file; by default, one per user, cluster and machine."""
        self.poll_s = poll_s
        self.file = (folder or _own_folder()) / "queue.json"
        self.wanted: dict[str, float] = {}  # when each job was first asked for
        self.known = Answer()
        self.read_at = 0.0
        self.soon = False
        self.submitted = 0.0  # time of this process's last submission

    def state(self, number: str) -> State:
        """State of a job; the phase is "" until Slurm has been asked about it."""
        first = self.wanted.setdefault(number, time.time())
        known = self.refresh()
        if number in known.jobs:
            return known.jobs[number]
        if known.failed:
            return State("unreachable")
        if known.asked <= first:
            return State("")
        word, nodes, asked = known.accounts.get(number, ("", "", 0.0))
        if asked <= first:  # squeue does not list it, but the accounting has not been asked
            return State("ending", nodes=nodes)
        if word in ENDED:
            return State("ending", word, nodes=nodes)
        # the accounting still lists a job as running that the controller has lost
        return State("ending", reason=word, nodes=nodes)

    def forget(self, number: str) -> None:
        """Ask no longer about a job."""
        self.wanted.pop(number, None)

    def named(self, comment: str, since: float) -> tuple[bool, str | None]:
        """Whether squeue was asked after `since`, and the id of the job (array) with a comment."""
        known = self.refresh()
        found = known.comments.get(comment)
        return found is not None or known.asked > since, found

    def refresh(self, now: bool = False) -> Answer:
        """The latest answer, asked for if it is time to; `now` asks in any case."""
        moment = time.time()
        if not now and moment < self.read_at + LOOK_S:
            return self.known
        self.read_at = moment
        self._read()
        if now or moment >= self._next(self.known):
            try:
                with locks.attempt(self.file.with_suffix(".lock")) as alone:
                    if alone:  # otherwise another process is asking: its answer comes
                        self._read()
                        if now or time.time() >= self._next(self.known):
                            self._renew()
            except OSError:  # a full /tmp: everybody asks for himself
                self._renew()
        return self.known

    def _read(self) -> None:
        """Take over the shared answer, if it is newer."""
        found = _parsed(read_json(self.file))
        if found.tried > self.known.tried:
            self.known = found

    def _renew(self) -> None:
        self.known = self._ask(self.known)
        self.soon = False
        with suppress(OSError):
            write_json(self.file, asdict(self.known))

    def _next(self, known: Answer) -> float:
        """When Slurm may be asked again."""
        rest = max(REST_S, self.poll_s)
        if known.failed:
            return known.tried + pause_s(known.failed, self.poll_s, rest)
        unsettled = self.soon or any(first > known.asked for first in self.wanted.values())
        slow = 0 if unsettled else min(known.even // EVEN, 6)
        return known.tried + min(rest, self.poll_s * 2**slow)

    def _ask(self, known: Answer) -> Answer:
        """One call: of the accounting if squeue does not list a wanted job, otherwise of squeue."""
        missing = self._missing(known)
        if missing and known.accounts.get("", ("", "", 0.0))[2] < known.asked:
            return _account(known, missing)
        started = time.time()
        found = listed()
        if isinstance(found, str):
            return replace(known, tried=started, failed=known.failed + 1, said=found)
        jobs, comments = found
        even = known.even + 1 if jobs == known.jobs else 0
        return replace(
            known, tried=started, failed=0, even=even, asked=started, jobs=jobs, comments=comments
        )

    def _missing(self, known: Answer) -> list[str]:
        return [
            number
            for number, first in self.wanted.items()
            if known.asked > first
            and number not in known.jobs
            and known.accounts.get(number, ("", "", 0.0))[0] not in ENDED
        ]


def listed() -> tuple[dict[str, State], dict[str, str]] | str:
    """The user's jobs by id, and their ids by comment; squeue's message if it has no answer."""
    layout = ",".join(f"{name}:{width}" for name, width in FIELDS.items())
    done = ask("squeue", "-h", "-r", "-a", "-t", "all", "-u", str(os.getuid()), "-O", layout)
    if done is None or done.returncode:
        return "nothing" if done is None else (done.stderr.strip().splitlines() or [""])[-1]
    found, comments = {}, {}
    for line in done.stdout.splitlines():
        cells = []
        for width in FIELDS.values():
            cells.append(line[:width].strip())
            line = line[width:]
        number, word, restarts, nodes, reason, comment = cells
        phase = "running" if word in RUNNING else "queued"
        if word in ENDED or word == "COMPLETING":
            phase = "ending"
        reason = "" if reason == "None" else reason
        found[number] = State(phase, word, reason, nodes, int(restarts or 0))
        comments[comment] = number.partition("_")[0]
    return found, comments


def _account(known: Answer, numbers: Collection[str]) -> Answer:
    """Ask the accounting about jobs that squeue does not list."""
    started = time.time()
    words = ("sacct", "-n", "-X", "-P", "-j", ",".join(numbers), "-o", "JobID,State,NodeList")
    done = ask(*words)
    said = {n: a for n, a in known.accounts.items() if started - a[2] < FORGET_S}
    said |= dict.fromkeys(("", *numbers), ("", "", started))
    for line in done.stdout.splitlines() if done and not done.returncode else ():
        number, word, nodes = (*line.split("|"), "", "")[:3]
        if number in said:
            said[number] = (word.split(" ")[0], nodes, started)  # "CANCELLED by 0"
    return replace(known, tried=started, accounts=said)


def ask(*words: str, timeout: float = ASK_S) -> "subprocess.CompletedProcess[str] | None":
    """Run a Slurm command; None if it times out or is not installed."""
    try:
        # a session of its own: Ctrl-C must reach us only, and the command must be able to finish
        return subprocess.run(
            words, capture_output=True, text=True, timeout=timeout, start_new_session=True
        )
    except (subprocess.TimeoutExpired, FileNotFoundError):
        return None


def of_ids(numbers: Iterable[str], poll_s: float) -> dict[str, State]:
    """States of some jobs, from the shared answer; without those that Slurm does not list."""
    known = Question(poll_s).refresh()
    return {number: known.jobs[number] for number in numbers if number in known.jobs}


def _own_folder() -> Path:
    """Folder of this user for one cluster; a folder that belongs to somebody else is not used."""
    name = sha256(os.environ.get("SLURM_CONF", "").encode()).hexdigest()[:8]
    folder = Path(tempfile.gettempdir()) / f"d2v-{os.getuid()}-slurm-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
        return Path(tempfile.mkdtemp(prefix="d2v-slurm-"))
    return folder


def _parsed(found: dict[str, Any] | None) -> Answer:
    try:
        fields = dict(found or {})
        jobs = {number: State(**state) for number, state in fields.pop("jobs", {}).items()}
        rows = fields.pop("accounts", {})
        accounts = {number: (word, nodes, float(t)) for number, (word, nodes, t) in rows.items()}
        return Answer(**fields, jobs=jobs, accounts=accounts)
    except (AttributeError, TypeError, ValueError):  # written by another version
        return Answer()
