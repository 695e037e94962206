"""Dropout whose masks cost little on a CPU.

There PyTorch draws them one Bernoulli number at a time, a tenth of a text model's step. Here 16
random bits make a number, from a fast generator that PyTorch's seeds: still a function of its
state, so that a resumed run draws the same. Other devices use PyTorch's dropout, and so does what
is compiled.
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
    """Whether masks of `x` are made here."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def kept(shape: Sequence[int], p: float) -> Tensor:
    """0 with probability `p`, to 2^-16, else 1: a tensor of `shape` on the CPU, int8.

    A product with it is fast; filling where a mask is True, or comparing in PyTorch, is not.
    """
    seed = int(torch.randint(2**62, ()))
    count = int(np.prod(shape))
    words = np.random.SFC64(seed).random_raw(-(-count * BITS // 64))
    chosen = words.view(np.int16)[:count] >= round(p * 2**BITS) - 2 ** (BITS - 1)
    return torch.from_numpy(chosen.view(np.int8)).view(tuple(shape))
