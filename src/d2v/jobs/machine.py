"""What d2v needs of this machine: what works, what does not, and what to do about it."""

import importlib.util
import json
import locale
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import d2v
from d2v.jobs import devices, squeue
from d2v.util.extras import EXTRAS

LOCK = Path("requirements.lock")
FOLDERS = ("data", "prepared", "work", "results")
SPARE_GB = 6.0  # of the miniature, with its packages
ASK_S = 60.0  # timeout of a program
State = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line: note means absent but not needed, error that something needed is broken."""

    topic: str
    state: State
    found: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Examine everything, the quick topics first; nothing is written."""
    for check in (_python, _packages, _extras, _threads, _locale, _disk, _slurm, _dvc, _gpu):
        yield from _guarded(check)


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # a broken library raises anything
        said = " ".join(str(error).split())
        yield Finding(
            check.__name__.strip("_"), "error", f"{type(error).__name__}: {said}",
            "reinstall the packages: make test, or pip install --force-reinstall",
        )  # fmt: skip


def _python() -> Iterator[Finding]:
    said = f"Python {platform.python_version()} ({sys.executable}), d2v {d2v.__version__}"
    if sys.version_info >= (3, 15):
        yield Finding("python", "warning", said, "d2v is tested with Python 3.11 to 3.14")
        return
    yield Finding("python", "ok", said)


def _packages() -> Iterator[Finding]:
    """Compare what is installed with the lock file, if this is the project's folder."""
    if not LOCK.is_file():
        yield Finding("packages", "note", f"no {LOCK} here, so versions are not compared")
        return
    locked: dict[str, set[str]] = {}  # several versions: by Python or platform
    for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", LOCK.read_text(), re.MULTILINE):
        locked.setdefault(name, set()).add(version)
    installed = {name: _version(name) for name in ("torch", *locked) if _version(name) is not None}
    other = [
        f"{name} {version} (locked: {', '.join(sorted(locked[name]))})"
        for name, version in installed.items()
        if name in locked and str(version).partition("+")[0] not in _bare(locked[name])
    ]
    if "torch" not in installed:
        yield Finding("packages", "error", "torch is not installed", "run make test once")
    elif other:
        shown = ", ".join(other[:3]) + (f" and {len(other) - 3} more" if len(other) > 3 else "")
        advice = "results may differ slightly; `pip install -r requirements.lock` restores them"
        yield Finding("packages", "warning", f"not as in {LOCK}: {shown}", advice)
    else:
        yield Finding(
            "packages", "ok", f"torch {installed['torch']}; {len(installed)} packages as in {LOCK}"
        )


def _bare(versions: set[str]) -> set[str]:
    return {version.partition("+")[0] for version in versions}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extras() -> Iterator[Finding]:
    """Which extras of the package are complete."""
    for extra in dict.fromkeys(EXTRAS.values()):
        modules = [name for name, of in EXTRAS.items() if of == extra]
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if not missing:
            yield Finding(f"extra {extra}", "ok", "installed")
        elif extra == "decode" and sys.version_info >= (3, 13):
            yield Finding(
                f"extra {extra}", "note", "no flashlight-text for this Python; the own, slower beam"
                " search is used",
            )  # fmt: skip
        else:
            yield Finding(
                f"extra {extra}", "note", f"missing: {', '.join(missing)}",
                f'pip install "d2v[{extra}]"',
            )  # fmt: skip


def _threads() -> Iterator[Finding]:
    usable, all_of = len(os.sched_getaffinity(0)), os.cpu_count()
    limit = os.environ.get("OMP_NUM_THREADS")
    said = f"{usable} of {all_of} cores usable, OMP_NUM_THREADS {limit or 'not set'}"
    if limit and limit.isdecimal() and int(limit) > usable:
        advice = f"set OMP_NUM_THREADS to at most {usable}: more threads than cores are slow"
        yield Finding("threads", "warning", said, advice)
        return
    yield Finding("threads", "ok", said)


def _locale() -> Iterator[Finding]:
    encoding = locale.getpreferredencoding(False)
    if encoding.upper().replace("-", "") != "UTF8":
        advice = "export LC_ALL=C.UTF-8, or names and transcripts may be unreadable"
        yield Finding("locale", "warning", f"encoding {encoding}", advice)
        return
    yield Finding("locale", "ok", f"encoding {encoding}")


def _disk() -> Iterator[Finding]:
    """Space and write permission, one line per disk that a folder of the project is on."""
    disks: dict[int, list[tuple[str, Path]]] = {}
    for name in (*FOLDERS, os.environ.get("TMPDIR", "/tmp")):
        path = Path(name)
        while not path.exists():
            path = path.parent
        disks.setdefault(path.stat().st_dev, []).append((name, path))
    for places in disks.values():
        names = ", ".join(name for name, _ in places)
        blocked = [name for name, path in places if not os.access(path, os.W_OK | os.X_OK)]
        free = shutil.disk_usage(places[0][1]).free / 1e9
        if blocked:
            advice = f"request write access to {', '.join(blocked)}, or work in another folder"
            yield Finding("disk", "error", f"cannot write {', '.join(blocked)}", advice)
        elif free < SPARE_GB:
            advice = f"free up space: the miniature needs {SPARE_GB:.0f} GB"
            yield Finding("disk", "warning", f"{names}: {free:.1f} GB free", advice)
        else:
            yield Finding("disk", "ok", f"{names}: writable, {free:.0f} GB free")


def _slurm() -> Iterator[Finding]:
    if shutil.which("sinfo") is None:
        yield Finding("slurm", "note", "no Slurm commands here; runs are local jobs")
        return
    done = squeue.ask("sinfo", "-h", "-o", "%P %D", timeout=ASK_S)
    if done is None or done.returncode:
        said = "no answer" if done is None else (done.stderr.strip().splitlines() or ["?"])[-1]
        advice = "ask the administrators, or run `sinfo`; local runs work without Slurm"
        yield Finding("slurm", "warning", f"the controller cannot be reached: {said}", advice)
        return
    names = [line.split()[0] for line in done.stdout.splitlines() if line.split()]
    yield Finding("slurm", "ok", f"partitions {', '.join(names) or 'none'}")


def _dvc() -> Iterator[Finding]:
    """Whether the prepared sets of dvc.yaml are up to date; needs the project's folder."""
    if importlib.util.find_spec("dvc") is None or not Path(".dvc").is_dir():
        where = "not installed" if importlib.util.find_spec("dvc") is None else "no .dvc/ here"
        yield Finding("dvc", "note", f"{where}, so prepared sets are not checked")
        return
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=ASK_S, env=environment, check=False
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding("dvc", "error", f"dvc status fails: {said}", "run `dvc status` for details")
        return
    stale = list(json.loads(done.stdout or "{}"))
    if stale:
        shown = ", ".join(stale[:3]) + (f" and {len(stale) - 3} more" if len(stale) > 3 else "")
        advice = "`d2v data` prepares them; `d2v reproduce` does so by itself if they are missing"
        yield Finding("dvc", "note", f"not up to date: {shown}", advice)
        return
    yield Finding("dvc", "ok", "all sets of dvc.yaml are up to date")


def _gpu() -> Iterator[Finding]:
    driver = devices.driver()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    import torch

    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs only"
    said = f"{driver}; PyTorch {torch.__version__} {build}; CUDA_VISIBLE_DEVICES " + (
        "not set" if visible is None else repr(visible)
    )
    if torch.cuda.is_available():
        half = torch.cuda.is_bf16_supported(including_emulation=False)
        kinds = ["float32", *["bfloat16"] * half]
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Finding("gpu", "ok", f"{len(names)} usable ({names[0]}), {', '.join(kinds)}; {said}")
    elif not driver.startswith("nvidia-smi lists"):
        yield Finding("gpu", "note", f"none, so models run on the CPU in float32; {said}")
    elif visible is not None:
        yield Finding("gpu", "warning", f"hidden; {said}", "unset CUDA_VISIBLE_DEVICES to use it")
    else:
        advice = "install a PyTorch build that fits the driver"
        yield Finding("gpu", "error", f"not usable; {said}", advice)
