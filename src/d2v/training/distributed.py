"""One process or several: who we are, and what to exchange. In one process all is a no-op."""

import atexit
import functools
import os
from collections.abc import MutableMapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# submitit takes one from 20000 to 60000; from 32768 on Linux gives ports to any connection, so that
# one may be taken already
PORTS = range(20000, 32768)
PATIENCE = timedelta(days=1)  # longer than any validation


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this is."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0


def join() -> World:
    """Enter the process group that torchrun or submitit describes in the environment.

    NCCL on GPUs, gloo on CPUs. Without either, or for one process, there is no group. Calling it
    again returns the same.
    """
    _export_submitit(os.environ)
    rank, size = (int(os.environ.get(name, d)) for name, d in (("RANK", 0), ("WORLD_SIZE", 1)))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        # device_id binds NCCL to this GPU: without it a barrier may guess another one
        bound = device if device.type == "cuda" else None
        dist.init_process_group("nccl" if bound else "gloo", device_id=bound)
        atexit.register(leave)
    return World(rank, size, device)


@functools.cache
def _control() -> dist.ProcessGroup:
    """The group of messages between hosts: the others may wait long for the main process."""
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(group, dist.ProcessGroup)
    return group


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        _control.cache_clear()
        dist.destroy_process_group()


def add_up(x: Tensor) -> Tensor:
    """Sum over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(x)
    return x


def from_main(value: Any) -> Any:
    """The main process's `value` (anything picklable), in every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_control())
    return box[0]


def any_of(here: bool) -> bool:
    """Whether it is so in any process."""
    if not dist.is_initialized():
        return here
    flag = torch.tensor(int(here))
    dist.all_reduce(flag, dist.ReduceOp.MAX, group=_control())
    return bool(flag)


def gather_moments(optimiser: torch.optim.Optimizer) -> None:
    """Bring the shares of a sharded optimiser to the main process, which may save them then."""
    if not dist.is_initialized():
        return
    # here: it takes a third as long to import as all of torch, and one process never shards
    from torch.distributed.optim import ZeroRedundancyOptimizer

    if isinstance(optimiser, ZeroRedundancyOptimizer):
        optimiser.consolidate_state_dict(to=0)


def wrap(model: nn.Module, world: World) -> nn.Module:
    """The model with its gradients averaged over the processes at each backward pass."""
    if world.size == 1:
        return model
    # find_unused_parameters: skipped blocks (layer drop) and frozen modules get no gradient
    return DistributedDataParallel(
        model,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        find_unused_parameters=True,
    )


def exchange(model: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Around forward and backward of a micro-batch: gradients are exchanged only where `now`."""
    if now or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()


def _export_submitit(env: MutableMapping[str, str]) -> None:
    """Give the tasks of a submitit job the variables that torchrun sets."""
    if "SUBMITIT_EXECUTOR" not in env or "RANK" in env:
        return
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    if JobEnvironment().num_tasks > 1:
        # every task sees all GPUs of its node and takes the one of its local rank
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        # submitit's port is that of the job's id: a requeued job would meet what is left of itself
        restarts = int(env.get("SLURM_RESTART_COUNT", 0))
        port = int(env["MASTER_PORT"]) - PORTS.start + 7919 * restarts
        env["MASTER_PORT"] = str(PORTS.start + port % len(PORTS))
