"""Work in several processes: its progress, its faults, and an end with whoever started it."""

import ctypes
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from d2v.util.errors import UserError

Job = TypeVar("Job")
Advance = Callable[[int], None]  # told how many more items are done


class Stopped(Exception):
    """Another job failed, or the user wants an end."""


def cores() -> int:
    """Processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_all(
    work: Callable[[Job, Advance], None], jobs: Sequence[Job], workers: int, advance: Advance
) -> None:
    """Do `work(job, advance)` for every job, in this process if one is enough for all.

    `work` and the jobs must be picklable; `work` tells often what it has done, which is when it
    ends if another job failed. Raises what `work` raises, and UserError if a process was killed.
    """
    if min(workers, len(jobs)) <= 1:
        for job in jobs:
            work(job, advance)
        return
    # pickled here, not by the pool: in Python 3.11 it never ends if that fails in its own thread
    pickled = [pickle.dumps(job) for job in jobs]
    context = get_context("spawn")  # a fork would copy locked locks of threads
    # One number a job and no lock, which a process killed while it held it would never give back
    done = context.RawArray(ctypes.c_int64, len(jobs))
    stop = context.RawValue(ctypes.c_bool, False)
    given = (work, done, stop, os.getpid())
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _enter, given)
    try:
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
            "a worker process was killed, most likely for lack of memory; run the same again with"
            " fewer --workers"
        ) from None
    finally:
        stop.value = True
        pool.shutdown(wait=True, cancel_futures=True)


_given: tuple[Callable[..., None], Any, Any]  # of a worker


def _enter(work: Callable[..., None], done: Any, stop: Any, parent: int) -> None:
    """Set a worker up: it ends when its parent is gone, however that went."""
    global _given
    _given = work, done, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which says stop

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
