"""Interface of every encoder, so that the model does not depend on the modality."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v import params
from d2v.model.kernels.linear import Linear
from d2v.model.visible import gathered, gathered_flags
from d2v.util.errors import UserError

Batch = dict[str, Tensor]
Features = tuple[Tensor, Tensor | None]
Freeze = bool | Literal["convolutions"]  # the values of params.Setting.freeze


class InputTargets(nn.Module):
    """Targets that are computed from a batch of inputs, without trained parameters."""

    outputs: int  # values per position, or number of classes

    def forward(self, batch: Batch) -> Tensor:
        """Values (B, T, C) float32, or classes (B, T) int64, of the input without masks."""
        raise NotImplementedError


class Encoder(nn.Module):
    """Map the input to (B, T, D) in three steps; padding (B, T) is True at padded positions.

    The sub-modules `features`, `positions`, `norm`, `input_norm` and the parameters `cls`,
    `mask_embedding` carry the names by which params.EMA.shared says what the teacher shares instead
    of averaging.
    """

    prefix = 0  # leading positions without a target
    dim: int  # D
    length: int | None = None  # number of positions T of every example; None if examples differ
    features: nn.Module
    cls: nn.Parameter | None  # the leading positions (1, P, D)

    def local_features(self, batch: Batch) -> Features:
        """Unmasked features (B, T, D) and padding (B, T) or None."""
        raise NotImplementedError

    def as_weights(self, x: Tensor) -> Tensor:
        """The input `x` in the type of the weights: bfloat16 with train.precision: bfloat16."""
        return x.to(next(self.features.parameters()).dtype)

    def example(self, size: int) -> Batch:
        """One input of `size` samples or tokens (1 if all have one size), without values."""
        raise NotImplementedError

    def mask_features(self, x: Tensor, padding: Tensor | None, batch: Batch) -> Features:
        """The student's view: `x` (B, T, D), with whatever the batch's masks select hidden."""
        raise NotImplementedError

    def freeze(self, which: Freeze) -> None:
        """Stop training `features`; raises UserError for a part that this encoder lacks."""
        if isinstance(which, str):
            raise UserError(
                f"setting.freeze: {which}, but this encoder has none; use true to freeze all"
            )
        self.features.requires_grad_(not which)

    @contextmanager
    def without_padding(self) -> Iterator[None]:
        """In the block, padding does not influence other positions."""
        yield

    def input_targets(self, p: params.InputTarget) -> InputTargets:
        """The targets `p` of this encoder's input; params.targets refuses those of others."""
        raise NotImplementedError

    def input_head(self, outputs: int) -> nn.Module:
        """Head that predicts input targets from the student's outputs."""
        return Linear(self.dim, outputs)

    def predict_input(self, head: nn.Module, x: Tensor) -> Tensor:
        """Predictions (M, C) of `input_head` for the student's outputs `x` (M, D)."""
        prediction: Tensor = head(x)
        return prediction

    def forward(self, x: Tensor, padding: Tensor | None, visible: Tensor | None = None) -> Features:
        """Input of the first block (B, prefix + T, D), and padding; with `visible`, of `seen`."""
        if visible is not None:
            return self.seen(x, padding, visible)
        return self.enter(*self.placed(x, padding))

    def placed(self, x: Tensor, padding: Tensor | None) -> Features:
        """Features with positions (B, T, D), before anything is put in front, and padding."""
        raise NotImplementedError

    def enter(self, x: Tensor, padding: Tensor | None) -> Features:
        """Put extra tokens in front of `x` (B, T, D) and normalise: (B, prefix + T, D)."""
        return with_tokens(self.cls, x, padding)

    def seen(self, x: Tensor, padding: Tensor | None, visible: Tensor) -> Features:
        """Input of the first block (R, prefix + V, D) at the positions `visible` (R, V) only.

        `x` (B, T, D) are local features, of which every example has R / B differently masked copies
        (see `visible`). What does not depend on the mask is computed once per example.
        """
        x, padding = self.placed(x, padding)
        return self.enter(gathered(x, visible), flags(padding, visible))


def extra_tokens(count: int, dim: int) -> nn.Parameter | None:
    """Learned tokens (1, count, D) that are put in front; None if there are none."""
    return nn.Parameter(torch.randn(1, count, dim)) if count else None


def with_tokens(tokens: Tensor | None, x: Tensor, padding: Tensor | None) -> Features:
    """Put `tokens` (1, P, D) in front of `x` (B, T, D); they are not padding."""
    if tokens is None:
        return x, padding
    x = torch.cat([tokens.expand(x.shape[0], -1, -1), x], dim=1)
    return x, None if padding is None else F.pad(padding, (tokens.shape[1], 0))


def flags(padding: Tensor | None, visible: Tensor) -> Tensor | None:
    """Padding (R, V) of the visible positions."""
    return None if padding is None else gathered_flags(padding, visible)
