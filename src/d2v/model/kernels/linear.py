"""Linear layers; on AMD's CPUs with AVX-512 they use oneDNN, a tenth faster than PyTorch's BLAS.

PyTorch's BLAS on x86 is Intel's MKL, which uses AVX-512 on Intel's processors only; oneDNN uses it
on any, but prepares its operands in every call. Measured with two threads at the shapes of the Base
models, in GFLOP/s:

    AMD EPYC              forward, oneDNN / MKL    gradient of inputs    gradient of weights
    with AVX-512          204-221 / 185-204        as much gained        little gained
    Zen 3, AVX2           128-160 / 123-164        84-138 / 130-170      95-135 / 144-176

On an Intel Xeon with AMX, a step takes 11 to 15 % longer with oneDNN. On Intel's processors, and on
those without AVX-512, products are therefore left to MKL. The choice depends on nothing else, so
that a resumed run makes the same one; D2V_PRODUCTS=onednn or blas overrides it.

The operator is the one that compiled models call (torch._inductor). If PyTorch lacks it, or a
product is small or not float32 on a CPU, `torch.nn.functional.linear` is used.
"""

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST = 10**8  # operations; below, looking up oneDNN's kernel costs as much as it saves
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def prefers_blas(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether products of linear layers are left to PyTorch's BLAS."""
    if wanted := os.environ.get("D2V_PRODUCTS"):
        return wanted == "blas"
    if not torch.backends.mkl.is_available() or not cpuinfo.exists():
        return False
    told = cpuinfo.read_text(errors="replace")
    return "GenuineIntel" in told or "avx512f" not in told


_BLAS = prefers_blas()


class Linear(nn.Linear):
    """nn.Linear whose forward pass calls `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (..., inputs) to (..., outputs)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x weight' + bias, (..., inputs) to (..., outputs), as torch.nn.functional.linear."""
    if not fits(x, 2 * x.numel() * len(weight)):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        found: Tensor = _Linear.apply(x, weight, bias)
        return found
    return product(x, weight, bias)


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute linear(gelu(x)); on a CPU, the backward pass recomputes gelu(x) to save memory."""
    if torch.is_grad_enabled() and fits(x, 2 * x.numel() * len(weight)):
        found: Tensor = _GeluLinear.apply(x, weight, bias)
        return found
    return linear(F.gelu(x), weight, bias)


def fits(x: Tensor, operations: int) -> bool:
    """Whether `product` supports `x` and is worthwhile for that many `operations`."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and operations >= LEAST
        and _ONEDNN
        and not torch.is_autocast_enabled("cpu")
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `linear` without gradients, with the faster library for this processor."""
    return F.linear(x, weight, bias) if _BLAS else onednn_product(x, weight, bias)


def onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `linear` with oneDNN, without gradients."""
    rows = x.reshape(-1, x.shape[-1])
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()  # for other strides, oneDNN falls back to plain C++ loops
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return found.view(*x.shape[:-1], len(weight))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return _gradients(ctx.needs_input_grad, grad, x, weight)


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(F.gelu(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        inner, dweight, dbias = _gradients(ctx.needs_input_grad, grad, F.gelu(x), weight)
        dx = None if inner is None else torch.ops.aten.gelu_backward(inner, x)
        return dx, dweight, dbias


def _gradients(
    needed: tuple[bool, ...], grad: Tensor, x: Tensor, weight: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, weight and bias; None where a gradient is not needed."""
    rows = grad.reshape(-1, grad.shape[-1])
    dx = product(rows, weight.t()).view(x.shape) if needed[0] else None
    dweight = product(rows.t(), x.reshape(-1, x.shape[-1]).t()) if needed[1] else None
    return dx, dweight, rows.sum(0) if needed[2] else None
