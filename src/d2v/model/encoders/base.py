"""Interface of every encoder, so that the model does not depend on the modality."""

from typing import Literal

from torch import Tensor, nn

from d2v.util.errors import UserError

Batch = dict[str, Tensor]
Features = tuple[Tensor, Tensor | None]
Freeze = bool | Literal["convolutions"]  # the values of params.Setting.freeze


class Encoder(nn.Module):
    """Map the input to (B, T, D) in three steps; padding (B, T) is True at padded positions.

    The sub-modules `features`, `positions`, `norm` and the parameters `cls`, `mask_embedding` carry
    the names by which params.EMA.shared says what the teacher shares instead of averaging.
    """

    prefix = 0  # leading positions without a target
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

    def forward(self, x: Tensor, padding: Tensor | None) -> Features:
        """Input of the first block (B, prefix + T, D), and padding."""
        raise NotImplementedError
