"""Standard deviations over all rows of a global batch, from sums that can be added over parts."""

import torch
from torch import Tensor

EPS = 1e-6  # fairseq compute_var


def moments(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """Row count of `x` (N, D), channel sums and sums of squares: (1 + 2 D,), float64.

    The moments of a batch are the sum of the moments of its parts. `weight` (N,) is 1 for rows that
    count and 0 for others.
    """
    x = x.detach().float()
    if weight is not None:
        count = weight.sum()
        mean = (x * weight[:, None]).sum(0) / count.clamp(min=1)
        spread = ((x - mean).square() * weight[:, None]).sum(0) / count.clamp(min=1)
        count, spread, mean = count.double().view(1), spread.double(), mean.double()
        return torch.cat([count, mean * count, (spread + mean.square()) * count])
    if not len(x):
        return x.new_zeros(1 + 2 * x.shape[1], dtype=torch.float64)
    spread, mean = torch.var_mean(x, 0, correction=0)
    spread, mean = spread.double(), mean.double()
    count = torch.full((1,), len(x), dtype=torch.float64, device=x.device)
    return torch.cat([count, mean * len(x), (spread + mean.square()) * len(x)])


def channel_std(sums: Tensor) -> Tensor:
    """Standard deviation over rows, averaged over channels, from summed `moments`.

    Fewer than two rows have no spread and give the same value as identical rows.
    """
    count, (total, squares) = sums[0], sums[1:].view(2, -1)
    spread = (squares - total.square() / count.clamp(min=1)) / (count - 1).clamp(min=1)
    return (spread.clamp(min=0) + EPS).sqrt().mean()
