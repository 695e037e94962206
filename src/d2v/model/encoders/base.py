"""Interface of every encoder, so that the model does not depend on the modality."""

from typing import Literal

from torch import Tensor, nn

from d2v import params
from d2v.model.kernels.linear import Linear
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

    The sub-modules `features`, `positions`, `norm` and the parameters `cls`, `mask_embedding` carry
    the names by which params.EMA.shared says what the teacher shares instead of averaging.
    """

    prefix = 0  # leading positions without a target
    dim: int  # D
    features: nn.Module

    def local_features(self, batch: Batch) -> Features:
        """Unmasked features (B, T, D) and padding (B, T) or None."""
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

    def input_targets(self, p: params.InputTarget) -> InputTargets:
        """The targets `p` of this encoder's input; params.fitting refuses those of others."""
        raise NotImplementedError

    def input_head(self, outputs: int) -> nn.Module:
        """Head that predicts input targets from the student's outputs."""
        return Linear(self.dim, outputs)

    def predict_input(self, head: nn.Module, x: Tensor) -> Tensor:
        """Predictions (M, C) of `input_head` for the student's outputs `x` (M, D)."""
        prediction: Tensor = head(x)
        return prediction

    def forward(self, x: Tensor, padding: Tensor | None) -> Features:
        """Input of the first block (B, prefix + T, D), and padding."""
        raise NotImplementedError
