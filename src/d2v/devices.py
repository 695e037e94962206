"""The device that a process computes on: its batches and its random numbers."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def move(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on the device; the host does not wait for pinned ones."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def seed(device: torch.device, *numbers: int) -> None:
    """Seed PyTorch's generators of host and device from several numbers."""
    joined = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    # torch.manual_seed would record a stack trace at each call while CUDA is not in use
    torch.default_generator.manual_seed(joined)
    if device.type == "cuda":
        torch.cuda.manual_seed(joined)
