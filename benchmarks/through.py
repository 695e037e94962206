"""A pre-training with `d2v run`, undisturbed and, if asked, killed and resumed (gpu.py).

    python benchmarks/through.py KIND FOLDER NAME [--tiny] [--kill STEP] ...

As a script, it is `d2v run` of one pre-training on a small prepared set (random_sets.py), from the
parameter file to metrics.json; with --kill it ends by SIGKILL in the middle of that step. The
recipe is changed only in steps, batch (one micro-batch), log and checkpoints, and its updates are
those after step 1,819, which can be captured. `--launch debug` runs it in this process: what is
left out is the background job that `d2v run` usually starts, which computes nothing.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import batches
import random_sets

from d2v.cli import commands
from d2v.training import log
from d2v.training.task import Pretraining

STEPS, KILLED_IN, CHECKPOINTS, EVERY = 60, 45, 20, 10
TINY_STEPS, TINY_KILLED_IN, TINY_CHECKPOINTS, TINY_EVERY = 12, 7, 4, 2
TIMED = 3  # lines of the log, the last ones, whose rates count: the others compile and capture
DIFFER = 1e-3  # a resumed run on a GPU: sums in another order
FEW = 4  # micro-batches of the set
PROCESSES = 14  # of the loader, at most
Row = dict[str, Any]
EXAMPLES = {"speech": 24, "vision": 128, "text": 16}  # of a step on a GPU
WHOLE, KILLED = "whole", "killed"


def train(a: argparse.Namespace) -> int:
    """`d2v run`, from the newest checkpoint on; its exit code."""
    p = batches.recipe(a.kind, a.tiny)
    size = (batches.TINY_SIZES if a.tiny else batches.SIZES)[a.kind]
    os.chdir(a.folder)
    data = Path("prepared", random_sets.SETS[a.kind].name)
    if not data.exists():
        random_sets.write(a.kind, p, size, FEW * a.examples, data)
    file = Path(f"{a.name}.yaml")
    file.write_text(random_sets.experiment(a.name, a.kind, p, settings(a, p.train.model_dump())))
    if a.kill:
        die_in(a.kill)
    return commands.main(["run", str(file), f"pretrain/{a.kind}/seed0", "--launch", "debug"])


def settings(a: argparse.Namespace, recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe's train parameters with few steps of one micro-batch."""
    steps, often = (TINY_STEPS, TINY_CHECKPOINTS) if a.tiny else (STEPS, CHECKPOINTS)
    changes = {
        "steps": steps, "batch": a.examples, "micro_batch": a.examples, "sized": None,
        "rebound": None, "workers": workers(), "log_every": TINY_EVERY if a.tiny else EVERY,
        # none disturbs the run that is timed
        "checkpoint_every": often if a.name == KILLED else steps, "checkpoint_minutes": None,
        "compile": {"inductor": True, "eager": False}.get(a.backend, a.backend),
    }  # fmt: skip
    return {name: value for name, value in (recipe | changes).items() if value is not None}


def die_in(step: int) -> None:
    """Let this process be killed in the middle of a step's update."""
    whole = Pretraining.decay

    def decay(task: Pretraining, now: int) -> float:
        if now == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(task, now)

    Pretraining.decay = decay  # type: ignore[method-assign]


def workers() -> int:
    """Processes of the loader; none where they cannot hand over batches (64 MB in a container)."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shutil.disk_usage(shared).free < 2**30:
        return 0
    return min(PROCESSES, max(len(os.sched_getaffinity(0)) - 2, 0))


# --- who measures it ------------------------------------------------------------------------------


def measured(kind: str, a: argparse.Namespace, until: float, killed: bool) -> Row:
    """Rate of a run and, if it is also to be `killed`, whether a resume changes its losses.

    A run that does not end as it should is not `equal`; what time cuts off is missing.
    """
    folder = Path(tempfile.mkdtemp(prefix="d2v-through-"))
    found: Row = {}
    try:
        found |= _undisturbed(kind, folder, a, until)
        if killed and "missing" not in found:
            found |= _resumed(kind, folder, a, until)
    except subprocess.TimeoutExpired:
        found |= {"resume" if found else "missing": "no time was left"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _undisturbed(kind: str, folder: Path, a: argparse.Namespace, until: float) -> Row:
    began = time.monotonic()
    code, said = _run(kind, folder, WHOLE, 0, a, until)
    if code:
        return _crashed(WHOLE, code, said)
    lines = _lines(folder, kind, WHOLE)
    rate = statistics.median(line["steps_per_s"] for line in lines[-TIMED:])
    found: Row = {"steps": lines[-1]["step"], "steps_per_s": rate, "workers": workers()}
    found["said"] = [line for line in said.splitlines() if "captured" in line]
    return found | {"seconds": time.monotonic() - began}


def _resumed(kind: str, folder: Path, a: argparse.Namespace, until: float) -> Row:
    step = TINY_KILLED_IN if a.tiny else KILLED_IN
    for kill, wanted in ((step, -signal.SIGKILL), (0, 0)):
        code, said = _run(kind, folder, KILLED, kill, a, until)
        if code != wanted:
            return _crashed(KILLED, code, said)
    pairs = zip(_lines(folder, kind, WHOLE), _lines(folder, kind, KILLED), strict=True)
    differs = max(abs(x["loss"] - y["loss"]) / abs(x["loss"]) for x, y in pairs)
    return {"differs": differs, "allowed": DIFFER, "equal": differs <= DIFFER}


def _crashed(name: str, code: int, said: str) -> Row:
    return {"missing": f"{name}: exit code {code}", "equal": False, "log": said[-1000:]}


def _run(kind: str, folder: Path, name: str, kill: int, a: argparse.Namespace,
         until: float) -> tuple[int, str]:  # fmt: skip
    """Exit code and output of a run in a process of its own, which ends when its time does."""
    examples = 2 if a.tiny else EXAMPLES[kind]
    words = [kind, str(folder), name, "--examples", str(examples), "--kill", str(kill)]
    words += ["--backend", a.backend, *(["--tiny"] if a.tiny else [])]
    env = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if a.device.type == "cpu" else {})
    beside = str(Path(__file__).with_name("beside.py"))
    command = [sys.executable, beside, __file__, *words]
    left = max(until - time.monotonic(), 1.0)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, timeout=left
    )
    return done.returncode, done.stdout


def _lines(folder: Path, kind: str, name: str) -> list[Row]:
    return log.read(folder / "work" / name / "pretrain" / kind / "seed0" / "log.jsonl")


def main() -> int:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kind", choices=batches.KINDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", choices=(WHOLE, KILLED))
    parser.add_argument("--examples", type=int, required=True)
    parser.add_argument("--kill", type=int, default=0, help="step in which to die")
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--tiny", action="store_true")
    return train(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
