"""Convolutions over time as matrix products over windows, channels last.

They compute the same as Conv1d and are several times faster on a CPU, where Conv1d needs a
transpose around each LayerNorm. A kernel of k taps and stride s is cut into groups of s taps. The
frames of one group are contiguous in memory, so each group is one product over a view, and no
windows are copied.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from d2v.model.kernels.linear import fits, onednn_product, product

PORTION = 1024  # frames processed at a time, so that they fit into the cache
Runs = list[tuple[int, int]]  # runs of consecutive frames: first, last + 1


class WindowConv(nn.Module):
    """Conv1d without bias or padding, on channels-last input."""

    def __init__(self, before: int, after: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.weight = nn.Parameter(torch.empty(after, before, kernel))
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor, needed: list[Runs] | None = None) -> Tensor:
        """Map `x` (B, T, C) to (B, (T - kernel) // stride + 1, C').

        `needed` lists, for each example, the output frames whose gradient is not zero; None means
        all frames.
        """
        if torch.compiler.is_exporting():  # the groups' sizes would tie the program to some lengths
            return F.conv1d(x.transpose(1, 2), self.weight, stride=self.stride).transpose(1, 2)
        length, channels = x.shape[1:]
        frames = (length - self.kernel) // self.stride + 1
        # windows of one channel overlap in memory, so gradients cannot be accumulated in place
        if (channels > 1 or not x.requires_grad) and fits(x, 2 * x[0].numel() * len(self.weight)):
            found: Tensor = _Windows.apply(x, self.weight, self.stride, needed)
            return found
        if channels == 1:
            windows = x.squeeze(-1).unfold(1, self.kernel, self.stride)
            return F.linear(windows, self.weight.squeeze(1))
        out: Tensor | None = None
        for first, weight in _groups(self.weight, self.stride):
            taps = weight.shape[1] // channels
            part = F.linear(self._group(x, first, taps, frames), weight)
            out = part if out is None else out + part
        assert out is not None
        return out

    def reached(self, needed: Runs) -> Runs:
        """Input frames from which the output frames `needed` are computed."""
        found: Runs = []
        for first, end in needed:
            first, end = first * self.stride, (end - 1) * self.stride + self.kernel
            if found and first <= found[-1][1]:
                first = found.pop()[0]
            found.append((first, end))
        return found

    def _group(self, x: Tensor, first: int, taps: int, frames: int) -> Tensor:
        """Taps first .. first + taps - 1 of every window: (B, frames, taps * C)."""
        batch, _, channels = x.shape
        if taps == 1:
            return x[:, first : first + (frames - 1) * self.stride + 1 : self.stride]
        span = x[:, first : first + frames * self.stride]
        if span.shape[1] < frames * self.stride:
            # the input ends before the group of the last window is complete
            span = F.pad(span, (0, 0, 0, frames * self.stride - span.shape[1]))
        return span.reshape(batch, frames, self.stride * channels)[..., : taps * channels]


class _Windows(torch.autograd.Function):
    """WindowConv on a CPU: products accumulate in place, over the needed frames only."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: int, needed: list[Runs] | None
    ) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.needed = stride, needed
        outputs = []
        for example in x:
            out: Tensor | None = None
            for first, matrix in _groups(weight, stride):
                part = _part(example, weight, stride, first, matrix)
                out = product(part, matrix) if out is None else out.addmm_(part, matrix.t())
            assert out is not None
            outputs.append(out)
        return outputs[0].unsqueeze(0) if len(outputs) == 1 else torch.stack(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needed = ctx.needed or [[(0, grad.shape[1])]] * len(x)
        groups = list(_groups(weight, ctx.stride))
        dgroups = [torch.zeros_like(matrix) for _, matrix in groups]
        dx = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        for n, (example, out, runs) in enumerate(zip(x, grad.contiguous(), needed, strict=True)):
            if not runs:
                continue
            out = _gathered(out, runs)
            for (first, matrix), dmatrix in zip(groups, dgroups, strict=True):
                part = _part(example, weight, ctx.stride, first, matrix)
                part = _gathered(part, runs)
                if dx is None:  # the first layer, whose windows of samples have few columns
                    dmatrix += onednn_product(part.t(), out.t()).t()
                    continue
                dmatrix.addmm_(out.t(), part)
                dpart = _part(dx[n], weight, ctx.stride, first, matrix)
                pieces = product(out, matrix.t()).split([end - start for start, end in runs])
                for (start, end), piece in zip(runs, pieces, strict=True):
                    dpart[start:end] += piece
        channels = x.shape[2]
        dweight = [d.view(len(d), -1, channels).transpose(1, 2) for d in dgroups]
        return dx, torch.cat(dweight, dim=2), None, None


def norm_gelu(x: Tensor, norm: nn.LayerNorm, needed: list[Runs] | None = None) -> Tensor:
    """Compute gelu(norm(x)) of `x` (B, T, C); `needed` is as for WindowConv.

    On a CPU, only `x` is kept for the backward pass, which works in portions that fit into the
    cache.
    """
    if not fits(x, 100 * x.numel()):  # about 100 operations per element
        return F.gelu(norm(x))
    found: Tensor = _NormGelu.apply(x, norm.weight, norm.bias, norm.eps, needed)
    return found


class _NormGelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, needed: list[Runs] | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.eps, ctx.needed = eps, needed
        return F.gelu(F.layer_norm(x, x.shape[-1:], weight, bias, eps))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        needed = ctx.needed or [[(0, grad.shape[1])]] * len(x)
        dx, dweight, dbias = torch.zeros_like(x), torch.zeros_like(weight), torch.zeros_like(bias)
        for example, out, into, runs in zip(x, grad, dx, needed, strict=True):
            for first, end in runs:
                for start in range(first, end, PORTION):
                    at = slice(start, min(start + PORTION, end))
                    shape = x.shape[-1:]
                    normed, mean, scale = torch.native_layer_norm(
                        example[at], shape, weight, bias, ctx.eps
                    )
                    inner = torch.ops.aten.gelu_backward(out[at], normed)
                    into[at], dw, db = torch.ops.aten.native_layer_norm_backward(
                        inner, example[at], shape, mean, scale, weight, bias, [True] * 3
                    )
                    dweight += dw
                    dbias += db
        return dx, dweight, dbias, None, None


def _gathered(x: Tensor, runs: Runs) -> Tensor:
    """Rows of `x` in all runs, concatenated."""
    pieces = [x[start:end] for start, end in runs]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _groups(weight: Tensor, stride: int) -> Iterator[tuple[int, Tensor]]:
    """First tap of each group, and the group's part of `weight` (C', C, k) as (C', taps * C).

    With one input channel (samples), a single group has all taps: such windows are small enough to
    be copied.
    """
    taps = stride if weight.shape[1] > 1 else weight.shape[2]
    for first in range(0, weight.shape[2], taps):
        yield first, weight[:, :, first : first + taps].transpose(1, 2).flatten(1).contiguous()


def _part(x: Tensor, weight: Tensor, stride: int, first: int, matrix: Tensor) -> Tensor:
    """A group's taps of every window of one example (T, C): (frames, taps * C).

    The result is a view, except with one channel.
    """
    length, channels = x.shape
    frames = (length - weight.shape[2]) // stride + 1
    shape = (frames, matrix.shape[1])
    part = x.as_strided(shape, (stride * channels, 1), x.storage_offset() + first * channels)
    return part if channels > 1 else part.contiguous()


def visible(mask: Tensor) -> list[Runs]:
    """Runs of frames that are not masked, for each row of `mask` (B, T), which is on the CPU."""
    edges = np.diff(~mask.numpy(), axis=1, prepend=False, append=False)
    return [[(a, b) for a, b in np.flatnonzero(row).reshape(-1, 2).tolist()] for row in edges]


def chain(convs: Iterable[nn.Module], needed: list[Runs]) -> list[list[Runs]]:
    """Frames needed of each convolution's output, given those `needed` of the last output."""
    found = [needed]
    for conv in reversed([*convs][1:]):
        assert isinstance(conv, WindowConv)
        found.append([conv.reached(runs) for runs in found[-1]])
    return found[::-1]
