"""A process that has imported PyTorch and starts local jobs as copies of itself.

Importing PyTorch takes most of the time that a job needs to start. `d2v reproduce` therefore
imports it once (`serving`), and the jobs of its workflow are forked from that process. Nothing else
changes: submitit's controller starts, watches and interrupts `warm_start.py` as it would the job,
which passes everything on, and starts the job itself where a copy cannot stand for it.
"""

import gc
import importlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2v.jobs import warm_start

VARIABLE = "D2V_WARM"  # the environment variable with the path of the socket
# variables that act when libraries are loaded; a job with other values is started by itself
EARLY = ("PYTHON", "LD_", "TORCH", "ATEN", "ONEDNN", "DNNL", "KMP", "GOMP", "OMP", "MKL",
         "OPENBLAS")  # fmt: skip
LATE = "_NUM_THREADS"  # ends the names of those that are set again in each job
# what jobs import, as far as it is installed
IMPORTED = ("submitit.core.submission", "d2v.experiment.execute", "sklearn.linear_model",
            "sklearn.metrics", "sklearn.neighbors", "sklearn.pipeline", "scipy.stats",
            "tensorboard.summary.writer.record_writer")  # fmt: skip
WAIT_S = 10.0  # longest time for a request to arrive


@contextmanager
def serving(wanted: bool = True) -> Iterator[dict[str, str]]:
    """In the block, a process starts jobs; yields the environment in which they ask it to.

    It ends with the block, or when this process dies. Its jobs live on. If it is not `wanted`, jobs
    start by themselves.
    """
    if not wanted:
        yield {}
        return
    # the process removes the folder itself if this one is killed
    with tempfile.TemporaryDirectory(prefix="d2v-") as folder:
        path = str(Path(folder) / "jobs")
        command = [sys.executable, "-u", "-m", "d2v.jobs.warm", path]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            try:
                yield {VARIABLE: path}
            finally:
                process.terminate()


def python(gpus: int) -> str | None:
    """The command by which submitit starts Python in a job; None for the usual one.

    A job that uses a GPU is started by itself, because CUDA does not survive a fork.
    """
    path = os.environ.get(VARIABLE)
    if not path or gpus or not Path(path).exists():
        return None
    return shlex.join([sys.executable, "-I", "-S", warm_start.__file__, path])


@dataclass
class Start:
    """A job to start: its connection to `warm_start`, and where and how it runs."""

    connection: socket.socket
    streams: list[int]  # descriptors of its input, output and error stream
    program: list[str]  # interpreter, and the `warm_start` that asks
    folder: str
    environment: dict[str, str]
    arguments: list[str]
    group: int  # process group


def main(path: str) -> None:
    """Serve at the socket `path` until standard input ends; in a copy, run its job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the workflow
    started, environment = time.time(), dict(os.environ)  # imports add variables
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    gc.disable()
    for name in IMPORTED:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()
    gc.enable()
    listener.listen()
    # jobs that start before do not wait
    # safe: both names are in a new folder of this process
    os.rename(path + ".new", path)
    start = _serve(listener, started, environment)
    if start is None:
        with suppress(OSError):
            # safe: a socket in a new folder of this process
            os.unlink(path)
            # safe: the same folder, if it is empty
            os.rmdir(Path(path).parent)
    else:
        _become(start)
        _run(sys.modules[IMPORTED[0]].submitit_main, start.connection)


def _serve(listener: socket.socket, started: float, environment: dict[str, str]) -> Start | None:
    """Fork a copy for each request; returns the request in a copy, and None at the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # copies leave no zombies
    # the threads are those of OpenBLAS and jemalloc, which stop them before a fork
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return None
        connection, _ = listener.accept()
        with suppress(OSError, ValueError, KeyError):
            start = _request(connection)
            if _stands_for(start, started, environment) and os.fork() == 0:
                listener.close()
                return start
            for stream in start.streams:
                os.close(stream)
        connection.close()


def _request(connection: socket.socket) -> Start:
    """Receive a request; raises OSError or ValueError if it is incomplete."""
    connection.settimeout(WAIT_S)
    size, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as file:
        found: dict[str, Any] = json.loads(file.read(int(size, 16)))
    connection.settimeout(None)
    return Start(connection=connection, streams=streams, **found)


def _stands_for(start: Start, started: float, environment: dict[str, str]) -> bool:
    """Whether a job that starts as a copy of this process is the same as one that starts anew.

    This process started at `started`, in the `environment`.
    """
    if start.program != [sys.executable, warm_start.__file__]:
        return False
    names = {name for name in {*environment, *start.environment} if name.startswith(EARLY)}
    early = (name for name in names if not name.endswith(LATE))
    if any(environment.get(name) != start.environment.get(name) for name in early):
        return False
    files = [getattr(module, "__file__", None) for name, module in list(sys.modules.items())
             if name.partition(".")[0] == "d2v"]  # fmt: skip
    return all(file is None or os.stat(file).st_mtime < started for file in files)


def _become(start: Start) -> None:
    """Make this copy the process that `warm_start` stands for."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with suppress(OSError):  # it is in another session
        os.setpgid(0, start.group)
    for number, stream in enumerate(start.streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(start.environment)
    os.chdir(start.folder)
    sys.path[0] = start.folder
    sys.argv = start.arguments
    _share_cores(start.environment)
    start.connection.sendall(f"{os.getpid()}\n".encode())


def _share_cores(environment: dict[str, str]) -> None:
    """Compute with as many threads as the libraries would have chosen in this environment."""
    threads = environment.get("OMP_NUM_THREADS", "")
    found = {"openmp": threads, "blas": environment.get("OPENBLAS_NUM_THREADS", threads)}
    if threads and (torch := sys.modules.get("torch")):
        torch.set_num_threads(int(threads))
    with suppress(ImportError):
        limit = importlib.import_module("threadpoolctl").threadpool_limits
        for api, count in found.items():
            if count:
                limit(int(count), user_api=api)


def _run(job: Callable[[], None], connection: socket.socket) -> None:
    """Run a job, tell `warm_start` its exit code, and exit; if that is killed, so is the job."""
    ended = threading.Event()
    threading.Thread(target=_end_with, args=(connection, ended), daemon=True).start()
    code = 1
    try:
        job()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    ended.set()
    with suppress(OSError):
        connection.sendall(f"{code}\n".encode())
    sys.exit(code)


def _end_with(connection: socket.socket, ended: threading.Event) -> None:
    with suppress(ConnectionError):
        connection.recv(1)
    if not ended.is_set():
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
