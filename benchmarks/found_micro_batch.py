"""What `micro_batch: auto` finds on this device for a recipe (gpu.py)."""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import batches
import torch
from gpu_sides import Row, freed, size_of
from torch import Tensor

from d2v import params
from d2v.training import distributed, memory, optim
from d2v.training.task import Pretraining

BATCH = 1024  # of a step: no more is tried


class Drawn:
    """Examples of which `collate` makes a random batch of as many."""

    def __init__(self, p: params.Pretrain, size: int) -> None:
        self.p, self.size = p, size
        self.ids = [str(n) for n in range(BATCH)]
        self.sizes = [size] * BATCH

    def __len__(self) -> int:
        return BATCH

    def __getitem__(self, key: tuple[int, int]) -> int:
        return key[1]

    def collate(self, examples: list[int]) -> dict[str, Any]:
        """A batch of as many examples."""
        return dict(batches.batch(self.p, self.size, len(examples)))

    def finish(self, batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Batches are finished."""
        return batch


def measured(kind: str, a: argparse.Namespace) -> Row:
    """The micro-batch that the trainer would choose, and the seconds that it takes to find it."""
    p = batches.recipe(kind, a.tiny)
    changes = {"batch": BATCH, "micro_batch": "auto", "sized": None}
    train = params.Train.model_validate(p.train.model_dump() | changes)
    freed()
    began = time.perf_counter()
    world, data = distributed.join(), Drawn(p, size_of(kind, a))
    task = Pretraining(p).to(a.device).train()
    fits = memory.Trial(task, data, optim.build(task, p.optimiser), train, world)
    with tempfile.TemporaryDirectory() as work:
        found, _ = memory.settled(train, Path(work), world, {"identity": kind}, fits)
    row: Row = {"micro_batch": found.micro_batch, "seconds": time.perf_counter() - began}
    print(f"{kind}, micro_batch auto: {row}", flush=True)
    return row
