"""The decoder that predicts targets at hidden positions from visible ones (data2vec 2.0, 3.1)."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from d2v import params
from d2v.model.kernels.dropout import dropout
from d2v.model.kernels.linear import Linear
from d2v.model.transformer import at_rows, initialise
from d2v.model.visible import restored


class Decoder(nn.Module):
    """Grouped convolutions over all positions, in one dimension or on a square grid, then linear.

    Source: fairseq examples/data2vec/models/modalities/modules.py, Decoder1d and Decoder2d.
    """

    def __init__(self, p: params.Decoder, backbone: params.Backbone, grid: int | None) -> None:
        """`grid` is the side of the grid of positions; None: positions are a sequence."""
        super().__init__()
        self.grid, self.residual, self.kernel = grid, p.residual, p.kernel
        self.dropout, self.noise = p.dropout, p.noise
        widths = [backbone.dim] + [p.dim] * p.layers
        conv = nn.Conv1d if grid is None else nn.Conv2d
        self.convs = nn.ModuleList(
            conv(before, after, p.kernel, padding=p.kernel // 2, groups=p.groups)
            for before, after in pairwise(widths)
        )
        self.projection = projection(p, backbone.dim)
        if backbone.init.head:
            initialise(self.projection, backbone.init)

    def forward(
        self, x: Tensor, visible: Tensor, length: int, rows: Tensor | None = None
    ) -> Tensor:
        """Predictions from the student's outputs `x` (R, V, D) at positions `visible` (R, V).

        (R, T, D), T = length, or (M, D) at the places `rows` (M,) in (R * T).
        """
        x = dropout(x, self.dropout, self.training)
        x = self.convolve(restored(x, visible, length, self.noise))
        return self.projection(x if rows is None else at_rows(x, rows))

    def convolve(self, x: Tensor) -> Tensor:
        """Map all positions `x` (R, T, D) to (R, T, dim)."""
        for conv in self.convs:
            y = self._same(conv, x)
            y = F.gelu(F.layer_norm(y, y.shape[-1:]))
            x = x + y if self.residual and y.shape == x.shape else y
        return x

    def _same(self, conv: nn.Module, x: Tensor) -> Tensor:
        """Apply a convolution to `x` (R, T, C) and cut its output to the length of the input."""
        rows, length, channels = x.shape
        if self.grid is None:
            found: Tensor = conv(x.transpose(1, 2))[..., :length]
            return found.transpose(1, 2)
        side = self.grid
        found = conv(x.transpose(1, 2).reshape(rows, channels, side, side))
        return found[..., :side, :side].flatten(2).transpose(1, 2)


def projection(p: params.Decoder, dim: int) -> nn.Sequential:
    """Linear layers from the convolutions' width to `dim`, with GELU in between."""
    inner = int(p.dim * p.projection_ratio)
    widths = [p.dim] + [inner] * (p.projection_layers - 1) + [dim]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [Linear(before, after), nn.GELU()]
    return nn.Sequential(*layers[:-1])
