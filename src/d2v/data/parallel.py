"""Work in several processes, with progress and errors; workers end when their parent does."""

import ctypes
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

from d2v.util.errors import UserError

Job = TypeVar("Job")
Advance = Callable[[int], None]  # called with the number of items just finished


class Stopped(Exception):
    """Raised in a job when another job failed or the user interrupted the run."""


def cores() -> int:
    """Number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_all(
    work: Callable[[Job, Advance], None], jobs: Sequence[Job], workers: int, advance: Advance
) -> None:
    """Call `work(job, advance)` for every job, in this process if one worker is enough.

    `work` and the jobs must be picklable. `work` should call `advance` often, because that is also
    where it stops if another job failed. Raises what `work` raises, and UserError if a worker
    process was killed.
    """
    if min(workers, len(jobs)) <= 1:
        for job in jobs:
            work(job, advance)
        return
    # pickle here: in Python 3.11 the pool hangs if pickling fails in its own thread
    pickled = [pickle.dumps(job) for job in jobs]
    context = get_context("spawn")  # a fork would copy locks that threads hold
    # one counter per job and no lock: a process killed while holding a lock would never release it
    done = context.RawArray(ctypes.c_int64, len(jobs))
    stop = context.RawValue(ctypes.c_bool, False)
    given = (work, done, stop, os.getpid())
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _enter, given)
    try:
        with _undisturbed():
            waiting: set[Future[None]] = {pool.submit(_do, i, job) for i, job in enumerate(pickled)}
        seen = 0
        while waiting:
            finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_EXCEPTION)
            total = sum(done)
            advance(total - seen)
            seen = total
            for future in finished:
                future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, most likely for lack of memory; run the same command"
            " again with fewer --workers"
        ) from None
    finally:
        stop.value = True
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold back Ctrl-C: a process started meanwhile never receives it, this one does afterwards.

    Otherwise, a worker that is still importing modules would print its traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_given: tuple[Callable[..., None], Any, Any]  # set in a worker by _enter


def _enter(work: Callable[..., None], done: Any, stop: Any, parent: int) -> None:
    """Set up a worker so that it ends when its parent is gone, for whatever reason."""
    global _given
    _given = work, done, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, which sets stop

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _do(number: int, pickled: bytes) -> None:
    work, done, stop = _given

    def advance(count: int) -> None:
        if stop.value:
            raise Stopped
        done[number] += count

    work(pickle.loads(pickled), advance)
