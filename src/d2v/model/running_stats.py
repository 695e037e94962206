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
    # in two passes: torch.var_mean over rows takes ten times as long on a CPU
    if weight is not None:
        rows = weight.sum()
        count = rows.double().view(1)
        mean = (x * weight[:, None]).sum(0) / rows.clamp(min=1)
        spread = ((x - mean).square() * weight[:, None]).sum(0) / rows.clamp(min=1)
    elif len(x):
        count = torch.full((1,), len(x), dtype=torch.float64, device=x.device)
        mean = x.mean(0)
        spread = (x - mean).square().mean(0)
    else:
        return x.new_zeros(1 + 2 * x.shape[1], dtype=torch.float64)
    mean, spread = mean.double(), spread.double()
    return torch.cat([count, mean * count, (spread + mean.square()) * count])


def channel_std(sums: Tensor) -> Tensor:
    """Standard deviation over rows, averaged over channels, from summed `moments`.

    Fewer than two rows have no spread and give the same value as identical rows.
    """
    count, (total, squares) = sums[0], sums[1:].view(2, -1)
    spread = (squares - total.square() / count.clamp(min=1)) / (count - 1).clamp(min=1)
    return (spread.clamp(min=0) + EPS).sqrt().mean()
