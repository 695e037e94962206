"""Dropout whose masks cost little on a CPU.

There PyTorch draws them one Bernoulli number at a time, a tenth of a text model's step. Here 16
random bits make a number, from a fast generator that PyTorch's seeds: still a function of its
state, so that a resumed run draws the same. Other devices use PyTorch's dropout.
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
    if x.device.type != "cpu" or p == 1.0:
        return F.dropout(x, p)
    return x.masked_fill(dropped(x.shape, p), 0.0) * (1.0 / (1.0 - p))


def dropped(shape: Sequence[int], p: float) -> Tensor:
    """True with probability `p`, to 2^-16: a tensor of `shape` on the CPU."""
    seed = int(torch.randint(2**62, ()))
    count = int(np.prod(shape))
    words = np.random.SFC64(seed).random_raw(-(-count * BITS // 64))
    numbers = torch.from_numpy(words.view(np.int16)[:count])
    return (numbers < round(p * 2**BITS) - 2 ** (BITS - 1)).view(tuple(shape))
