"""The largest micro-batch that fits a device's memory (params.Train.micro_batch: auto)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2v import params
from d2v.training import devices, distributed
from d2v.training.loader import Examples
from d2v.training.task import Task
from d2v.util.errors import OutOfMemory
from d2v.util.files import read_json, write_json

FILE = "micro_batch.json"
SHARE = 0.9  # of the device's memory that a trial may take; the rest is for fragmentation
ON_CPU = 16  # limit on a CPU, whose memory other programs share
Fits = Callable[[int], bool]


def settled(
    train: params.Train,
    task: Task,
    dataset: Examples,
    work: Path,
    world: distributed.World,
    fits: Fits | None = None,
) -> tuple[params.Train, str | None]:
    """`train` with a number as micro_batch, and a line for the log if the number was just found.

    The number is found once, by the main process, and recorded in the run's folder, so that a
    resumed run uses it again; it is found anew if it no longer divides the batch over the
    processes. `fits(n)` says whether n examples fit; without it, steps are tried.

    Raises OutOfMemory if not even one example fits.
    """
    if train.micro_batch != "auto":
        return train, None
    assert train.batch is not None
    path = work / FILE
    each = train.batch // world.size if train.batch % world.size == 0 else train.batch
    found = line = None
    if world.main:
        found = (read_json(path) or {}).get("micro_batch")
        if not isinstance(found, int) or each % found:
            found = largest(each, fits or _trial(task, dataset, world.device, train))
            line = f"micro_batch auto: {found} examples per forward pass fit this device"
            write_json(path, {"micro_batch": found, "batch": train.batch})
    found = distributed.from_main(found)
    return train.model_copy(update={"micro_batch": found}), line


def largest(batch: int, fits: Fits) -> int:
    """The largest power of two that divides `batch` and of which `fits` is true.

    Raises OutOfMemory if 1 does not fit.
    """
    if not fits(1):
        raise OutOfMemory(
            "micro_batch auto: not even one example fits into the device's memory; set"
            " train.recompute: true, or use a device with more memory"
        )
    found = 1
    while batch % (2 * found) == 0 and fits(2 * found):
        found *= 2
    return found


def _trial(task: Task, dataset: Examples, device: torch.device, train: params.Train) -> Fits:
    """Whether forward and backward of n examples fit, beside the optimiser's moments.

    The task's weights, its gradients and the state of all random numbers are left unchanged.
    """
    if device.type != "cuda":
        return lambda count: count <= ON_CPU

    def fits(count: int) -> bool:
        trained = [p for p in task.parameters() if p.requires_grad]
        moments: list[Tensor] = []
        states = torch.get_rng_state(), torch.cuda.get_rng_state(device)
        torch.cuda.reset_peak_memory_stats(device)
        try:
            moments += [torch.empty_like(p) for p in trained for _ in range(2)]
            _try(task, dataset, device, count, train)
        except torch.OutOfMemoryError:
            return False
        finally:
            moments.clear()
            task.zero_grad(set_to_none=True)
            torch.set_rng_state(states[0])
            torch.cuda.set_rng_state(states[1], device)
            peak = torch.cuda.max_memory_allocated(device)
            torch.cuda.empty_cache()
        return bool(peak <= SHARE * torch.cuda.get_device_properties(device).total_memory)

    return fits


def _try(
    task: Task, dataset: Examples, device: torch.device, count: int, train: params.Train
) -> None:
    """Forward and backward of `count` examples; those with the first indices, some repeatedly."""
    examples = [dataset[0, index % len(dataset)] for index in range(count)]
    batch: dict[str, Any] = devices.move(dataset.collate(examples), device)
    mixed = train.precision != "float32" and devices.has_bfloat16(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
        out = task(dataset.finish(batch, device))
    out["loss"].backward()
    torch.cuda.synchronize(device)
