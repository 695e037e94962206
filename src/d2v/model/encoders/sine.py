"""Fixed sine-cosine positions of a square grid (MAE; data2vec 2.0, images)."""

import torch
from torch import Tensor


def grid_positions(side: int, dim: int) -> Tensor:
    """Positions (1, side * side, dim) of a grid in row-major order; `dim` is a multiple of 4.

    The first half of the channels encodes the column, the second half the row. Each half holds the
    sines, then the cosines, of dim / 4 frequencies from 1 to almost 1 / 10,000.
    """
    with torch.device("cpu"):  # also when a model is built on the meta device, to be loaded
        count = dim // 4
        frequency = 10_000.0 ** (-torch.arange(count, dtype=torch.float64) / count)
        angle = torch.arange(side, dtype=torch.float64).unsqueeze(1) * frequency
        line = torch.cat([angle.sin(), angle.cos()], dim=1)  # (side, dim / 2)
        column = line.unsqueeze(0).expand(side, -1, -1)
        row = line.unsqueeze(1).expand(-1, side, -1)
        return torch.cat([column, row], dim=2).reshape(1, side * side, dim).float()
