"""The device a process computes on: its memory, its batches and its random numbers."""

import ctypes
from typing import Any

import numpy as np
import torch
from torch import Tensor

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def keep_memory(device: torch.device) -> None:
    """Let a process that computes on the CPU keep freed memory for its next step.

    By default glibc returns the memory of large tensors to the system at once. The next step then
    receives new pages with one page fault each, which takes a sixth of a step of speech Base. Other
    C libraries are left unchanged.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if device.type == "cpu" and mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_TOP_PAD, 64 * 2**20)


def move(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on `device`; the host does not wait for pinned tensors."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def cast(batch: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The batch with its floating-point tensors as `dtype`, that of a model's weights."""
    return {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in batch.items()
    }


def seed(device: torch.device, *numbers: int) -> None:
    """Seed PyTorch's generators on host and device from several numbers."""
    joined = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    # torch.manual_seed would record a stack trace at each call while CUDA is not in use
    torch.default_generator.manual_seed(joined)
    if device.type == "cuda":
        torch.cuda.manual_seed(joined)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device is a GPU with native bfloat16; emulation is slower than float32."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
