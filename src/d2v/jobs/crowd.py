"""Many pieces of work at once: submitted in arrays, followed together, cancelled together.

One process follows all of them. Submissions that a cluster does not accept at the moment (a limit
on the number of jobs, a throttle, a controller that is away) wait here and are tried again.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from d2v.experiment import folders
from d2v.jobs.followed import Followed
from d2v.jobs.local import Busy, Launcher, pause_s
from d2v.util.errors import UserError

GATHER_S = 2.0  # how long to wait for more jobs before an array is submitted
GATHER_MOST_S = 10.0  # the same, if more keep coming
AGAIN_S = 15.0  # first pause after a submission that was not accepted
AGAIN_MOST_S = 120.0
BUSY_S = 30.0  # how long a single run, outside a workflow, waits for a controller
CANCEL_S = 10.0  # time cancelled jobs have to exit before they are killed
SHOWN = 8  # running jobs whose every line is shown; of more, one line a minute each


@dataclass
class _Brake:
    """When a submission may be tried again, and how many jobs it may have."""

    until: float = 0.0
    most: int = 10**6  # of the next submission, while the limit is not known
    limit: int | None = None  # jobs of the user that the cluster accepts, as far as it showed
    here: int | None = None  # jobs that the user had when the limit was met
    since: float = 0.0  # of the first refusal in a row
    refused: int = 0  # refusals in a row
    told: str = ""


@dataclass
class Crowd:
    """All the work of one process."""

    workflow: bool = False  # wait for the cluster, however long
    # protects a submission from signals of the terminal
    undisturbed: Callable[[], "object"] | None = None
    all: list[Followed] = field(default_factory=list)
    show: Callable[[str], None] | None = None  # prints a line of the only job's log

    def __post_init__(self) -> None:
        self.brake = _Brake()
        self.came: dict[int, float] = {}  # when each piece of work was ready to be submitted
        self.stopped = False
        self.spoke: dict[int, float] = {}

    @property
    def live(self) -> list[Followed]:
        """What is not over."""
        return [one for one in self.all if one.stage != "over"]

    @property
    def pause_s(self) -> float:
        """Seconds between two steps: more if there is more to look at."""
        live = self.live
        least = min((one.launcher.pause_s for one in live), default=1.0)
        return max(least, len(live) / 100)

    def step(self) -> list[Followed]:
        """Look at everything once, and submit what is ready; return what has ended."""
        live = self.live
        for one in live:
            one.step()
        running = sum(one.stage == "follow" and one.state.phase == "running" for one in live)
        for one in live:
            self._show(one, running)
        if not self.stopped:
            self._submit_ready()
        ended = [one for one in live if one.stage == "over"]
        self.all = [one for one in self.all if one.stage != "over"]
        return ended

    # --- submission ---------------------------------------------------------------------------

    def _submit_ready(self) -> None:
        ready = [one for one in self.live if one.stage == "submit"]
        now = time.monotonic()
        came = {id(one): self.came.get(id(one), now) for one in ready}
        self.came = came
        if not ready or now < self.brake.until or not self._gathered(ready, now):
            return
        groups: dict[object, list[Followed]] = {}
        for one in ready:
            key = (one.launcher.like(one.cpus), one.work.folder.parts[:2])
            groups.setdefault(key, []).append(one)
        for group in groups.values():
            most = group[0].launcher.most
            for first in range(0, len(group), most):
                if self.stopped or not self._submit(group[first : first + most]):
                    return

    def _gathered(self, ready: list[Followed], now: float) -> bool:
        """Whether no more work is about to come, so that arrays are as large as they can be."""
        if not self.workflow:
            return True
        times = [self.came[id(one)] for one in ready]
        searching = any(one.stage == "find" for one in self.live)
        quiet = now - max(times) >= GATHER_S and not searching
        return quiet or now - min(times) >= GATHER_MOST_S

    def _submit(self, group: list[Followed]) -> bool:
        """Submit work that makes the same request; whether to go on with other requests."""
        launcher: Launcher = group[0].launcher
        group = group[: self._room(launcher)]
        if not group:
            return False
        batch, started = secrets.token_hex(4), time.monotonic()
        folder = _folder(group, batch)
        places = range(len(group)) if len(group) > 1 else [None]
        with self._guarded():
            try:
                jobs = [one.prepare(batch, i, folder) for one, i in zip(group, places, strict=True)]
                records = launcher.submit(folder, jobs, group[0].cpus)
            except (Busy, OSError) as error:
                self._wait(error, group, started)
                return False
            except UserError as error:
                said = str(error).removeprefix(f"{group[0].name}: ")
                for one in group:
                    one.fail(f"{one.name}: {said}", "refused", error.exit_code)
                return True
            for one, record in zip(group, records, strict=True):
                one.submitted(record)
        self._accepted(group)
        return True

    def _room(self, launcher: Launcher) -> int:
        """How many jobs the next submission may have."""
        if self.brake.limit is None:
            return self.brake.most
        here = launcher.count()
        if here is None:  # not known since the last submission
            return 0
        room = self.brake.limit - here
        return room if room >= max(1, self.brake.limit // 2) else 0

    def _accepted(self, group: list[Followed]) -> None:
        brake = self.brake
        if brake.most < len(self.live) and brake.limit is None:  # the limit has been found
            brake.limit = len(group) + (brake.here or 0)
        brake.since, brake.refused, brake.told = 0.0, 0, ""
        if self.workflow:
            number = group[0].record.get("array") or group[0].record["id"]
            more = f" and {len(group) - 1} more" if len(group) > 1 else ""
            print(f"job {number}: submitted {group[0].name}{more}", flush=True)
            for one in group:
                one.note(f"submitted as job {one.record['id']}")

    def _wait(self, error: Busy | OSError, group: list[Followed], started: float) -> None:
        """Try again later, with a line in the log; a single run outside a workflow gives up."""
        now, brake = time.monotonic(), self.brake
        brake.since = brake.since or started
        limit = isinstance(error, Busy) and error.limit
        said = str(error)
        if isinstance(error, OSError):
            said = f"{error.filename}: {error.strerror}"
        if not self.workflow and not limit and now - brake.since > BUSY_S:
            for one in group:
                one.fail(f"{one.name}: {said}", "refused", 2)
            return
        if limit and len(group) > 1:  # a smaller array may be accepted
            brake.most, brake.limit, brake.until = len(group) // 2, None, now + 1.0
            brake.here = group[0].launcher.count()
        else:
            brake.refused += 1
            pause = pause_s(brake.refused, AGAIN_S, AGAIN_MOST_S)
            brake.until = now + (pause if self.workflow or limit else BUSY_S / 5)
        if brake.told != said:
            brake.told = said
            waiting = sum(one.stage == "submit" for one in self.live)
            print(f"waiting to submit {waiting} job{'s' * (waiting > 1)}: {said}", flush=True)
            for one in group:
                one.note(f"waiting: {said}")
        if isinstance(error, Busy) and error.unsure:  # it may have been accepted: look for it
            for one in group:
                one.search_again()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Let no signal come between a submission and its record."""
        if self.undisturbed is None:
            yield
            return
        with self.undisturbed():  # type: ignore[attr-defined]
            yield

    # --- output -------------------------------------------------------------------------------

    def _show(self, one: Followed, running: int) -> None:
        """Print new lines of a job's log, or the newest one if many jobs are running."""
        lines = one.new_lines()
        if not lines:
            return
        if running > SHOWN and one.stage != "over":
            now = time.monotonic()
            if now - self.spoke.get(id(one), 0.0) < 60:
                return
            self.spoke[id(one)] = now
            lines = lines[-1:]
        for line in lines:
            if self.show is not None:
                self.show(line)
            else:
                print(f"{one.name} | {line}", flush=True)

    # --- the end ------------------------------------------------------------------------------

    def drop_waiting(self, said: str) -> list[Followed]:
        """Give up what has not been submitted; return it."""
        waiting = [one for one in self.live if one.stage != "follow"]
        for one in waiting:
            one.fail(f"{one.name}: {said}", "missing", 1)
        self.all = [one for one in self.all if one.stage != "over"]
        return waiting

    def cancel(self) -> None:
        """Cancel all jobs, and wait until they are gone; those that stay are killed.

        Raises UserError if the cluster does not answer.
        """
        self.stopped = True
        followed = [one for one in self.live if one.record.get("id")]
        for one in self.live:
            one.cancelled()
        by_place: dict[str, list[Followed]] = {}
        for one in followed:
            by_place.setdefault(one.place, []).append(one)
        for some in by_place.values():
            launcher = some[0].launcher
            launcher.cancel([one.record for one in some])
            end = time.monotonic() + CANCEL_S
            while left := [one for one in some if _waiting(one)]:
                if time.monotonic() > end:
                    launcher.cancel([one.record for one in left], force=True)
                    break
                time.sleep(launcher.pause_s)


def _waiting(one: Followed) -> bool:
    """Whether a job is still queued or running, as far as is known."""
    one.launcher.renew()
    return one.launcher.state(one.record).waiting


def _folder(group: list[Followed], batch: str) -> Path:
    """Where submitit keeps the files of a submission: with the run, or with all of the array."""
    if len(group) == 1:
        return group[0].folder / "submitit" / batch
    return folders.WORK / group[0].folder.relative_to(folders.WORK).parts[0] / "submitit" / batch
