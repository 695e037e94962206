"""Start a run as a job, wait for it, and never start a second one while the first is alive."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from d2v import params
from d2v.experiment import finished, runs
from d2v.jobs import cluster, work
from d2v.jobs.crowd import Crowd
from d2v.jobs.followed import LAUNCHERS, Followed
from d2v.util import locks
from d2v.util.errors import FailedAfterwards
from d2v.util.progress import Relay

PLACES = (*LAUNCHERS, "debug")  # debug: run in this process


def run(experiment_path: Path, run_id: str, place: str = "local", tolerant: bool = False) -> None:
    """Execute one run at `place`, print its output, and wait until it has ended.

    Raises JobError with the job's own message and exit code, UserError for invalid parameters
    or if the cluster refuses the job, and FailedAfterwards, unless `tolerant`, if the run has
    finished but some work after its training failed.
    """
    experiment = params.load(experiment_path)
    params.check_stages(experiment)
    run = runs.parse(experiment, run_id)
    if finished.up_to_date(run):
        if os.environ.get("RANK", "0") == "0":
            print(f"{run.id}: already done ({run.metrics_path})", flush=True)
        return
    first = os.environ.get("RANK", "0") == "0"  # among torchrun's processes
    if place == "debug":
        from d2v.experiment import execute

        lock = run.work / "lock"
        with locks.held(lock) if first else nullcontext():
            execute.execute(run)
    else:
        one = Followed(work.RunWork(experiment_path, run), place, cluster.load())
        with closing(Relay(run.id)) as relay:
            wait_for(one, relay.show)
    if first and not tolerant and (failures := finished.failures(run)):
        raise FailedAfterwards(
            f"{run.id} has finished ({run.metrics_path}), but {'; '.join(failures)}"
        )


def wait_for(one: Followed, show: Callable[[str], None]) -> None:
    """Follow a piece of work to its end; signals cancel its job. `show` prints a line of its log.

    Raises JobError if it failed.
    """
    crowd = Crowd(undisturbed=_deferred, all=[one], show=show)
    with _interrupts():
        try:
            while not crowd.step():
                time.sleep(crowd.pause_s)
        except KeyboardInterrupt:
            with _undisturbed():
                crowd.cancel()
            raise
    if one.error is not None:
        raise one.error


@contextmanager
def _interrupts() -> Iterator[None]:
    """Make SIGTERM and SIGHUP cancel the job, as Ctrl-C does; `nohup` stays in force."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    with _handled(interrupt, *numbers):
        yield


@contextmanager
def _deferred() -> Iterator[None]:
    """Hold back signals until the end of the block."""
    came: list[int] = []
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    with _handled(lambda number, frame: came.append(number), *numbers):
        yield
    if came:
        raise KeyboardInterrupt


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
