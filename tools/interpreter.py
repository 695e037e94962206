"""Which Python makes the virtual environment, and what is wrong with those that cannot.

    python3 tools/interpreter.py     what is known of this one, as JSON

To be read by any Python, however old: one that is too old has to say so.
"""

from __future__ import print_function

import json
import os
import platform
import re
import subprocess
import sys
import sysconfig

OLDEST, NEWEST = (3, 11), (3, 14)  # the locked packages have wheels for these
OTHERS = ("python3.13", "python3.12", "python3.11", "python3.14")  # best first
GLIBC = (2, 28)  # of PyTorch's wheels
MACHINES = {"Linux": ("x86_64", "aarch64"), "Darwin": ("arm64",)}  # the same


def choose(folder, named):
    """The interpreter to use: its `path` and `version`."""
    if named:
        asked = [(named, ask(named))]
    else:
        asked = [("python3", describe())]
        if os.path.exists(os.path.join(folder, ".ready")):
            own = os.path.join(folder, "bin", "python")
            asked.insert(0, (own, ask(own)))
        if not any(suits(python) for _, python in asked):
            asked += [(name, ask(name)) for name in OTHERS]
    for name, python in asked:
        if suits(python):
            if not named and name in OTHERS:
                sys.stdout.write("set-up: %s; using %s instead\n" % (describe()["fault"], name))
            return python
    reasons = [python["fault"] for _, python in asked if python]
    reason = reasons[0] if reasons else "%s: not a working Python" % named
    sys.exit("error: %s. Choose another: make PYTHON=/path/to/python3.12 ..." % reason)


def suits(python):
    return python is not None and not python["fault"]


def ask(python):
    """What another interpreter says about itself; None if there is none or it does not run."""
    try:
        with open(os.devnull, "w") as nowhere:
            said = subprocess.check_output([python, __file__], stderr=nowhere)
        return json.loads(said.decode())
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def describe():
    """Of this interpreter: path (outside any virtual environment), version, what is wrong."""
    path = getattr(sys, "_base_executable", None) or sys.executable
    version = "%d.%d" % sys.version_info[:2]
    return {"path": path, "version": version, "fault": reason(path, version)}


def reason(path, version):
    """Why the locked packages cannot be installed with this interpreter, or None."""
    good = "%d.%d to %d.%d" % (OLDEST + NEWEST)
    system, machine = platform.system(), platform.machine()
    name = "%s is Python %s" % (path, version)
    if sys.version_info[:2] < OLDEST:
        return "%s, which is too old: one of %s is needed" % (name, good)
    if sys.version_info[:2] > NEWEST:
        return "%s, for which packages have no wheels yet: one of %s is needed" % (
            name,
            good,
        )
    if platform.python_implementation() != "CPython":
        kind = platform.python_implementation()
        return "%s is %s; packages have wheels for CPython only" % (path, kind)
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "%s without GIL, for which packages have no wheels" % name
    if sys.maxsize < 2**32:
        return "%s, a 32-bit build; PyTorch needs 64 bits" % name
    if machine not in MACHINES.get(system, ()):
        return "%s on %s %s, for which PyTorch has no wheels" % (name, system, machine)
    if system == "Linux" and not glibc() >= GLIBC:
        return "%s without glibc %d.%d or newer, which PyTorch's wheels need" % ((name,) + GLIBC)
    if missing("venv") or missing("ensurepip"):  # ensurepip is apart on Debian
        debian = "python%s-venv" % version
        return "%s without venv or ensurepip; install %s (its name on Debian)" % (name, debian)
    return None


def glibc():
    """Its version; () with another C library, such as musl."""
    try:
        said = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):
        said = ""
    return tuple(int(number) for number in re.findall(r"\d+", said)[:2])


def missing(package):
    """Of the standard library; not imported, since tools/venv.py has the name of one."""
    return not os.path.isdir(os.path.join(os.path.dirname(os.__file__), package))


if __name__ == "__main__":
    print(json.dumps(describe()))
