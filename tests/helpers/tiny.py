"""A task of a few hundred parameters with dropout, skipped blocks and a teacher-like buffer.

As a script it trains in the folders given, one after the other, in one process or under torchrun.
"""

import argparse
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2v import params
from d2v.model.running_stats import channel_std, moments
from d2v.training import checkpoint, log
from d2v.training.task import Named, Task
from d2v.training.trainer import Summary, fit


class Tiny(Task):
    """Regress a fixed linear map; the number of counted positions differs between batches."""

    told: int | None = None  # the step in which the second process gets a signal

    def __init__(self, dropout: float = 0.0, skip: float = 0.0, pause: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])
        self.head = nn.Linear(6, 1)
        self.register_buffer("average", torch.zeros(1, 6))
        self.dropout, self.skip, self.pause = dropout, skip, pause

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        if self.pause:
            time.sleep(self.pause)
        x = batch["x"].to(self.head.weight.dtype)  # (B, 6)
        for block in self.blocks:
            if self.training and torch.rand(()) < self.skip:
                continue
            x = x + torch.tanh(block(nn.functional.dropout(x, self.dropout, self.training)))
        error = (self.head(x).squeeze(-1) - batch["y"]).square() * batch["counted"]
        return {"loss": error.sum(), "count": batch["counted"].sum(), "output": moments(x)}

    def summary(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**super().summary(sums), "output_std": channel_std(sums["output"])}

    def named_groups(self) -> list[Named]:
        depth = {"blocks": lambda name: int(name.split(".")[1]) + 1, "head": lambda _: 4}
        return [Named(n, p, depth[n.split(".")[0]](n)) for n, p in self.named_parameters()]

    def after_step(self, step: int) -> dict[str, float]:
        if step == self.told and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGUSR1)
        self.average.lerp_(self.head.weight.detach(), 1 / step)
        return {"ema_decay": 1 - 1 / step}


class Points:
    """Numbers that are functions of (epoch, index); every fourth is not counted."""

    def __init__(self, n: int = 20, poison: int | None = None) -> None:
        self.n, self.poison = n, poison

    @property
    def ids(self) -> list[str]:
        return [str(index) for index in range(self.n)]

    @property
    def sizes(self) -> Any:
        return 1 + np.arange(self.n) % 7

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        x = torch.randn(6, generator=torch.Generator().manual_seed(1000 * epoch + index))
        y = x.sum() if index != self.poison else torch.tensor(float("nan"))
        return {"id": f"{epoch}/{index}", "x": x, "y": y, "counted": float(index % 4 > 0)}

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "ids": [e["id"] for e in examples],
            "x": torch.stack([e["x"] for e in examples]),
            "y": torch.stack([e["y"] for e in examples]),
            "counted": torch.tensor([e["counted"] for e in examples]),
        }

    def finish(self, batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
        return batch


CLOCK = ("examples_per_s", "steps_per_s")  # of a line of the log: not equal between runs
OPTIMISER = params.Optimiser(lr=1e-2, betas=[0.9, 0.98], eps=1e-6, weight_decay=0.01, clip=1.0)
SCHEDULE = params.Cosine(kind="cosine", warmup=0.1)
TRAIN = params.Train(steps=24, batch=8, micro_batch=4, log_every=5, checkpoint_every=10)


def train(work: Path, task: Task | None = None, **options: Any) -> Summary:
    """`fit` with the settings above where nothing else is said."""
    changes = {k: options.pop(k) for k in list(options) if k in params.Train.model_fields}
    if "sized" in changes:
        sized = params.Sized(**changes["sized"])
        changes |= {"sized": sized, "batch": None, "micro_batch": None}
    settings: dict[str, Any] = {
        "dataset": Points(),
        "optimiser": OPTIMISER,
        "schedule": SCHEDULE,
        "train": TRAIN.model_copy(update=changes),
        "seed": 1,
    }
    return fit(task or Tiny(), work=work, **{**settings, **options})


def curve(work: Path) -> list[dict[str, Any]]:
    """The log without what the clock says."""
    lines = log.read(work / "log.jsonl")
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def weights(work: Path) -> dict[str, torch.Tensor]:
    folder = checkpoint.latest(work / "checkpoints")
    assert folder is not None
    return checkpoint.load_weights(folder)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("works", type=Path, nargs="+")
    parser.add_argument("--skip", type=float, default=0.0)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--told", type=int)
    parser.add_argument("--train", type=json.loads, action="append", help="once for each folder")
    parser.add_argument("--optimiser", type=json.loads, default={})
    a = parser.parse_args()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    for work, options in zip(a.works, a.train, strict=True):
        task = Tiny(a.dropout, a.skip, a.pause)
        task.told = a.told if work == a.works[-1] else None
        optimiser = OPTIMISER.model_copy(update=a.optimiser)
        summary = train(work, task, optimiser=optimiser, **options)
        print(f"finished {summary.steps}\n", end="", flush=True)  # one write: ranks share the pipe


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
