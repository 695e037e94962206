"""Dropout with masks that are cheap to draw on a CPU.

On a CPU, PyTorch draws masks one Bernoulli number at a time, which takes a tenth of a text model's
step. This version uses 16 random bits per element, from a fast generator that is seeded by
PyTorch's. Masks therefore remain a function of the state of PyTorch's generator, and a resumed run
draws the same ones. Other devices and compiled models use PyTorch's dropout.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BITS = 16


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero elements of `x` with probability `p` and scale the others by 1 / (1 - p)."""
    if not training or p == 0.0:
        return x
    if not own(x) or p == 1.0:
        return F.dropout(x, p)
    return (x * kept(x.shape, p)).mul_(1.0 / (1.0 - p))


def own(x: Tensor) -> bool:
    """Whether this module draws the dropout masks of `x`: on a CPU, unless compiling."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def kept(shape: Sequence[int], p: float) -> Tensor:
    """Draw a dropout mask: int8 of `shape` on the CPU, 0 with probability `p`, otherwise 1.

    `p` is rounded to a multiple of 2^-16. The mask is int8 because multiplying by it is fast, while
    masked_fill and comparisons in PyTorch are slow.
    """
    seed = int(torch.randint(2**62, ()))
    count = int(np.prod(shape))
    words = np.random.SFC64(seed).random_raw(-(-count * BITS // 64))
    chosen = words.view(np.int16)[:count] >= round(p * 2**BITS) - 2 ** (BITS - 1)
    return torch.from_numpy(chosen.view(np.int8)).view(tuple(shape))
