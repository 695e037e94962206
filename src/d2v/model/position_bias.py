"""Additive attention terms: learned position biases, and masks that hide padding."""

import torch
from torch import Tensor, nn

from d2v import params
from d2v.model.alibi import Alibi
from d2v.model.kernels.attention import laid_out


class GridBias(nn.Module):
    """One learned bias per 2-D patch offset and head, for one block or shared by all (BEiT).

    The table row for query i and key j is (yi - yj + h - 1) * (2w - 1) + (xi - xj + w - 1). The
    last three rows are class token -> patch, patch -> class token, class token -> class token.
    """

    def __init__(self, rows: int, columns: int, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros((2 * rows - 1) * (2 * columns - 1) + 3, heads))
        with torch.device("cpu"):  # also when a model is built on the meta device, to be loaded
            index = _grid_index(rows, columns)
        self.register_buffer("index", index, persistent=False)
        self.index: Tensor

    def forward(self, length: int) -> Tensor:
        """Bias (1, heads, length, length); without a class token, only the grid's part."""
        index = self.index if length == len(self.index) else self.index[1:, 1:]
        return _heads_first(self.table[index])


class DistanceBias(nn.Module):
    """One learned bias per clipped distance and head, for one block.

    Not in the paper. Only with relative positions do miniature text models learn within minutes to
    attend to neighbouring tokens. Heads are initialised in turn to look left, right, nearby and
    everywhere.
    """

    def __init__(self, max_distance: int, heads: int) -> None:
        super().__init__()
        self.max_distance = max_distance
        distance = torch.arange(-max_distance, max_distance + 1, dtype=torch.float32)
        looks = [
            -(distance + 1).abs(),
            -(distance - 1).abs(),
            -0.3 * distance.abs(),
            torch.zeros_like(distance),
        ]
        self.table = nn.Parameter(torch.stack([looks[h % 4] for h in range(heads)], dim=1))

    def forward(self, length: int) -> Tensor:
        """Bias (1, heads, length, length)."""
        position = torch.arange(length, device=self.table.device)
        distance = position[None, :] - position[:, None]
        index = distance.clamp(-self.max_distance, self.max_distance) + self.max_distance
        return _heads_first(self.table[index])


def shared_bias(p: params.Backbone) -> GridBias | Alibi | None:
    """Position bias that all blocks share, or None."""
    if p.position_bias.kind == "alibi":
        return Alibi(p.heads)
    window = p.position_bias.window
    if p.position_bias.kind != "shared_2d" or window is None:
        return None
    return GridBias(window[0], window[1], p.heads)


def own_bias(p: params.Backbone) -> GridBias | DistanceBias | None:
    """New position bias for a single block, or None."""
    bias = p.position_bias
    if bias.kind == "per_layer_2d" and bias.window:
        return GridBias(bias.window[0], bias.window[1], p.heads)
    if bias.kind == "per_layer_1d" and bias.max_distance:
        return DistanceBias(bias.max_distance, p.heads)
    return None


def attention_mask(
    bias: Tensor | None, padding: Tensor | None, far: Tensor | None = None
) -> Tensor | None:
    """Combine an additive bias (1, H, T, T), padding (B, T) and out-of-reach keys (B, 1, T, T).

    Returns None if all three are None.
    """
    hidden = None if padding is None else padding[:, None, None, :]
    if far is not None:
        hidden = far if hidden is None else hidden | far
    if hidden is None:
        return bias
    return ~hidden if bias is None else laid_out(bias.masked_fill(hidden, float("-inf")))


def out_of_reach(length: int, context: int, padding: Tensor | None, device: torch.device) -> Tensor:
    """True where a key is more than `context` positions from the query: (B or 1, 1, T, T).

    Padded queries, whose outputs are not used, may see every key: a query that sees no key would
    give NaN.
    """
    at = torch.arange(length, device=device)
    far = ((at[:, None] - at[None, :]).abs() > context)[None, None]
    return far if padding is None else far & ~padding[:, None, :, None]


def _heads_first(bias: Tensor) -> Tensor:
    """Reorder (T, T, heads) to (1, heads, T, T), laid out for attention."""
    return laid_out(bias.permute(2, 0, 1).unsqueeze(0))


def _grid_index(rows: int, columns: int) -> Tensor:
    """Table row of each query and key (1 + rows*columns, 1 + rows*columns), class token first."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y[None, :] + rows - 1
    dx = x[:, None] - x[None, :] + columns - 1
    count = (2 * rows - 1) * (2 * columns - 1) + 3
    index = torch.empty(1 + len(y), 1 + len(y), dtype=torch.int64)
    index[1:, 1:] = dy * (2 * columns - 1) + dx
    index[0, 1:] = count - 3
    index[1:, 0] = count - 2
    index[0, 0] = count - 1
    return index
