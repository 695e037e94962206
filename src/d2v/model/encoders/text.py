"""Sub-word tokens to embeddings with learned positions (paper 4.3; RoBERTa)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v import params
from d2v.model.encoders.base import (
    Batch,
    Encoder,
    Features,
    InputTargets,
    extra_tokens,
    with_tokens,
)
from d2v.model.kernels.dropout import dropout
from d2v.model.transformer import initialise

PAD = 1


class TextEncoder(Encoder):
    """Text encoder: token embedding, optional learned positions, LayerNorm."""

    def __init__(self, p: params.TokenEncoder, backbone: params.Backbone) -> None:
        super().__init__()
        self.dim = dim = backbone.dim
        self.teacher_input, self.vocab_size = p.teacher_input, p.vocab_size
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

    def input_targets(self, p: params.InputTarget) -> InputTargets:
        """The tokens themselves."""
        return Tokens(self.vocab_size)

    def input_head(self, outputs: int) -> nn.Module:
        """RoBERTa's head, whose output weights are the token embeddings."""
        return TokenHead(self.dim, outputs, self.norm.eps)

    def predict_input(self, head: nn.Module, x: Tensor) -> Tensor:
        """Scores (M, tokens) of the student's outputs `x` (M, D)."""
        assert isinstance(head, TokenHead)
        assert isinstance(self.features, nn.Embedding)
        return F.linear(head(x), self.features.weight, head.bias)

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


class Tokens(InputTargets):
    """The token at each position, as a class (masked language modelling)."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.outputs = tokens

    def forward(self, batch: Batch) -> Tensor:
        """Tokens (B, T) before masking."""
        return batch["tokens"]


class TokenHead(nn.Module):
    """RoBERTa's head without its output weights: linear, GELU, LayerNorm, and a bias per token."""

    def __init__(self, dim: int, tokens: int, norm_eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.bias = nn.Parameter(torch.zeros(tokens))

    def forward(self, x: Tensor) -> Tensor:
        """Map outputs (M, D) to the space of the token embeddings (M, D)."""
        return self.norm(F.gelu(self.dense(x)))


def position_ids(padding: Tensor) -> Tensor:
    """Position ids (B, T): PAD plus the running count of real tokens; PAD at padding."""
    real = (~padding).long()
    return real.cumsum(1) * real + PAD
