"""Attention: PyTorch's fused kernels, and a CPU version with dropout, which those lack.

With dropout, PyTorch's CPU attention builds eight tensors of (B, heads, T, T) and keeps three for
the backward pass. This version processes a few heads at a time, so that they fit into the cache,
and keeps two tensors: the probabilities and the dropout mask, one byte per element.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2v.model.kernels.dropout import kept, own

HEADS = 4  # heads processed at a time
ALIGNED = 8  # elements: 16 bytes of bfloat16 (PyTorch's memory-efficient attention)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Compute softmax(q k' / sqrt(d) + mask) v, with `dropout` of the probabilities.

    `q`, `k`, `v` and the result are (B, H, T, d). `mask` broadcasts to (B, H, T, T) and holds
    numbers to add, or booleans that are True where a query may see a key.
    """
    if mask is not None and mask.dtype not in (torch.bool, q.dtype):
        mask = mask.to(q.dtype)
    if dropout == 0.0 or not own(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    if mask is not None and mask.dtype == torch.bool:
        mask = q.new_zeros(mask.shape).masked_fill(~mask, float("-inf"))
    found: Tensor = _Attention.apply(q, k, v, mask, dropout)
    return found


def laid_out(bias: Tensor) -> Tensor:
    """Lay out an additive bias (..., T, T) for the kernels of all blocks; its last stride is 1.

    PyTorch's fused attention on a GPU rejects masks whose last stride is not 1. It also wants rows
    that start at multiples of ALIGNED numbers and copies any other mask in every block, so on a GPU
    rows are laid out that way here, in the type in which attention computes.
    """
    if bias.device.type == "cpu":
        return bias.contiguous()
    if torch.is_autocast_enabled("cuda"):
        bias = bias.to(torch.get_autocast_dtype("cuda"))
    length = bias.shape[-1]
    return F.pad(bias, (0, -length % ALIGNED))[..., :length]


def takes_plain_kernel(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float
) -> bool:
    """Whether a GPU computes `attend` without a fused kernel: several times slower, in float32.

    Arguments are those of `attend`. PyTorch chooses by type, shape and strides, without a word.
    """
    cuda = torch.backends.cuda
    p = cuda.SDPAParams(q, k, v, mask, dropout, False, False)
    kernels = (cuda.can_use_flash_attention, cuda.can_use_efficient_attention,
               cuda.can_use_cudnn_attention)  # fmt: skip
    return not any(fits(p) for fits in kernels)


class _Attention(torch.autograd.Function):
    """`attend` with dropout, in steps over examples and groups of heads."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float
    ) -> Tensor:
        batch, heads, length, width = q.shape
        shape = (batch, heads, length, k.shape[2])
        probabilities = q.new_empty(shape)
        seen = torch.empty(shape, dtype=torch.int8)
        out = q.new_empty(batch, length, heads, width).transpose(1, 2)
        added = q.new_zeros(()) if mask is None else mask.detach()
        added = added.expand(shape)
        for at in _portions(batch, heads):
            scores = torch.baddbmm(
                added[at], q[at], k[at].transpose(1, 2), beta=int(mask is not None),
                alpha=width**-0.5,
            )  # fmt: skip
            p = torch.softmax(scores, -1, out=probabilities[at])
            seen[at] = kept(p.shape, dropout)
            torch.mul(p, seen[at], out=scores)
            out[at] = torch.bmm(scores, v[at]).mul_(1.0 / (1.0 - dropout))
        ctx.save_for_backward(q, k, v, probabilities, seen)
        ctx.dropout, ctx.mask_shape = dropout, None if mask is None else mask.shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, probabilities, seen = ctx.saved_tensors
        batch, heads, _, width = q.shape
        # one memory block for all three, laid out as the common projection made q, k and v
        dq, dk, dv = (g.transpose(1, 2) for g in _together(q))
        dmask = q.new_zeros(ctx.mask_shape) if ctx.needs_input_grad[3] else None
        for at in _portions(batch, heads):
            p, out = probabilities[at], grad[at] * (1.0 / (1.0 - ctx.dropout))
            dv[at] = torch.bmm((p * seen[at]).transpose(1, 2), out)
            dp = torch.bmm(out, v[at].transpose(1, 2)).mul_(seen[at])
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
            if dmask is not None:
                part = dmask[0 if len(dmask) == 1 else at[0], at[1] if dmask.shape[1] > 1 else ...]
                part += ds.sum_to_size(part.shape)
            dq[at] = torch.bmm(ds, k[at]).mul_(width**-0.5)
            dk[at] = torch.bmm(ds.transpose(1, 2), q[at]).mul_(width**-0.5)
        return dq, dk, dv, dmask, None


def _portions(batch: int, heads: int) -> list[tuple[int, slice]]:
    starts = range(0, heads, HEADS)
    return [(b, slice(first, first + HEADS)) for b in range(batch) for first in starts]


def _together(q: Tensor) -> tuple[Tensor, ...]:
    """Three uninitialised tensors (B, T, H, d), views of one (B, T, 3, H, d)."""
    batch, heads, length, width = q.shape
    return q.new_empty(batch, length, 3, heads, width).unbind(2)
