"""Snakemake in a fork of a process that has imported it: a plan takes a third of the time.

As a script, that process: it reads a request from each line, and writes the exit code.
"""

import atexit
import importlib
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

IMPORTED = (
    *("snakemake.cli", "snakemake.report.html_reporter", "pandas", "smart_open", "yte"),
    *("d2v.jobs.launch", "d2v.jobs.staleness", "d2v.data.own_stages"),
)


def snakemake(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`snakemake WORDS...` in the folder, in a process of its own, output kept as text."""
    with tempfile.TemporaryDirectory() as said:
        files = [f"{said}/{name}" for name in ("out", "err")]
        request = {"folder": str(folder), "words": words, "files": files}
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(request | {"environment": dict(os.environ)}) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        texts = [Path(file).read_text() for file in files]
    return subprocess.CompletedProcess(words, code, *texts)


@cache
def _server() -> subprocess.Popen[str]:
    """The process of this test process; it ends when its input is closed, at the latest by us."""
    command = [sys.executable, __file__]
    pipe = subprocess.PIPE
    server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    atexit.register(server.communicate)
    return server


def _serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    sys.modules["snakemake.cli"].get_argument_parser()  # imports plug-ins
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _run(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _run(folder: str, words: list[str], files: list[str], environment: dict[str, str]) -> None:
    """What `python -m snakemake` does, from its start to its end."""
    from snakemake import cli

    for number, file in enumerate([os.devnull, *files]):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0], sys.argv = folder, ["snakemake", *words]
    cli.main()


if __name__ == "__main__":
    _serve()
