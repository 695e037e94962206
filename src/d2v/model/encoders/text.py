"""Sub-word tokens to embeddings with learned positions (paper 4.3; RoBERTa)."""

import torch
from torch import Tensor, nn

from d2v import params
from d2v.model.encoders.base import Batch, Encoder, Features, extra_tokens, with_tokens
from d2v.model.kernels.dropout import dropout
from d2v.model.transformer import initialise

PAD = 1


class TextEncoder(Encoder):
    """Text encoder: token embedding, optional learned positions, LayerNorm."""

    def __init__(self, p: params.TokenEncoder, backbone: params.Backbone) -> None:
        super().__init__()
        dim = backbone.dim
        self.teacher_input = p.teacher_input
        self.features = nn.Embedding(p.vocab_size, dim, padding_idx=PAD)
        self.positions = None
        if p.absolute_positions:
            # positions count real tokens from PAD + 1, as fairseq's learned positions do
            self.positions = nn.Embedding(p.max_positions + PAD + 1, dim, padding_idx=PAD)
        self.norm = nn.LayerNorm(dim, eps=backbone.norm_eps)
        self.dropout = p.dropout
        initialise(self, backbone.init)
        self.prefix, self.cls = p.extra_tokens, extra_tokens(p.extra_tokens, dim)
        self.input_norm = None
        if p.input_norm:
            self.input_norm = nn.LayerNorm(dim, eps=backbone.norm_eps)

    def local_features(self, batch: Batch) -> Features:
        """Embed the uncorrupted `tokens` (B, T) as (B, T, D), with padding (B, T)."""
        tokens = batch["tokens"]
        if self.teacher_input == "masked_only" and "mask" in batch:
            tokens = torch.where(batch["mask"], tokens, PAD)
        return self.features(tokens), tokens == PAD

    def example(self, size: int) -> Batch:
        """One text without values: `tokens` (1, size) on the meta device."""
        return {"tokens": torch.empty(1, size, dtype=torch.int64, device="meta")}

    def mask_features(self, x: Tensor, padding: Tensor | None, batch: Batch) -> Features:
        """Embed `masked_tokens` (B, T), which hold the mask token at masked positions."""
        tokens = batch["masked_tokens"]
        return self.features(tokens), tokens == PAD

    def placed(self, x: Tensor, padding: Tensor | None) -> Features:
        """Add positions, normalise and zero the padding: (B, T, D)."""
        assert padding is not None  # local_features and mask_features always return it
        if self.positions is not None:
            x = x + self.positions(position_ids(padding))
        x = dropout(self.norm(x), self.dropout, self.training)
        return x.masked_fill(padding.unsqueeze(-1), 0.0), padding

    def enter(self, x: Tensor, padding: Tensor | None) -> Features:
        """Prepend the extra tokens and normalise, if the parameters ask for it: (B, P + T, D)."""
        x, padding = with_tokens(self.cls, x, padding)
        return x if self.input_norm is None else self.input_norm(x), padding


def position_ids(padding: Tensor) -> Tensor:
    """Position ids (B, T): PAD plus the running count of real tokens; PAD at padding."""
    real = (~padding).long()
    return real.cumsum(1) * real + PAD
