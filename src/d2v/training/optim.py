"""AdamW, its parameter groups, and the learning rate as a function of completed updates."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from d2v import params
from d2v.training.adam import AdamW, FairseqAdamW
from d2v.training.task import Named, Task


def build(task: Task, p: params.Optimiser, shard: bool = False) -> torch.optim.Optimizer:
    """AdamW over the task's trainable parameters, in the groups that `groups` returns.

    It is PyTorch's AdamW, or fairseq's where `p` asks for behaviour that only fairseq's has.
    With `shard`, every process of the group keeps the moments of its share of the parameters,
    updates these parameters and sends them to the others (ZeRO, stage 1).
    """
    options: dict[str, Any] = {
        "lr": p.lr, "betas": (p.betas[0], p.betas[1]), "eps": p.eps, "fused": True,
    }  # fmt: skip
    kind: Any = AdamW
    if p.missing_gradients == "zero":
        kind = functools.partial(FairseqAdamW, eps_before_correction=p.eps_before_correction)
    if shard and dist.is_initialized():
        from torch.distributed.optim import ZeroRedundancyOptimizer  # here: slow to import

        return ZeroRedundancyOptimizer(groups(task, p), kind, **options)
    optimiser: torch.optim.Optimizer = kind(groups(task, p), **options)
    return optimiser


def update(
    optimiser: torch.optim.Optimizer, norm: Tensor, loss: Tensor, keep: bool = False
) -> None:
    """Update the parameters, unless the gradients' norm or the loss is not finite.

    Both are 0-dim tensors, and the check runs on the device: fused AdamW then changes nothing.
    Gradients are freed afterwards, or set to zero with `keep`.
    """
    inner: Any = getattr(optimiser, "optim", optimiser)
    inner.found_inf = (~(norm.isfinite() & loss.isfinite())).float()
    optimiser.step()
    optimiser.zero_grad(set_to_none=not keep)


def groups(task: Task, p: params.Optimiser) -> list[dict[str, Any]]:
    """Parameter groups of equal learning-rate `scale` and `weight_decay`, with parameter `names`.

    scale = layer_decay ** (deepest - depth), times the parameter's own scale. Parameters after the
    blocks thus learn at the full rate (BEiT). Groups have a `scale` even without layer decay, so
    code that reads it never fails (fairseq#4333).
    """
    named = task.named_groups()
    deepest = max(entry.depth for entry in named)
    embeddings = {id(m.weight) for m in task.modules() if isinstance(m, nn.Embedding)}
    found: dict[tuple[float, float], dict[str, Any]] = {}
    for entry in named:
        decayed = _is_decayed(entry, p.decay, embeddings)
        key = (
            entry.scale * (p.layer_decay or 1.0) ** (deepest - entry.depth),
            p.weight_decay if decayed else 0.0,
        )
        blank = {"params": [], "names": [], "scale": key[0], "weight_decay": key[1]}
        group = found.setdefault(key, blank)
        group["params"].append(entry.parameter)
        group["names"].append(entry.name)
    return list(found.values())


def _is_decayed(entry: Named, decay: str, embeddings: set[int]) -> bool:
    """Whether weight decay applies to a parameter (params.Optimiser.decay)."""
    name = entry.name.split(".")[-1]
    if decay == "beit":  # optim_factory.py; the mask embedding (1, 1, D) is decayed
        return entry.parameter.ndim > 1 and name not in ("bias", "cls", "positions")
    if decay == "dimensions":  # data2vec 2.0: extra tokens (1, P, D) are decayed
        return entry.parameter.ndim > 1
    if decay == "matrices":
        vector = entry.parameter.squeeze().ndim <= 1
        return not (vector or id(entry.parameter) in embeddings or name == "positions")
    return True


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group to `rate` times the group's scale."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]


def scale_and_clip(parameters: Iterable[Tensor], scale: Tensor, clip: float | None) -> Tensor:
    """Multiply all gradients by `scale` (0-dim) in place, then limit their global norm to `clip`.

    One pass over the gradients does both. Returns the scaled norm before clipping, on the device.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True) * scale
    factor = scale if clip is None else scale * (clip / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, factor)
    return norm


def schedule(p: params.Schedule, peak: float, steps: int) -> Callable[[int], float]:
    """The learning rate of the update that follows n completed ones, n = 0 ... steps - 1.

    From n = `steps` on, the rate stays at its final value.
    """
    if isinstance(p, params.TriStage):
        return _tri_stage(p, peak, steps)
    if isinstance(p, params.Cosine):
        return _cosine(p, peak, steps)
    return _polynomial(p, peak, steps)


def _tri_stage(p: params.TriStage, peak: float, steps: int) -> Callable[[int], float]:
    """Warm up from start_scale, hold, decay to end_scale (fairseq tri_stage_lr_scheduler.py)."""
    warmup, hold, decay = (round(share * steps) for share in p.phases)

    def rate(n: int) -> float:
        if n < warmup:
            return peak * (p.start_scale + (1 - p.start_scale) * n / warmup)
        if n < warmup + hold:
            return peak
        done = min((n - warmup - hold) / decay, 1.0) if decay else 1.0
        if p.decay == "exponential":
            return peak * math.exp(math.log(p.end_scale) * done)
        return peak * (1 - (1 - p.end_scale) * done)

    return rate


def _cosine(p: params.Cosine, peak: float, steps: int) -> Callable[[int], float]:
    """Warm up from zero, then follow half a cosine (fairseq cosine_lr_scheduler.py, one period).

    The warm-up ends either at the peak, which the next update repeats (BEiT utils.py,
    cosine_scheduler), or one step below it.
    """
    warmup = round(p.warmup * steps)
    rise = max(warmup - 1, 1) if p.warmup_reaches_peak else warmup
    end = p.end_scale * peak

    def rate(n: int) -> float:
        if n < warmup:
            return peak * n / rise
        done = min((n - warmup) / (steps - warmup), 1.0) if steps > warmup else 1.0
        return end + 0.5 * (peak - end) * (1 + math.cos(math.pi * done))

    return rate


def _polynomial(p: params.Polynomial, peak: float, steps: int) -> Callable[[int], float]:
    """Warm up from zero, decay as (1 - done) ** power (fairseq polynomial_decay_schedule.py)."""
    warmup = round(p.warmup * steps)

    def rate(n: int) -> float:
        if n < warmup:
            return peak * n / warmup
        left = max(1 - (n - warmup) / (steps - warmup), 0.0) if steps > warmup else 0.0
        return float(peak * left**p.power)

    return rate
