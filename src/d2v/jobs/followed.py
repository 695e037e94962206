"""The jobs of one piece of work, one after the other, followed in steps that never wait.

Its folder holds everything that the next launch needs: `job.json` (the job's id and state), `lock`
(held by the job while it runs), `pulse.json` (the job's heartbeat and node), `outcome.json` (how
the job ended), `train.log` (the job's output) and `launch.log` (the launcher's messages).
"""

import errno
import secrets
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from d2v.jobs.cluster import Cluster
from d2v.jobs.job import Job, progress, word_of
from d2v.jobs.local import Ending, Launcher, Local, Record, State
from d2v.jobs.slurm import Slurm
from d2v.jobs.work import JobError, Work
from d2v.util import locks
from d2v.util.errors import UserError, spared
from d2v.util.files import read_json, write_json

LEAVE_S = 60.0  # time a job has to exit after it has written its outcome
SETTLE_S = 5.0  # time after which a job that was accepted in spite of an error is listed
NOT_OURS_TO_WRITE = (errno.EROFS, errno.EACCES, errno.EPERM)
REACH_S = 40.0  # how long a single run waits for an answer about an earlier job

LAUNCHERS: dict[str, type[Local] | type[Slurm]] = {"local": Local, "slurm": Slurm}


class Followed:
    """One piece of work, from the search for a job that is already there to its end.

    stage: find (is there a job?), submit (it needs one), follow (it has one), over.
    """

    def __init__(
        self,
        work: Work,
        place: str,
        cluster: Cluster,
        workflow: bool = False,
        resumed: bool = True,
    ) -> None:
        """In a `workflow`, old results are removed, and a silent cluster is waited for.

        `resumed`: a current result of an earlier job counts; otherwise the work is done again.
        """
        self.work, self.cluster, self.workflow, self.resumed = work, cluster, workflow, resumed
        self.name, self.folder = work.name, work.folder
        self.log, self.lock = self.folder / "train.log", self.folder / "submit.lock"
        self.spec, self.cpus = work.spec, work.cpus
        self.stage: Literal["find", "submit", "follow", "over"] = "find"
        self.error: JobError | None = None
        self.record: Record = {}
        self.state = State("")
        self.wanted, self.trouble = place, ""
        self._go_to(place)
        self._begin()

    def _begin(self) -> None:
        """Forget what is known of earlier jobs."""
        self.seen = self.log.stat().st_size if self.log.exists() else 0
        self.rest, self.noted, self.leave = b"", "", 0.0
        self.attached = self.cancelling = False
        self.deaths, self.reached = 0, -1
        self.alone, self.held = False, ExitStack()  # submit.lock, from search to submission
        self.since = time.monotonic()

    def _go_to(self, place: str) -> None:
        self.place = place
        self.launcher: Launcher = LAUNCHERS[place](self.cluster, self.work.request, self.folder)

    def step(self) -> None:
        """Do what can be done now."""
        try:
            if self.stage == "find":
                self._find()
            elif self.stage == "follow":
                self._follow()
        except UserError as error:
            self.fail(str(error), "failed", error.exit_code)
        except OSError as error:
            if self.stage == "find" and error.errno in NOT_OURS_TO_WRITE:
                self._refuse(error)
                return
            # a full or unreachable disk: look again in the next step
            said = f"{error.filename}: {error.strerror}; waiting"
            if self.trouble != said:
                self.trouble = said
                print(f"{self.name}: {said}", flush=True)

    def _refuse(self, error: OSError) -> None:
        """End before there is a job, in a folder in which nothing can be noted."""
        said = f"{error.filename}: {error.strerror}; work/ must be on a disk that you may write"
        self.error, self.stage = JobError(said, 2), "over"
        self._release()

    # --- finding or starting a job ------------------------------------------------------------

    def _find(self) -> None:
        """Attach to the job that is still alive, at any place, if its parameters are current."""
        if not self._alone():
            return
        record = read_json(self.folder / "job.json")
        if not record or record.get("state") in ("cancelled", "refused"):
            self._needs_one()
            return
        if record["place"] != self.place:
            self._go_to(record["place"])
        if record["id"] is None:  # its launcher was killed during the submission
            known, found = self.launcher.find(record)
            if not known:
                self._check_reach(record)
                return
            record |= found
        if record["id"] is None:
            self._needs_one()
            return
        self._judge(record)

    def _judge(self, record: Record) -> None:
        """Attach to a job, cancel it or do without it, as soon as its state is known."""
        state = self.launcher.state(record)
        ended = state.phase in ("ended", "lost") or (
            state.phase == "ending" and word_of(self.folder, record["attempt"]) is not None
        )
        if ended and self.resumed and self.work.done():  # it ended after its launcher was killed
            self.record = record
            self._end("done")
        elif ended:
            self._needs_one()
        elif not state.waiting:
            if state.phase in ("", "unreachable"):
                self._check_reach(record)
        elif record["spec"] == self.spec:
            self.say(f"attached to job {record['id']}, submitted {record['submitted']}")
            self.record, self.attached = record, True
            self._write()
            self._follow_from_now()
        elif not self.cancelling:
            self.say(f"job {record['id']} runs with different parameters; cancelling it")
            self.launcher.cancel([record])
            self.cancelling = True

    def _alone(self) -> bool:
        """Hold submit.lock, if no other launcher does: only one of them starts a job."""
        if not self.alone:
            self.alone = self.held.enter_context(locks.attempt(self.lock)) is not None
            if not self.alone:
                self._release()
        return self.alone

    def _release(self) -> None:
        self.held.close()
        self.alone = False

    def _check_reach(self, record: Record) -> None:
        """Raise UserError if the cluster does not answer about an earlier job."""
        if not self.workflow and time.monotonic() - self.since > REACH_S:
            raise UserError(
                f"{self.name}: job {record['id']} may still be running, but its cluster does not"
                " respond; try again later"
            )

    def _needs_one(self) -> None:
        if self.place != self.wanted:
            self._go_to(self.wanted)
        if self.workflow and not self.deaths:
            self.work.clear()
        self.stage = "submit"

    def prepare(self, batch: str, index: int | None, folder: Path) -> Job:
        """A new attempt, noted in `job.json` before it is submitted, so that no job is ever lost.

        `index` is its place in the array `batch`, `folder` that of submitit.
        """
        attempt = secrets.token_hex(4)
        now = datetime.now(UTC)
        self.record = {"id": None, "place": self.place, "attempt": attempt, "spec": self.spec}
        self.record |= {"submitted": now.isoformat(timespec="seconds"), "time": now.timestamp()}
        self.record |= {"state": "submitted", "batch": batch, "index": index}
        self.record |= {"folder": str(folder)}
        self._write()
        return self.work.job(attempt, self.launcher)

    def search_again(self) -> None:
        """The submission may have been accepted or not: look for its job."""
        self.stage, self.since = "find", time.monotonic()
        self.record["known"] = time.time() + SETTLE_S
        self._write()

    def submitted(self, found: Record) -> None:
        """The cluster has accepted the attempt; `found` identifies its job."""
        self.record |= found
        self._write()
        self._follow_from_now()

    def _follow_from_now(self) -> None:
        self.stage, self.noted, self.leave = "follow", "", 0.0
        self._release()

    # --- following it to its end --------------------------------------------------------------

    def _follow(self) -> None:
        """Look whether the job has ended, left its outcome, or is stuck."""
        record, word = self.record, self._word()
        self.state = state = self.launcher.state(record)
        if word is None and state.word and str(state) != self.noted:
            self.noted = str(state)
            self._note(state)
        if word is not None:
            self._leave(word)
            return
        if not state.living:
            self._died(self.launcher.ending(record, state, Path(record["folder"])))
            return
        stuck = self.launcher.stuck(state)
        if stuck is not None:
            self.launcher.cancel([record])
            self._died(stuck)

    def _leave(self, word: Record) -> None:
        """Wait until the job has exited after its outcome; a job that does not is cancelled."""
        self.launcher.soon()
        self.leave = self.leave or time.monotonic() + LEAVE_S
        if self.place == "slurm":
            alone = word.get("processes", 1) == 1
            gone = not self.state.waiting or (alone and not locks.is_held(self.folder / "lock"))
        else:
            gone = not self.state.waiting
        if not gone and time.monotonic() < self.leave:
            return
        if not gone:
            self.launcher.cancel([self.record])
        if word["error"] is not None:
            self.fail(
                f"{self.name}: {word['error']} (log: {self.log})", "failed", word["exit_code"]
            )
        elif self.attached and not self.work.exists():
            # the job was already ending when the workflow removed the old result
            self._begin()
            self.stage = "find"
        else:
            self._end("done")

    def _died(self, ending: Ending) -> None:
        """The job ended without an outcome: submit it again as long as that makes progress."""
        reached = progress(self.folder)
        self.deaths, self.reached = 1 if reached > self.reached else self.deaths + 1, reached
        message = f"job {self.record['id']} {ending.said}"
        lost = word_of(self.folder, self.record["attempt"])
        if lost is not None and lost["error"]:  # it looked like the loss of a peer
            message += f"; its last error: {lost['error']}"
        if self.deaths > ending.again:
            where = "" if "(see " in message else f" (log: {self.log})"
            self.fail(f"{self.name}: {message}{where}", ending.state, 1)
            return
        self.say(f"resubmitting because {message}")
        self.stage, self.since = "find", time.monotonic()
        self.record["state"] = "stopped"
        self._write()

    def fail(self, said: str, state: str, exit_code: int) -> None:
        """End with an error; its reason stands in `launch.log` and in `job.json`."""
        self.error = JobError(said, exit_code)
        self.note(said)
        self._end(state, said)

    def _end(self, state: str, said: str = "") -> None:
        if self.record:
            self.record |= {"state": state, "reason": said}
            self._write()
        self.stage = "over"
        self._release()

    def cancelled(self) -> None:
        """Note that the job was cancelled on request."""
        self.note("cancelled on request")
        if self.stage != "over":
            self._end("cancelled", "cancelled on request")

    # --- files --------------------------------------------------------------------------------

    def new_lines(self) -> list[str]:
        """Complete lines that the job has added to its log."""
        try:
            if self.log.stat().st_size == self.seen:
                return []
            with self.log.open("rb") as file:
                file.seek(self.seen)
                new = file.read()
        except OSError:
            return []
        self.seen += len(new)
        *lines, self.rest = (self.rest + new).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def say(self, text: str) -> None:
        """Print a line and append it to `launch.log`, because the workflow empties its own log."""
        print(text, flush=True)
        self.note(text)

    def note(self, text: str) -> None:
        """Append a line to `launch.log`."""
        with spared(f"the line in {self.folder / 'launch.log'}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "launch.log").open("a") as file:
                print(datetime.now(UTC).isoformat(timespec="seconds"), text, file=file)

    def _note(self, state: State) -> None:
        """Report a change of state and record it in `job.json`."""
        self.say(f"{self.name}: job {self.record['id']} {state}")
        self.record |= {"state": state.phase, "reason": state.reason}
        self.record |= {"nodes": state.nodes, "restarts": state.restarts}
        now = read_json(self.folder / "job.json")
        if now is not None and now["attempt"] == self.record["attempt"]:
            self._write()

    def _write(self) -> None:
        """Write `job.json`; a full disk must not end the launcher of a job that runs."""
        if self.record.get("id") is None:
            write_json(self.folder / "job.json", self.record)
            return
        with spared(f"writing {self.folder / 'job.json'}"):
            write_json(self.folder / "job.json", self.record)

    def _word(self) -> Record | None:
        """Outcome of the run; None if there is none, or if it only reports the loss of a peer."""
        word = word_of(self.folder, self.record["attempt"])
        return None if word is not None and word["lost_peer"] else word
