"""Stand for a job that is started as a copy of a warm process (d2v.jobs.warm).

Run as `python -I -S warm_start.py SOCKET ARGUMENT...`, with the standard library only, so that it
starts at once. Signals are passed on to the job, and its exit code is passed back. If no warm
process can start the job, this process becomes it.
"""

import json
import os
import signal
import socket
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(path: str, arguments: list[str]) -> int:
    """Start `python ARGUMENT...` through the socket `path`; returns its exit code."""
    connection = _asked(path, arguments)
    if connection is None:
        os.execv(sys.executable, [sys.executable, *arguments])
    answers = connection.makefile()
    pid = answers.readline()
    if not pid:  # refused
        os.execv(sys.executable, [sys.executable, *arguments])
    for number in SIGNALS:
        signal.signal(number, lambda received, frame: os.kill(int(pid), received))
    return int(answers.readline() or 128 + signal.SIGKILL)


def _asked(path: str, arguments: list[str]) -> socket.socket | None:
    """Send a request; None if nobody listens."""
    request = {
        "program": [sys.executable, __file__],
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "arguments": arguments[arguments.index("-m") + 1 :],
        "group": os.getpgrp(),
    }
    content = json.dumps(request).encode()
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
        socket.send_fds(connection, [f"{len(content):08x}".encode()], [0, 1, 2])
        connection.sendall(content)
    except OSError:
        return None
    return connection


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
