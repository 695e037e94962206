"""Milliseconds of a step by group of GPU kernels, and its longest kernels."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

STEPS = 2
LONGEST = 12  # kernels that are listed
GROUPS = {
    "attention": ("fmha", "flash", "attention", "sdpa"),
    "products": ("gemm", "nvjet", "cutlass", "matmul", "wgmma"),
    "convolutions": ("conv", "cudnn", "implicit"),
    "fused elementwise": ("triton",),
    "optimiser and EMA": ("multi_tensor", "foreach"),
    "copies": ("memcpy", "memset", "copy"),
}


def group(name: str) -> str:
    """The first group one of whose words is in a kernel's name."""
    lower = name.lower()
    found = (title for title, words in GROUPS.items() if any(word in lower for word in words))
    return next(found, "other")


def by_group(step: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Milliseconds per step by group and of the LONGEST kernels; on a CPU, of its operators."""
    gpu = device.type == "cuda"
    kind = ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU
    with profile(activities=[kind]) as profiler:
        for _ in range(STEPS):
            step()
        if gpu:
            torch.cuda.synchronize()
    wanted = torch.autograd.DeviceType.CUDA if gpu else torch.autograd.DeviceType.CPU
    groups: Counter[str] = Counter()
    kernels: Counter[str] = Counter()
    for event in profiler.events() or []:
        if event.device_type != wanted or event.name.startswith(("##", "ProfilerStep")):
            continue
        took = event.self_device_time_total if gpu else event.self_cpu_time_total
        groups[group(event.name)] += took / STEPS / 1e3
        kernels[event.name[:110]] += took / STEPS / 1e3
    return {
        "ms": {name: round(ms, 3) for name, ms in groups.most_common()},
        "longest": {name: round(ms, 3) for name, ms in kernels.most_common(LONGEST)},
    }
