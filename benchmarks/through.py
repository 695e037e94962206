"""A pre-training through the trainer: undisturbed, and killed and resumed (gpu.py).

    python benchmarks/through.py KIND FOLDER [--tiny] [--kill STEP] ...

As a script, it trains; with --kill it ends by SIGKILL after that step. Data are synthetic and drawn
before; the loader, its processes, copies, the log and checkpoints are the trainer's.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import batches
import torch
from torch import Tensor

from d2v import params
from d2v.training import log, trainer
from d2v.training.task import Pretraining

STEPS, KILLED_AFTER, EVERY, TINY_STEPS = 120, 60, 20, 12
DIFFER = 1e-3  # a resumed run on a GPU: sums in another order
FEW = 4  # different batches
Row = dict[str, Any]
EXAMPLES = {"speech": 24, "vision": 128, "text": 16}  # of a step on a GPU


class Drawn:
    """Examples of which `collate` makes one of a few batches, which were drawn before."""

    def __init__(self, p: params.Pretrain, size: int, examples: int) -> None:
        self.ids = [str(n) for n in range(FEW * examples)]
        self.sizes = [size] * len(self.ids)
        self.drawn = [batches.batch(p, size, examples, n) for n in range(FEW)]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: tuple[int, int]) -> int:
        return key[1]

    def collate(self, examples: list[int]) -> dict[str, Any]:
        """The batch that the first example stands for."""
        return dict(self.drawn[examples[0] % FEW])

    def finish(self, batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Batches are finished."""
        return batch


class Dying(Pretraining):
    """Kills its process in the middle of a step."""

    kill = 0

    def decay(self, step: int) -> float:
        """As Pretraining."""
        if step == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decay(step)


def train(a: argparse.Namespace) -> None:
    """Train, from the newest checkpoint in the folder on."""
    p = batches.recipe(a.kind, a.tiny)
    changes: dict[str, Any] = {
        "steps": TINY_STEPS if a.tiny else STEPS, "batch": a.examples, "micro_batch": a.examples,
        "sized": None, "rebound": None,
        "workers": 2 if _shared() else 0, "log_every": 2 if a.tiny else EVERY,
        "checkpoint_every": 4 if a.tiny else EVERY, "checkpoint_minutes": None,
        "compile": {"inductor": True, "eager": False}.get(a.backend, a.backend),
    }  # fmt: skip
    train = params.Train.model_validate({**p.train.model_dump(), **changes})
    torch.manual_seed(0)
    task = Dying(p)
    task.kill = a.kill
    size = (batches.TINY_SIZES if a.tiny else batches.SIZES)[a.kind]
    data: Any = Drawn(p, size, a.examples)
    # updates as they are after 1,819 steps: the first ones cannot be captured (FairseqAdamW)
    optimiser = p.optimiser.model_copy(update={"eps_before_correction": False})
    trainer.fit(
        task, data, optimiser=optimiser, schedule=p.schedule, train=train, work=a.folder, seed=0
    )


def _shared() -> bool:
    """Whether loaders' processes can hand over batches: a container may have 64 MB for that."""
    shared = Path("/dev/shm")
    return shared.is_dir() and shutil.disk_usage(shared).free > 2**30


def _run(kind: str, folder: Path, a: argparse.Namespace, kill: int = 0) -> int:
    """Exit code of a run in a process of its own, which ends when there is no time left."""
    examples = 2 if a.tiny else EXAMPLES[kind]
    words = [kind, str(folder), "--examples", str(examples), "--kill", str(kill)]
    words += ["--backend", a.backend, *(["--tiny"] if a.tiny else [])]
    env = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if a.device.type == "cpu" else {})
    beside = str(Path(__file__).with_name("beside.py"))
    command = [sys.executable, beside, __file__, *words]
    out = folder.with_suffix(".log").open("w")
    left = max(a.until - time.monotonic(), 1.0)
    done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=env, timeout=left)
    return done.returncode


def measured(kind: str, step_seconds: float | None, a: argparse.Namespace) -> Row:
    """Losses of both runs, whether they are equal, and the rate against the step benchmark."""
    folder = Path(tempfile.mkdtemp(prefix="d2v-through-"))
    kill = 7 if a.tiny else KILLED_AFTER + 5
    try:
        if a.device.type == "cuda":
            torch.cuda.empty_cache()
        began = time.perf_counter()
        codes = [_run(kind, folder / "whole", a)]
        first = time.perf_counter() - began
        codes += [_run(kind, folder / "killed", a, kill), _run(kind, folder / "killed", a)]
        if codes != [0, -signal.SIGKILL, 0]:
            last = (folder / "whole.log").read_text()[-500:] + (folder / "killed.log").read_text()[
                -500:
            ]
            return {"missing": f"exit codes {codes}", "log": last}
        runs = [log.read(folder / name / "log.jsonl") for name in ("whole", "killed")]
    except subprocess.TimeoutExpired:
        return {"missing": "no time was left"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    losses = [[line["loss"] for line in lines] for lines in runs]
    differs = max(abs(x - y) / abs(x) for x, y in zip(*losses, strict=True))
    found: Row = {"steps": len(losses[0]), "seconds": first, "differs": differs}
    found |= {"equal": differs <= DIFFER, "steps_per_s": runs[0][-1]["steps_per_s"]}
    if step_seconds:
        found["of_the_step"] = found["steps_per_s"] * step_seconds
    return found


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kind", choices=batches.KINDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--examples", type=int, required=True)
    parser.add_argument("--kill", type=int, default=0, help="step in which to die")
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--tiny", action="store_true")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
