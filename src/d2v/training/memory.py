"""The largest micro-batch that fits a device's memory (params.Train.micro_batch: auto)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v import params
from d2v.training import devices, distributed, graphs
from d2v.training.loader import Examples
from d2v.training.precision import Working
from d2v.training.step import Step
from d2v.training.task import Task
from d2v.util.errors import OutOfMemory, UserError
from d2v.util.files import read_json, write_json

FILE = "micro_batch.json"
SHARE = 0.9  # of the device's memory that a trial may take; the rest is for fragmentation
# The memory of captured graphs is theirs alone: a micro-batch of a shape that has no graph, a probe
# or a validation needs its own beside it, which may be as much again.
SHARE_WITH_GRAPHS = SHARE / 2
ON_CPU = 16  # limit on a CPU, whose memory other programs share
SMALLER = (
    "use a smaller train.micro_batch, or train.sized with a smaller size and more micro_batches,"
    " or more GPUs"
)
RESUMES = "the batch of a step stays the same, and the run resumes from its checkpoint"
Fits = Callable[[int], bool]


def settled(
    train: params.Train,
    work: Path,
    world: distributed.World,
    meta: Mapping[str, Any],
    fits: Fits,
) -> tuple[params.Train, str | None]:
    """`train` with a number as micro_batch, and a line for the log if the number was just found.

    The number is found once, by the main process, and recorded in the run's folder, so that a
    resumed run uses it again. It is found anew if it no longer divides the batch over the
    processes, or if the run's identity, in `meta`, has changed, so that it starts afresh. `fits(n)`
    says whether n examples fit.

    Raises OutOfMemory if not even one example fits.
    """
    if train.micro_batch != "auto":
        return train, None
    assert train.batch is not None
    path = work / FILE
    each = train.batch // world.size if train.batch % world.size == 0 else train.batch
    found = line = None
    if world.main:
        known, identity = read_json(path) or {}, meta["identity"]
        if known.get("identity", identity) == identity:
            found = known.get("micro_batch")
        if not isinstance(found, int) or found < 1 or each % found:
            found = largest(each, fits)
            if not found:
                raise OutOfMemory(
                    "micro_batch auto: not even one example fits into the device's memory;"
                    f" {_remedies(train)}"
                )
            line = f"micro_batch auto: {found} examples per forward pass fit this device"
            record = {"micro_batch": found, "batch": train.batch, "identity": identity}
            write_json(path, record)
    found = distributed.from_main(found)
    return train.model_copy(update={"micro_batch": found}), line


def largest(batch: int, fits: Fits) -> int:
    """The largest power of two that divides `batch` and of which `fits` is true, or 0."""
    if not fits(1):
        return 0
    found = 1
    while batch % (2 * found) == 0 and fits(2 * found):
        found *= 2
    return found


def advice(asked: params.Train, used: params.Train) -> str:
    """What to change when a run is out of memory; `used` are its parameters, settled."""
    if asked.micro_batch != "auto":
        return f"{SMALLER}; {RESUMES}"
    assert isinstance(used.micro_batch, int)
    half = used.micro_batch // 2
    change = f"set train.micro_batch: {half}" if half else _remedies(used)
    return f"micro_batch auto has chosen {used.micro_batch}: {change}; {RESUMES}"


def _remedies(train: params.Train) -> str:
    """What needs less memory than one example does."""
    if train.recompute:  # also rules out graphs
        return "use a device with more memory"
    graph = "" if train.cuda_graph is False else " or train.cuda_graph: false"
    return f"set train.recompute: true{graph}, or use a device with more memory"


def measures(device: torch.device) -> bool:
    """Whether the memory that a step takes can be measured on a device."""
    return device.type == "cuda"


class Trial:
    """Whether a micro-batch of a run fits its device, found by computing one.

    Forward and backward are those of the run: its precision, masked positions filled up, blocks
    recomputed if it does so, the longest examples, every block, beside gradients and moments. Only
    compilation is left out: it would take minutes, and compiled code seldom needs more memory.
    """

    def __init__(
        self,
        task: Task,
        dataset: Examples,
        optimiser: torch.optim.Optimizer,
        train: params.Train,
        world: distributed.World,
    ) -> None:
        """`task` is on the device, in training mode and set up to recompute if it should."""
        self.task, self.dataset, self.optimiser, self.train = task, dataset, optimiser, train
        self.device, self.processes = world.device, world.size

    def __call__(self, count: int) -> bool:
        """Whether `count` examples fit; weights, gradients and random numbers do not change."""
        if not measures(self.device):
            return count <= ON_CPU
        with self._unchanged():
            # what other programs leave: free memory, and what this process holds already
            free, _ = torch.cuda.mem_get_info(self.device)
            room = free + torch.cuda.memory_reserved(self.device)
            try:
                return self._peak(count) <= self._share * room
            except torch.OutOfMemoryError:
                return False

    @cached_property
    def _share(self) -> float:
        """Share of the memory that the trial may take."""
        recompute, wanted = self.train.recompute, self.train.cuda_graph
        if wanted is False or graphs.obstacle(self.task, self.optimiser, self.processes, recompute):
            return SHARE
        return SHARE_WITH_GRAPHS

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Context that frees gradients and cached memory and restores random numbers at its end."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            try:
                yield
            finally:
                self.task.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()

    def _peak(self, count: int) -> int:
        """Bytes in use at the peak of a micro-batch of `count` examples."""
        torch.cuda.reset_peak_memory_stats(self.device)
        trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        moments = [torch.empty_like(p) for p in trained for _ in range(2)]
        for parameter in trained:  # from the micro-batches before, or kept by captured graphs
            parameter.grad = torch.zeros_like(parameter)
        self._compute(self._batch(count))
        del moments
        return torch.cuda.max_memory_allocated(self.device)

    def _compute(self, batch: dict[str, Any]) -> None:
        """Forward and backward of a batch, in the run's precision."""
        mixed = self.train.precision == "mixed" and devices.has_bfloat16(self.device)
        working = Working(self.task) if self.train.precision == "bfloat16" else None
        backbone: Any = self.task.backbone()
        try:
            if backbone.layer_drop:  # none is skipped, as in a captured step
                backbone.chosen = torch.ones(
                    len(backbone.blocks), dtype=torch.bool, device=self.device
                )
            step = Step(
                self.task, self.task, self.optimiser, clip=None, mixed=mixed, working=working
            )
            step.gradients(batch)
            torch.cuda.synchronize(self.device)
        finally:
            backbone.chosen = None
            if working is not None:
                working.restore()

    def _batch(self, count: int) -> dict[str, Tensor]:
        """The `count` longest examples, some in several epochs if there are fewer."""
        order, total = self._longest, len(self.dataset)
        keys = [(n // total, int(order[n % total])) for n in range(count)]
        batch = self.dataset.collate([self.dataset[key] for key in keys])
        return self.dataset.finish(devices.move(batch, self.device), self.device)

    @cached_property
    def _longest(self) -> Any:
        """Indices of the examples (N,), longest first."""
        try:
            return np.argsort(-np.asarray(self.dataset.sizes), kind="stable")
        except UserError:  # all have one size
            return np.arange(len(self.dataset))
