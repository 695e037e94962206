"""The one Transformer of all modalities (paper 3.1).

Pre- or post-norm, optional LayerScale, optional additive attention bias. It returns the
feed-forward output and the block output of every block, because targets are made of them; other
features of a block are kept where targets are made of those.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v import params
from d2v.attention import attend
from d2v.dropout import dropout


@dataclass
class Output:
    """What a forward pass gives: `x` (B, T, D), and per block `ffn` and `blocks` (B, T, D).

    `attention` and `ffn_residual` are empty unless they were asked for.
    """

    x: Tensor
    ffn: list[Tensor] = field(default_factory=list)
    blocks: list[Tensor] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    ffn_residual: list[Tensor] = field(default_factory=list)

    def layers(self, feature: str) -> list[Tensor]:
        """One (B, T, D) a block of the feature that params.Target names."""
        found: list[Tensor] = getattr(self, "blocks" if feature == "block" else feature)
        return found


class Inside(NamedTuple):
    """What one block computes on its way, as params.Target.feature names it; each (B, T, D)."""

    attention: Tensor  # before its residual
    ffn: Tensor  # before its residual
    ffn_residual: Tensor  # with it, before the last norm of a post-norm block


class Transformer(nn.Module):
    """A stack of blocks with an optional shared 2-D position bias and an optional final norm."""

    def __init__(self, p: params.Backbone) -> None:
        super().__init__()
        self.layer_drop, self.norm_eps = p.layer_drop, p.norm_eps
        self.position_bias = _shared_bias(p)
        self.blocks = nn.ModuleList(Block(p, index) for index in range(p.depth))
        self.norm = nn.LayerNorm(p.dim, eps=p.norm_eps) if p.final_norm else nn.Identity()
        initialise(self, p.init)
        if p.init.rescale:
            self._rescale()
        if p.deep_norm:
            self._deepen()

    def forward(
        self,
        x: Tensor,
        padding: Tensor | None = None,
        also: str = "",
        context: int | None = None,
    ) -> Output:
        """Run all blocks on `x` (B, T, D); `padding` (B, T) is True where there is no input.

        `also` names a feature of blocks (params.Target) that is kept besides ffn and block;
        `context` limits attention to so many positions on each side.
        """
        shared = self.position_bias(x.shape[1]) if self.position_bias is not None else None
        far = None if context is None else out_of_reach(x.shape[1], context, padding, x.device)
        mask = attention_mask(shared, padding, far)
        out = Output(x)
        for block in self.blocks:
            skip = self.training and self.layer_drop > 0 and torch.rand(()) < self.layer_drop
            if not skip:
                x, inside = block(x, mask, padding)
                out.ffn.append(inside.ffn)
                out.blocks.append(x)
                if also in ("attention", "ffn_residual"):
                    out.layers(also).append(getattr(inside, also))
        out.x = self.norm(x)
        return out

    def _rescale(self) -> None:
        """Divide what is added to the residual stream by sqrt(2 * block number) (BEiT)."""
        for number, block in enumerate(self.blocks, start=1):
            assert isinstance(block, Block)
            for linear in (block.attention.out, block.fc2):
                linear.weight.data.div_(math.sqrt(2.0 * number))

    def _deepen(self) -> None:
        """Divide initial values by (8 * depth)^(1/4), but for query and key (DeepNorm)."""
        by = (8.0 * len(self.blocks)) ** 0.25
        for block in self.blocks:
            assert isinstance(block, Block)
            value = block.attention.qkv.weight.data.chunk(3)[2]
            linears = (block.attention.out, block.fc1, block.fc2)
            for weight in (value, *(linear.weight.data for linear in linears)):
                weight.div_(by)


class Block(nn.Module):
    """Self-attention and feed-forward, each with residual and LayerNorm."""

    def __init__(self, p: params.Backbone, index: int) -> None:
        super().__init__()
        self.norm_first = p.norm_first
        self.alpha = (2.0 * p.depth) ** 0.25 if p.deep_norm else None
        self.attention = Attention(p)
        self.norm1 = nn.LayerNorm(p.dim, eps=p.norm_eps)
        self.fc1 = nn.Linear(p.dim, p.ffn_dim)
        self.fc2 = nn.Linear(p.ffn_dim, p.dim)
        self.norm2 = nn.LayerNorm(p.dim, eps=p.norm_eps)
        self.gamma1 = self.gamma2 = None
        if p.layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((p.dim,), p.layer_scale))
            self.gamma2 = nn.Parameter(torch.full((p.dim,), p.layer_scale))
        self.dropout = p.dropout
        self.activation_dropout = p.activation_dropout
        self.drop_path = p.drop_path * index / max(p.depth - 1, 1)

    def forward(
        self, x: Tensor, mask: Tensor | None, padding: Tensor | None
    ) -> tuple[Tensor, Inside]:
        """Return the block output (B, T, D), and what it was made of."""
        if self.norm_first:
            attention = _scale(self.attention(self.norm1(x), mask, padding), self.gamma1)
            x = x + self._drop(attention)
            ffn = _scale(self._feed_forward(self.norm2(x)), self.gamma2)
            x = x + self._drop(ffn)
            return x, Inside(attention, ffn, x)
        attention = self.attention(x, mask, padding)
        x = self.norm1(self._residual(x) + self._drop(attention))
        ffn = self._feed_forward(x)
        both = self._residual(x) + self._drop(ffn)
        return self.norm2(both), Inside(attention, ffn, both)

    def _residual(self, x: Tensor) -> Tensor:
        """What a post-norm block adds to: larger than its input with DeepNorm."""
        return x if self.alpha is None else self.alpha * x

    def _feed_forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.fc1(x))
        if self.activation_dropout:
            x = dropout(x, self.activation_dropout, self.training)
        return self.fc2(x)

    def _drop(self, x: Tensor) -> Tensor:
        if self.dropout:
            x = dropout(x, self.dropout, self.training)
        if not self.drop_path:
            return x
        from timm.layers.drop import drop_path  # here: it takes as long to import as all the rest

        return drop_path(x, self.drop_path, self.training)


class Attention(nn.Module):
    """Multi-head self-attention with an additive bias; the key bias is optional (BEiT has none)."""

    def __init__(self, p: params.Backbone) -> None:
        super().__init__()
        self.heads = p.heads
        self.dropout = p.attention_dropout
        self.qkv = nn.Linear(p.dim, 3 * p.dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(p.dim))
        self.k_bias = nn.Parameter(torch.zeros(p.dim)) if p.key_bias else None
        self.v_bias = nn.Parameter(torch.zeros(p.dim))
        self.out = nn.Linear(p.dim, p.dim)
        self.position_bias = _own_bias(p)

    def forward(self, x: Tensor, mask: Tensor | None, padding: Tensor | None) -> Tensor:
        """Attend within `x` (B, T, D); `mask` broadcasts to (B, heads, T, T)."""
        q, k, v = self._project(x)
        rate = self.dropout if self.training else 0.0
        heads = attend(q, k, v, self._added(x.shape[1], mask, padding), rate)
        return self.out(heads.transpose(1, 2).reshape(x.shape))

    def weights(self, x: Tensor, mask: Tensor | None, padding: Tensor | None) -> Tensor:
        """How much each position looks at each other: (B, heads, T, T), rows add up to one."""
        q, k, _ = self._project(x)
        single = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(*q.shape[:2], -1, -1)
        return attend(q, k, single, self._added(x.shape[1], mask, padding), 0.0)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, heads, T, d)."""
        k_bias = torch.zeros_like(self.q_bias) if self.k_bias is None else self.k_bias
        qkv = F.linear(x, self.qkv.weight, torch.cat([self.q_bias, k_bias, self.v_bias]))
        q, k, v = qkv.view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def _added(self, length: int, mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
        if self.position_bias is None:
            return mask
        return attention_mask(self.position_bias(length), padding)


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
        return self.table[index].permute(2, 0, 1).unsqueeze(0)


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
        return self.table[index].permute(2, 0, 1).unsqueeze(0)


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


def initialise(module: nn.Module, p: params.Init) -> None:
    """Fill linear, convolution and embedding weights as the recipe says; biases are zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            fill(part.weight, p, p.std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            fill(part.weight, p, p.embedding_std)
            if part.padding_idx is not None:
                nn.init.zeros_(part.weight.data[part.padding_idx])


def fill(weight: Tensor, p: params.Init, std: float) -> None:
    """Draw one tensor: N(0, std), or the same cut off at one standard deviation (BEiT)."""
    if p.kind == "normal":
        nn.init.normal_(weight, std=std)
    else:
        nn.init.trunc_normal_(weight, std=std, a=-std, b=std)


def _scale(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else gamma * x


def _shared_bias(p: params.Backbone) -> GridBias | None:
    window = p.position_bias.window
    if p.position_bias.kind != "shared_2d" or window is None:
        return None
    return GridBias(window[0], window[1], p.heads)


def _own_bias(p: params.Backbone) -> GridBias | DistanceBias | None:
    """The bias that one block has for itself."""
    bias = p.position_bias
    if bias.kind == "per_layer_2d" and bias.window:
        return GridBias(bias.window[0], bias.window[1], p.heads)
    if bias.kind == "per_layer_1d" and bias.max_distance:
        return DistanceBias(bias.max_distance, p.heads)
    return None


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
