"""What is added to attention: learned position biases, and what hides padding."""

import torch
from torch import Tensor, nn

from d2v import params


class GridBias(nn.Module):
    """One learned bias for each 2-D offset of patches and head, of all blocks or of one (BEiT).

    Row of the table for query i and key j: (yi - yj + h - 1) * (2w - 1) + (xi - xj + w - 1); the
    last three rows are class token -> patch, patch -> class token, class token -> class token.
    """

    def __init__(self, rows: int, columns: int, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros((2 * rows - 1) * (2 * columns - 1) + 3, heads))
        with torch.device("cpu"):  # also where weights are made without memory, to be loaded
            index = _grid_index(rows, columns)
        self.register_buffer("index", index, persistent=False)
        self.index: Tensor

    def forward(self, length: int) -> Tensor:
        """Bias (1, heads, length, length); without a class token the grid's part only."""
        index = self.index if length == len(self.index) else self.index[1:, 1:]
        return _heads_first(self.table[index])


class DistanceBias(nn.Module):
    """One learned bias for each clipped distance and head of one block.

    Not in the paper. Miniature text models find neighbours in minutes only with relative
    positions; heads start out looking left, looking right, near, and everywhere.
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


def shared_bias(p: params.Backbone) -> GridBias | None:
    """The bias that all blocks share."""
    window = p.position_bias.window
    if p.position_bias.kind != "shared_2d" or window is None:
        return None
    return GridBias(window[0], window[1], p.heads)


def own_bias(p: params.Backbone) -> GridBias | DistanceBias | None:
    """The bias that one block has for itself."""
    bias = p.position_bias
    if bias.kind == "per_layer_2d" and bias.window:
        return GridBias(bias.window[0], bias.window[1], p.heads)
    if bias.kind == "per_layer_1d" and bias.max_distance:
        return DistanceBias(bias.max_distance, p.heads)
    return None


def attention_mask(
    bias: Tensor | None, padding: Tensor | None, far: Tensor | None = None
) -> Tensor | None:
    """Join an additive bias (1, H, T, T), padding (B, T) and what is out of reach (B, 1, T, T).

    None if there is none of them.
    """
    hidden = None if padding is None else padding[:, None, None, :]
    if far is not None:
        hidden = far if hidden is None else hidden | far
    if hidden is None:
        return bias
    return ~hidden if bias is None else bias.masked_fill(hidden, float("-inf"))


def out_of_reach(length: int, context: int, padding: Tensor | None, device: torch.device) -> Tensor:
    """True where a key is more than `context` positions from the query: (B or 1, 1, T, T).

    Padded queries, of which nothing is used, may see every key: one that saw none would be NaN.
    """
    at = torch.arange(length, device=device)
    far = ((at[:, None] - at[None, :]).abs() > context)[None, None]
    return far if padding is None else far & ~padding[:, None, :, None]


def _heads_first(bias: Tensor) -> Tensor:
    """(T, T, heads) as (1, heads, T, T), contiguous.

    PyTorch's fused attention on a GPU refuses masks whose last stride is not 1.
    """
    return bias.permute(2, 0, 1).unsqueeze(0).contiguous()


def _grid_index(rows: int, columns: int) -> Tensor:
    """Rows of the table (1 + rows*columns, 1 + rows*columns), class token first."""
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
