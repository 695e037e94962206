"""Standard deviations over all rows of a global batch, from sums that add up over its parts."""

import torch
from torch import Tensor

EPS = 1e-6  # fairseq compute_var


def moments(x: Tensor) -> Tensor:
    """Number of rows of `x` (N, D), sums of its channels and of their squares: (1 + 2 D,), float64.

    Those of several parts of a batch, added up, are those of the batch.
    """
    x = x.detach().float()
    if not len(x):
        return x.new_zeros(1 + 2 * x.shape[1], dtype=torch.float64)
    spread, mean = torch.var_mean(x, 0, correction=0)
    spread, mean = spread.double(), mean.double()
    count = torch.full((1,), len(x), dtype=torch.float64, device=x.device)
    return torch.cat([count, mean * len(x), (spread + mean.square()) * len(x)])


def channel_std(sums: Tensor) -> Tensor:
    """Standard deviation over rows, mean over channels, of `moments` that were added up.

    Less than two rows have no spread: as much as equal rows.
    """
    count, (total, squares) = sums[0], sums[1:].view(2, -1)
    spread = (squares - total.square() / count.clamp(min=1)) / (count - 1).clamp(min=1)
    return (spread.clamp(min=0) + EPS).sqrt().mean()
