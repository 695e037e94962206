"""Make the virtual environment that the Makefile's targets run in; needs nothing but Python.

    python3 tools/venv.py .venv

One at a time, also behind an installation whose caller was killed. An environment without its
stamp was cut off half-way; what pip left of it is not to be trusted, so it is made anew.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys

NEEDED = (3, 11)
SOURCES = ("requirements.lock", "pyproject.toml")


def main():
    if sys.version_info < NEEDED:
        found, needed = (".".join(map(str, v)) for v in (sys.version_info[:2], NEEDED))
        sys.exit(
            f"error: {sys.executable} is Python {found}; {needed} or newer is needed."
            " Name one: make PYTHON=/path/to/python ..."
        )
    folder = sys.argv[1]
    stamp = os.path.join(folder, ".ready")
    with open(folder + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if read(stamp) != state():
            install(folder, stamp, lock)
    os.utime(stamp)  # newer than the sources, for make


def install(folder, stamp, lock):
    def run(*command):
        # the lock is passed on: it lives as long as pip, even if this process is killed
        code = subprocess.call(command, pass_fds=[lock.fileno()])
        if code:
            sys.exit(f"error: set-up stopped (exit code {code}): {' '.join(command)}")

    if read(stamp) is None:
        shutil.rmtree(folder, ignore_errors=True)
        run(sys.executable, "-m", "venv", folder)
    else:
        os.remove(stamp)
    print(f"set-up: locked packages into {folder} (some minutes the first time)", flush=True)
    pip = [os.path.join(folder, "bin", "python"), "-m", "pip", "--disable-pip-version-check"]
    pip += ["--quiet", "--quiet", "--no-input", "install"]
    run(*pip, "--require-hashes", "--requirement", "requirements.lock")
    run(*pip, "--no-deps", "--no-build-isolation", "--editable", ".")
    with open(stamp + ".new", "w") as file:
        file.write(state())
    os.replace(stamp + ".new", stamp)


def state():
    """What the environment was made from: lock and package description."""
    digest = hashlib.sha256()
    for source in SOURCES:
        with open(source, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return None


if __name__ == "__main__":
    main()
