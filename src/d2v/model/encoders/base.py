"""What every encoder offers, so that the model need not know which one it holds."""

from typing import Literal

from torch import Tensor, nn

from d2v.util.errors import UserError

Batch = dict[str, Tensor]
Features = tuple[Tensor, Tensor | None]
Freeze = bool | Literal["convolutions"]  # as params.Setting.freeze


class Encoder(nn.Module):
    """Input to (B, T, D) in three steps; padding (B, T) is True where there is no input.

    Its sub-modules `features`, `positions`, `norm` and parameters `cls`, `mask_embedding` are the
    names that the teacher shares with the student or averages (params.EMA.shared).
    """

    prefix = 0  # leading positions without a target
    features: nn.Module

    def local_features(self, batch: Batch) -> Features:
        """Unmasked features (B, T, D) and padding."""
        raise NotImplementedError

    def mask_features(self, x: Tensor, padding: Tensor | None, batch: Batch) -> Features:
        """The student's view: what the batch's masks name of `x` (B, T, D) hidden."""
        raise NotImplementedError

    def freeze(self, which: Freeze) -> None:
        """Stop training `features`; raises UserError for a part that this encoder has not."""
        if isinstance(which, str):
            raise UserError(f"setting.freeze: {which}, but this encoder has none; true freezes all")
        self.features.requires_grad_(not which)

    def forward(self, x: Tensor, padding: Tensor | None) -> Features:
        """What enters the first block (B, prefix + T, D)."""
        raise NotImplementedError
