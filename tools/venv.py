"""Make the virtual environment that the Makefile's targets run in; needs nothing but Python.

    python3 tools/venv.py FOLDER [PYTHON]

PYTHON is the interpreter that the user named; tools/interpreter.py chooses one otherwise. What
cannot work is refused before anything is downloaded; so any Python has to read this, however old.

One at a time, also behind an installation whose caller was killed. An environment without its
stamp was cut off half-way; what pip left of it is not to be trusted, so it is made anew. So is
one of another Python. Only a folder that this script made is emptied: its mark says so.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys

import interpreter

MARK = ".made-by-d2v"
SOURCES = ("requirements.lock", "pyproject.toml")
WITHOUT_WHEEL = "antlr4-python3-runtime,connection-pool"  # nothing but Python in them
# Without a wheel for a Python, and with C that they can do without: their Python part is taken.
PYTHON_PART = {"3.14": ["immutables"]}


def main():
    folder = sys.argv[1]
    python = interpreter.choose(folder, sys.argv[2] if len(sys.argv) > 2 else None)
    if sys.version_info < interpreter.OLDEST:  # it only chooses
        os.execv(python["path"], [python["path"], __file__, folder, python["path"]])
    import fcntl  # not on Windows, which is refused

    check(folder)  # before a lock is made beside it
    stamp = os.path.join(folder, ".ready")
    with open(folder + ".lock", "a") as lock:  # which empties no file of that name
        fcntl.flock(lock, fcntl.LOCK_EX)
        if read(stamp) != state(python):
            install(python, folder, stamp, lock)
    os.utime(stamp, None)  # newer than the sources, for make


def install(python, folder, stamp, lock):
    def run(command):
        # the lock is passed on: it lives as long as pip, even if this process is killed
        code = subprocess.call(command, pass_fds=[lock.fileno()])
        if code:
            sys.exit("error: set-up stopped (exit code %d): %s" % (code, " ".join(command)))

    check(folder)  # again: it may have appeared meanwhile
    whole = read(stamp) is not None and made_with(folder) == python["version"]
    if not os.path.isdir(folder):
        os.mkdir(folder)
    with open(os.path.join(folder, MARK), "w"):  # first, so that what is cut off is known
        pass
    if whole:
        os.remove(stamp)
    else:
        empty(folder)
        run([python["path"], "-m", "venv", folder])
    sys.stdout.write(
        "set-up: installing locked packages into %s, Python %s (minutes the first time)\n"
        % (folder, python["version"])
    )
    sys.stdout.flush()
    pip = [os.path.join(folder, "bin", "python"), "-m", "pip", "--disable-pip-version-check"]
    pip += ["--quiet", "--quiet", "--no-input"]
    install, download = pip + ["install"], pip + ["download"]
    # what has no wheel is built by the locked setuptools, which therefore comes first
    unpacked = ["--no-deps", "--no-build-isolation"]
    locked = unpacked + ["--require-hashes", "--requirement"]
    wheels = ["--only-binary", ":all:", "--no-binary", WITHOUT_WHEEL]
    apart = PYTHON_PART.get(python["version"], [])
    run(install + locked + [entries(folder, "first", lambda name: name == "setuptools")])
    run(install + wheels + locked + [entries(folder, "most", lambda name: name not in apart)])
    for name in apart:
        source = os.path.join(folder, "sources", name)
        shutil.rmtree(source, ignore_errors=True)  # of an earlier lock
        listed = entries(folder, name, lambda other, name=name: other == name)
        run(download + ["--no-binary", name, "--dest", source] + locked + [listed])
        run(install + unpacked + [python_part(source)])
    run(install + unpacked + ["--editable", "."])
    with open(stamp + ".new", "w") as file:
        file.write(state(python))
    os.replace(stamp + ".new", stamp)


def check(folder):
    """End unless a folder is missing, empty or made by this script."""
    if not os.path.lexists(folder) or (os.path.isdir(folder) and not os.listdir(folder)):
        return
    if any(read(os.path.join(folder, name)) is not None for name in (MARK, ".ready")):
        return
    # cut off by a version of this script without a mark
    first = read(os.path.join(folder, "first.txt")) or ""
    if made_with(folder) and first.startswith("setuptools=="):
        return
    sys.exit(
        "error: %s: not made by this project; move it away, or choose another with VENV=FOLDER"
        % folder
    )


def empty(folder):
    """Remove what is in a folder of this script, except its mark; links are not followed."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        elif name != MARK:
            os.remove(path)


def entries(folder, label, wanted):
    """A file with the lock's entries whose names are wanted."""
    with open("requirements.lock") as file:
        blocks = re.split(r"\n(?=\w)", file.read())
    path = os.path.join(folder, label + ".txt")
    with open(path, "w") as file:
        file.write("\n".join(block for block in blocks if wanted(block.split("==")[0])))
    return path


def python_part(source):
    """The unpacked archive in a folder, with a set-up that leaves its extension modules out."""
    (archive,) = os.listdir(source)
    shutil.unpack_archive(os.path.join(source, archive), source)
    name = archive[: -len(".tar.gz")]
    with open(os.path.join(source, name, "setup.py"), "w") as file:
        file.write("import setuptools\nsetuptools.setup(version=%r)\n" % name.split("-")[-1])
    return os.path.join(source, name)


def state(python):
    """What the environment is made from: interpreter, lock, package description."""
    digest = hashlib.sha256()
    for source in SOURCES:
        with open(source, "rb") as file:
            digest.update(file.read())
    return "%s %s" % (python["version"], digest.hexdigest())


def made_with(folder):
    """Version of the Python that an environment was made with, such as 3.11."""
    said = re.search(r"^version = (\d+\.\d+)", read(os.path.join(folder, "pyvenv.cfg")) or "", re.M)
    return said and said.group(1)


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except EnvironmentError:
        return None


if __name__ == "__main__":
    main()
