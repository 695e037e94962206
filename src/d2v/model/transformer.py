"""The one Transformer of all modalities (paper 3.1).

Blocks are pre-norm or post-norm, with optional LayerScale and an optional additive attention bias.
A forward pass keeps the requested features of its blocks, from which targets are computed. If only
some positions are requested, the end of the last block is computed at those positions only.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2v import params
from d2v.model.alibi import Alibi
from d2v.model.kernels.attention import attend, takes_plain_kernel
from d2v.model.kernels.dropout import dropout
from d2v.model.kernels.linear import Linear, gelu_linear, linear
from d2v.model.position_bias import GridBias, attention_mask, out_of_reach, own_bias, shared_bias


@dataclass(frozen=True)
class Kept:
    """Block features that a forward pass keeps."""

    features: tuple[str, ...] = ()  # names as in params.Target.feature
    top: int | None = None  # number of last blocks whose features are kept; None: all blocks


NOTHING = Kept()


@dataclass
class Output:
    """Result of a forward pass: the output `x`, and a list of `layers` for each kept feature.

    All tensors are (B, T, D), or (M, D) if only M positions were requested.
    """

    x: Tensor
    layers: dict[str, list[Tensor]] = field(default_factory=dict)


class Inside(NamedTuple):
    """Features of one block, named as in params.Target.feature: (B, T, D), or (M, D) at rows."""

    attention: Tensor  # attention output before its residual
    ffn: Tensor  # feed-forward output before its residual
    ffn_residual: Tensor  # the same plus its residual, before the last norm of a post-norm block
    block: Tensor  # the block's output


class Transformer(nn.Module):
    """A stack of blocks with an optional shared 2-D position bias and an optional final norm."""

    def __init__(self, p: params.Backbone) -> None:
        super().__init__()
        self.layer_drop, self.norm_eps = p.layer_drop, p.norm_eps
        self.prenet_depth = p.prenet_depth
        self.recompute = False  # recompute blocks in the backward pass (params.Train.recompute)
        # (depth,) True: compute this block, False: skip it. If set, the device selects between a
        # block's output and its input. None: a skipped block is drawn on the host and not computed
        self.chosen: Tensor | None = None
        self.position_bias = shared_bias(p)
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
        *,
        keep: Kept = NOTHING,
        context: int | None = None,
        rows: Tensor | None = None,
        prefix: int = 0,
        visible: Tensor | None = None,
    ) -> Output:
        """Run all blocks on `x` (B, T, D); `padding` (B, T) is True at padded positions.

        `context` is the maximum number of positions to attend to on each side. `rows` (M,) are the
        requested places in (B * T): the end of the last block is computed only there. Behind
        `prefix` extra tokens, `x` holds the positions `visible` (B, V), by default all.
        """
        shared = self._shared_bias(x.shape[1], prefix, visible)
        far = None if context is None else out_of_reach(x.shape[1], context, padding, x.device)
        mask = attention_mask(shared, padding, far)
        out = Output(x, {name: [] for name in keep.features})
        first_kept = 0 if keep.top is None else len(self.blocks) - keep.top
        for number, block in enumerate(self.blocks):
            chosen = self.chosen if self.training else None
            if chosen is None and self.training and self._skips():
                continue
            last = number == len(self.blocks) - 1
            at = rows if last else None
            inside = self._run(block, x, mask, padding, at)
            if chosen is None:
                x = inside.block
            else:
                x = torch.where(chosen[number], inside.block, x if at is None else at_rows(x, at))
            if number >= first_kept:
                for name, layers in out.layers.items():
                    layer = getattr(inside, name)
                    layers.append(layer if rows is None or last else at_rows(layer, rows))
        if rows is not None and x.dim() == 3:  # the last block was skipped
            x = at_rows(x, rows)
        out.x = self.norm(x)
        return out

    def choose(self) -> Tensor | None:
        """Draw the blocks of the next forward pass, as `chosen`: (depth,) on the host.

        The draws are those that a forward pass would make. None without layer drop.
        """
        if self.layer_drop == 0:
            return None
        return torch.tensor([not self._skips() for _ in self.blocks])

    def _skips(self) -> bool:
        return self.layer_drop > 0 and bool(torch.rand(()) < self.layer_drop)

    def takes_plain_kernel(self, length: int, dtype: torch.dtype) -> bool:
        """Whether a GPU attends without a fused kernel in training, at `length` positions."""
        attention = self.blocks[0].attention
        assert isinstance(attention, Attention)
        bias = self.position_bias or attention.position_bias
        if isinstance(bias, GridBias):  # it fits only the grid's length
            length = len(bias.index)
        device = attention.q_bias.device
        width = len(attention.q_bias) // attention.heads
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            mask = None if bias is None else attention_mask(bias(length).to(dtype), None)
            q = torch.empty(2, attention.heads, length, width, dtype=dtype, device=device)
            if mask is not None:
                mask = mask.expand(2, -1, -1, -1).requires_grad_()  # not every kernel gives it one
        q.requires_grad_()
        return takes_plain_kernel(q, q, q, mask, attention.dropout)

    def _shared_bias(self, length: int, prefix: int, visible: Tensor | None) -> Tensor | None:
        if isinstance(self.position_bias, Alibi):
            return self.position_bias(length, prefix, visible)
        return None if self.position_bias is None else self.position_bias(length)

    def _run(
        self,
        block: nn.Module,
        x: Tensor,
        mask: Tensor | None,
        padding: Tensor | None,
        rows: Tensor | None,
    ) -> Inside:
        assert isinstance(block, Block)
        paths = block.paths(x) if self.training else None
        if block.is_compiled:
            if rows is not None and not torch.is_grad_enabled():
                return block.forward(x, mask, padding, rows)  # once per step: not worth compiling
            if rows is not None:
                torch._dynamo.maybe_mark_dynamic(rows, 0)
            if paths is None and self.training and any(b.drop_path for b in self.blocks):
                paths = x.new_ones(2, len(x), 1, 1)  # all blocks share one compilation
        if self.recompute and torch.is_grad_enabled():
            found: Inside = checkpoint(block, x, mask, padding, rows, paths, use_reentrant=False)
            return found
        found = block(x, mask, padding, rows, paths)
        return found

    def _rescale(self) -> None:
        """Divide the weights that write to the residual stream by sqrt(2 * block number) (BEiT)."""
        for number, block in enumerate(self.blocks, start=1):
            assert isinstance(block, Block)
            for layer in (block.attention.out, block.fc2):
                layer.weight.data.div_(math.sqrt(2.0 * number))

    def _deepen(self) -> None:
        """Divide all initial weights but query and key by (8 * depth)^(1/4) (DeepNorm)."""
        by = (8.0 * len(self.blocks)) ** 0.25
        for block in self.blocks:
            assert isinstance(block, Block)
            value = block.attention.qkv.weight.data.chunk(3)[2]
            layers = (block.attention.out, block.fc1, block.fc2)
            for weight in (value, *(layer.weight.data for layer in layers)):
                weight.div_(by)


class Block(nn.Module):
    """Self-attention and feed-forward, each with a residual connection and LayerNorm."""

    def __init__(self, p: params.Backbone, index: int) -> None:
        super().__init__()
        self.norm_first = p.norm_first
        self.alpha = (2.0 * p.depth) ** 0.25 if p.deep_norm else None
        self.attention = Attention(p)
        self.norm1 = nn.LayerNorm(p.dim, eps=p.norm_eps)
        self.fc1 = Linear(p.dim, p.ffn_dim)
        self.fc2 = Linear(p.ffn_dim, p.dim)
        self.norm2 = nn.LayerNorm(p.dim, eps=p.norm_eps)
        self.gamma1 = self.gamma2 = None
        if p.layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((p.dim,), p.layer_scale))
            self.gamma2 = nn.Parameter(torch.full((p.dim,), p.layer_scale))
        self.dropout = p.dropout
        self.activation_dropout = p.activation_dropout
        self.drop_path = p.drop_path * index / max(p.depth - 1, 1)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        padding: Tensor | None,
        rows: Tensor | None = None,
        paths: Tensor | None = None,
    ) -> Inside:
        """Features of the block for `x` (B, T, D), at all positions or at `rows` (M,) of (B * T).

        `paths` (2, B, 1, 1), from `Block.paths`, are the factors by which the outputs of attention
        and feed-forward are multiplied.
        """
        seen = self.norm1(x) if self.norm_first else x
        attention = self.attention(seen, mask, padding, rows)
        if rows is not None:
            if paths is not None:
                paths = paths[:, rows // x.shape[1], 0]  # (2, M, 1)
            x = at_rows(x, rows)
        if self.norm_first:
            attention = _scale(attention, self.gamma1)
            x = x + self._drop(attention, paths, 0)
            ffn = _scale(self._feed_forward(self.norm2(x)), self.gamma2)
            x = x + self._drop(ffn, paths, 1)
            return Inside(attention, ffn, x, x)
        x = self.norm1(self._residual(x) + self._drop(attention, paths, 0))
        ffn = self._feed_forward(x)
        both = self._residual(x) + self._drop(ffn, paths, 1)
        return Inside(attention, ffn, both, self.norm2(both))

    @property
    def is_compiled(self) -> bool:
        """Whether calls go through torch.compile."""
        return self._compiled_call_impl is not None

    def paths(self, x: Tensor) -> Tensor | None:
        """Stochastic-depth factors of both branches for `x` (B, T, D): (2, B, 1, 1), or None.

        The factor is zero for dropped examples; for the others it preserves the mean. None means
        that the block uses no stochastic depth.
        """
        if not self.drop_path:
            return None
        from timm.layers.drop import drop_path  # imported here: it doubles the import time

        return drop_path(x.new_ones(2 * len(x), 1, 1), self.drop_path, True).view(2, -1, 1, 1)

    def _residual(self, x: Tensor) -> Tensor:
        """Residual branch of a post-norm block: its input, scaled up by alpha with DeepNorm."""
        return x if self.alpha is None else self.alpha * x

    def _feed_forward(self, x: Tensor) -> Tensor:
        if self.training and self.activation_dropout:
            return self.fc2(dropout(F.gelu(self.fc1(x)), self.activation_dropout, True))
        return gelu_linear(self.fc1(x), self.fc2.weight, self.fc2.bias)

    def _drop(self, x: Tensor, paths: Tensor | None, branch: int) -> Tensor:
        x = dropout(x, self.dropout, self.training)
        return x if paths is None else x * paths[branch]


class Attention(nn.Module):
    """Multi-head self-attention with an additive bias; key biases are optional (none in BEiT)."""

    def __init__(self, p: params.Backbone) -> None:
        super().__init__()
        self.heads = p.heads
        self.dropout = p.attention_dropout
        self.qkv = Linear(p.dim, 3 * p.dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(p.dim))
        self.k_bias = nn.Parameter(torch.zeros(p.dim)) if p.key_bias else None
        self.v_bias = nn.Parameter(torch.zeros(p.dim))
        self.out = Linear(p.dim, p.dim)
        self.position_bias = own_bias(p)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        padding: Tensor | None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Attend within `x` (B, T, D); `mask` broadcasts to (B, heads, T, T).

        The result is (B, T, D), or (M, D) at `rows` (M,) of (B * T).
        """
        q, k, v = self._project(x)
        rate = self.dropout if self.training else 0.0
        heads = attend(q, k, v, self._added(x.shape[1], mask, padding), rate)
        found = heads.transpose(1, 2).reshape(x.shape)
        return self.out(found if rows is None else at_rows(found, rows))

    def weights(self, x: Tensor, mask: Tensor | None, padding: Tensor | None) -> Tensor:
        """Attention weights (B, heads, T, T) of each query over all keys; rows sum to one."""
        q, k, _ = self._project(x)
        single = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(*q.shape[:2], -1, -1)
        return attend(q, k, single, self._added(x.shape[1], mask, padding), 0.0)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, heads, T, d)."""
        k_bias = torch.zeros_like(self.q_bias) if self.k_bias is None else self.k_bias
        qkv = linear(x, self.qkv.weight, torch.cat([self.q_bias, k_bias, self.v_bias]))
        q, k, v = qkv.view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def _added(self, length: int, mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
        if self.position_bias is None:
            return mask
        return attention_mask(self.position_bias(length), padding)


def at_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Select the places `rows` (M,) in (B * T) from `x` (B, T, D): (M, D)."""
    return x.flatten(0, 1).index_select(0, rows)


def initialise(module: nn.Module, p: params.Init) -> None:
    """Initialise linear, convolution and embedding weights as `p` specifies; biases are zero."""
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
    """Fill one tensor from N(0, std), or from N(0, std) truncated at one std (BEiT)."""
    if p.kind == "normal":
        nn.init.normal_(weight, std=std)
    else:
        # nn.init.trunc_normal_ redraws until all values are in range: eight seconds for a Base
        # model
        inside = math.erf(math.sqrt(0.5))
        with torch.no_grad():
            weight.uniform_(-inside, inside).erfinv_().mul_(std * math.sqrt(2.0)).clamp_(-std, std)


def _scale(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else gamma * x
