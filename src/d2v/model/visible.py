"""Visible positions of masked copies: gather them for the student, put them back for the decoder.

An example has M copies with different masks, in R = B * M rows: all copies of the first example,
then all of the second, and so on. Each row has V visible positions `visible` (R, V), in order.
"""

import torch
from torch import Tensor


def gathered(x: Tensor, visible: Tensor) -> Tensor:
    """Features (R, V, D) of the visible positions, from `x` (B, T, D) or (R, T, D)."""
    rows, count = visible.shape
    return x.flatten(0, 1).index_select(0, _places(x, visible)).view(rows, count, -1)


def gathered_flags(flags: Tensor, visible: Tensor) -> Tensor:
    """Flags (R, V) of the visible positions, from `flags` (B, T) or (R, T)."""
    return flags.flatten().index_select(0, _places(flags, visible)).view(visible.shape)


def hidden_of(visible: Tensor, length: int) -> Tensor:
    """True (R, T) at positions that are not visible, T = length."""
    hidden = torch.ones(len(visible), length, dtype=torch.bool, device=visible.device)
    return hidden.scatter_(1, visible, False)


def restored(x: Tensor, visible: Tensor, length: int, noise: float | None) -> Tensor:
    """Put `x` (R, V, D) back to its positions in (R, T, D), T = length.

    The other positions hold noise from N(0, noise), or zeros if `noise` is None.
    """
    whole = x.new_zeros(len(x), length, x.shape[2])
    if noise is not None:
        whole.normal_(0.0, noise)
    return whole.scatter(1, visible.unsqueeze(-1).expand_as(x), x)


def of_examples(masked: Tensor, length: int, copies: int) -> Tensor:
    """Map places (M,) in (R * T), T = length, to places in (B * T), for R = B * copies rows."""
    row, position = masked // length, masked % length
    return row // copies * length + position


def _places(x: Tensor, visible: Tensor) -> Tensor:
    """Places (R * V,) in the flattened first two dimensions of `x` (B, T, ...) or (R, T, ...)."""
    examples, length = x.shape[:2]
    row = torch.arange(len(visible), device=visible.device) // (len(visible) // examples)
    return (visible + row.unsqueeze(1) * length).flatten()
