"""ALiBi: an attention bias that falls linearly with the distance (Press et al. 2022).

In data2vec 2.0, the slope of each head is multiplied by a learned scale, which starts at 1 and is
clamped at 0; all blocks share the scales. The bias is symmetric: the distance is absolute.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v.model.kernels.attention import laid_out


class Alibi(nn.Module):
    """Bias of all heads for pairs of positions; extra tokens in front have none."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(heads))
        with torch.device("cpu"):  # also when a model is built on the meta device, to be loaded
            self.register_buffer("slopes", torch.tensor(slopes(heads)), persistent=False)
        self.slopes: Tensor

    def forward(self, length: int, prefix: int = 0, visible: Tensor | None = None) -> Tensor:
        """Bias (R or 1, heads, P + V, P + V) for P = prefix extra tokens and V positions.

        `visible` (R, V) are the positions of each row; without it, they are 0 ... length - P - 1.
        """
        if visible is None:
            visible = torch.arange(length - prefix, device=self.scale.device).unsqueeze(0)
        distance = (visible.unsqueeze(2) - visible.unsqueeze(1)).abs()
        slope = self.slopes * self.scale.clamp(min=0.0)
        bias = (distance.unsqueeze(1) * -slope.view(1, -1, 1, 1)).to(self.scale.dtype)
        return laid_out(F.pad(bias, (prefix, 0, prefix, 0)) if prefix else bias)


def slopes(heads: int) -> list[float]:
    """Slope of each head: a geometric sequence that ends at 2^-8.

    If the number of heads is no power of two, every second slope of the next power of two is
    appended to those of the previous one (Press et al.'s code, which fairseq uses).
    """
    whole = 2 ** int(math.log2(heads))
    found = [2.0 ** (-8.0 * (i + 1) / whole) for i in range(whole)]
    if whole == heads:
        return found
    return found + slopes(2 * whole)[::2][: heads - whole]
