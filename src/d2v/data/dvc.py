"""Prepared sets brought up to date with DVC."""

import difflib
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from d2v.params.prepared import read_stages
from d2v.util import verbosity
from d2v.util.errors import UserError
from d2v.util.files import remove_file
from d2v.util.locks import held, process_start

_LOCK = Path(".dvc/tmp/d2v.lock")
STAGES = Path("dvc.yaml")  # stages of the miniature
_RUNNING = "Running stage '"
_WAITING = (
    "data: another `d2v data`, or a DVC that it started, is running here; waiting for it to end"
)
# how lines start that DVC itself prints while it runs stages
_OF_DVC = (
    *("> ", "Stage '", "'data.dvc' didn't change", "Verifying data sources", "\tgit add"),
    *("Updating lock file", "Generating lock file", "Use `dvc push`", "To track the changes"),
    *("To enable auto staging", "Data and pipelines are up to date", "WARNING: ", "ERROR: "),
)
DYING_S = 3.0  # seconds to wait: a killed process releases our lock before it has exited


def repro(targets: Sequence[str] = (), root: Path = Path(), stages: Path = STAGES) -> list[str]:
    """Run the out-of-date stages of a file: `targets` and their dependencies, or all stages.

    Returns the names of the stages that ran; their output goes to standard error, and with -v DVC's
    own output, too. Calls run one at
    a time: a second call waits for the first, and for any DVC process that a killed call left
    behind. Stages that need none of the failed ones still run. Raises UserError with the error
    messages of the stages that failed or, for an unknown target, with the closest name.
    """
    known = stage_names(root, stages, targets)
    # stages call `d2v`: use the one next to this Python, even if its environment is not active
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    command = [sys.executable, "-m", "dvc", "repro", "--keep-going"]
    command += named(targets or known, stages)
    ran: list[str] = []
    said: list[str] = []
    faults: dict[str, str] = {}  # by stage: its last error message
    with held(root / _LOCK, _WAITING) as lock:
        _clear_dead(root / ".dvc" / "tmp" / "rwlock")
        process = subprocess.Popen(
            command,
            cwd=root,
            env=os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=[lock.fileno()],  # DVC holds the lock until it ends, even if we are killed
        )
        assert process.stdout is not None
        telling = False  # whether the line before is an error, which may go on
        for line in process.stdout:
            telling = line.startswith("error: ") or (telling and line.startswith("  "))
            said.append(line.rstrip())
            if verbosity.verbose():
                print(line.rstrip(), file=sys.stderr, flush=True)
            if line.startswith(_RUNNING):
                ran.append(line.removeprefix(_RUNNING).split("'")[0])
                print(f"data: {ran[-1]}", flush=True)
            elif ran and line.startswith("error: "):
                faults[ran[-1]] = line.rstrip().removeprefix("error: ")
            elif ran and telling:
                faults[ran[-1]] += "\n" + line.rstrip()
            elif (
                line.strip()
                and not verbosity.verbose()
                and not line.startswith((*_OF_DVC, "error: "))
            ):
                print(line.rstrip(), file=sys.stderr, flush=True)  # output of the stage itself
        if process.wait():
            raise UserError(_reason(said, faults, process.returncode))
    return ran


def _clear_dead(rwlock: Path) -> None:
    """Remove DVC's lock file once all its owners have exited: DVC counts zombies as alive."""
    if not rwlock.is_file():
        return
    pids = {int(pid) for pid in re.findall(r'"pid": (\d+)', rwlock.read_text())}
    deadline = time.monotonic() + DYING_S
    while any(process_start(pid) is not None for pid in pids):
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)
    remove_file(rwlock)


def named(targets: Sequence[str], stages: Path) -> list[str]:
    """Return the names of stages as DVC takes them in the root of the repository."""
    return list(targets) if stages == STAGES else [f"{stages}:{target}" for target in targets]


def stage_names(root: Path, stages: Path, targets: Sequence[str] = ()) -> list[str]:
    """Return the names of all stages; raises UserError for a file without, or another target."""
    known = list(map(str, read_stages(root, stages)))
    for target in targets:
        if target not in known:
            near = difflib.get_close_matches(target, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known stages: {', '.join(known)}"
            raise UserError(f"{target}: no such data stage in {stages}; {hint}")
    return known


def _reason(said: list[str], faults: dict[str, str], code: int) -> str:
    """Return the error messages of the failed commands or, if they printed none, that of DVC."""
    if faults:
        lines = [f"{stage}: {fault}" for stage, fault in faults.items()]
        return "\n  ".join(lines if len(lines) == 1 else [f"{len(lines)} stages failed", *lines])
    if any(line.endswith("is not a git repository") for line in said):
        return (
            "DVC needs a git repository, but this folder is not one (an unpacked archive?): run"
            " `git init`, or `dvc config --local core.no_scm true`"
        )
    dvc = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
    last = dvc or [line for line in said if line] or [f"exit code {code}"]
    return f"DVC: {last[-1]}; run `dvc repro` for the full output"
