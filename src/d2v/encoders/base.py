"""What every encoder offers, so that the model need not know which one it holds."""

from torch import Tensor, nn

Batch = dict[str, Tensor]
Features = tuple[Tensor, Tensor | None]


class Encoder(nn.Module):
    """Input to (B, T, D) in three steps; padding (B, T) is True where there is no input.

    Its sub-modules `features`, `positions`, `norm` and parameters `cls`, `mask_embedding` are the
    names that the teacher shares with the student or averages (params.EMA.shared).
    """

    prefix = 0  # leading positions without a target

    def local_features(self, batch: Batch) -> Features:
        """Unmasked features (B, T, D) and padding."""
        raise NotImplementedError

    def mask_features(self, x: Tensor, padding: Tensor | None, batch: Batch) -> Features:
        """The student's view: masked positions of `x` (B, T, D) hidden."""
        raise NotImplementedError

    def forward(self, x: Tensor, padding: Tensor | None) -> Features:
        """What enters the first block (B, prefix + T, D)."""
        raise NotImplementedError
