"""The processes of a run: which one this is, and how they exchange data.

With a single process every exchange is a no-op.
"""

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

# submitit chooses a port from 20000 to 60000. From 32768 on, Linux assigns ports to any connection,
# so the chosen one may already be in use.
PORTS = range(20000, 32768)
PATIENCE = timedelta(days=1)  # longer than any validation takes


@dataclass(frozen=True)
class World:
    """The number of processes in a run, and the rank and device of this one."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0


def join(patience: timedelta | None = None) -> World:
    """Join the process group that torchrun or submitit describes in the environment.

    The backend is NCCL on GPUs and gloo on CPUs. Without a launcher, or with a single process,
    there is no group. Calling this again returns an equal World. `patience` is how long to wait for
    other processes, now and later; None: PyTorch's default.
    """
    _export_submitit(os.environ)
    rank, size = (int(os.environ.get(name, d)) for name, d in (("RANK", 0), ("WORLD_SIZE", 1)))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        # device_id binds NCCL to this GPU: without it a barrier may choose another one
        bound = device if device.type == "cuda" else None
        dist.init_process_group("nccl" if bound else "gloo", device_id=bound, timeout=patience)
        atexit.register(leave)
    return World(rank, size, device)


@functools.cache
def _control() -> dist.ProcessGroup:
    """The group for messages through CPU memory.

    Its timeout is long, because the other processes may wait a long time for the main one.
    """
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(group, dist.ProcessGroup)
    return group


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        _control.cache_clear()
        dist.destroy_process_group()


def add_up(x: Tensor) -> Tensor:
    """Sum `x` over all processes, in place, and return it."""
    if dist.is_initialized():
        dist.all_reduce(x)
    return x


def from_main(value: Any) -> Any:
    """Return the main process's `value` (anything picklable) in every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_control())
    return box[0]


def any_of(here: bool) -> bool:
    """Return in every process whether `here` is true in any of them."""
    if not dist.is_initialized():
        return here
    flag = torch.tensor(int(here))
    dist.all_reduce(flag, dist.ReduceOp.MAX, group=_control())
    return bool(flag)


def gather_moments(optimiser: torch.optim.Optimizer) -> None:
    """Gather the shares of a sharded optimiser in the main process, which can then save them."""
    if not dist.is_initialized():
        return
    # imported here: it takes a third as long as importing torch, and one process never shards
    from torch.distributed.optim import ZeroRedundancyOptimizer

    if isinstance(optimiser, ZeroRedundancyOptimizer):
        optimiser.consolidate_state_dict(to=0)


def wrap(model: nn.Module, world: World) -> nn.Module:
    """Wrap the model so that each backward pass averages its gradients over the processes."""
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
    """Context for forward and backward of a micro-batch; exchanges gradients only if `now`."""
    if now or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()


def _export_submitit(env: MutableMapping[str, str]) -> None:
    """Set the environment variables of torchrun for the tasks of a submitit job."""
    if "SUBMITIT_EXECUTOR" not in env or "RANK" in env:
        return
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    if JobEnvironment().num_tasks > 1:
        # every task sees all GPUs of its node and uses the one of its local rank
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        # submitit derives the port from the job's id, so a requeued job could collide with
        # remaining processes of its previous start
        restarts = int(env.get("SLURM_RESTART_COUNT", 0))
        port = int(env["MASTER_PORT"]) - PORTS.start + 7919 * restarts
        env["MASTER_PORT"] = str(PORTS.start + port % len(PORTS))
