"""Fine-tuning heads, which predict a class, a number, tags or letters."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v import params


class PooledHead(nn.Module):
    """Pool the outputs of an example into one vector, then compute logits.

    Pooling, optional LayerNorm (BEiT's fc_norm), optional dense + tanh (RoBERTa), linear.
    """

    def __init__(
        self, p: params.Classify | params.Regress, dim: int, outputs: int, norm_eps: float
    ) -> None:
        super().__init__()
        self.pool = p.pool
        width = 2 * dim if p.pool == "mean_max" else dim
        self.norm = nn.LayerNorm(width, eps=norm_eps) if p.norm else nn.Identity()
        self.dense = nn.Linear(width, width) if p.hidden else None
        self.out = nn.Linear(width, outputs)
        self.dropout = p.dropout
        if isinstance(p, params.Classify) and p.init_scale != 1:
            for parameter in self.out.parameters():
                parameter.data.mul_(p.init_scale)

    def forward(self, x: Tensor, prefix: int, padding: Tensor | None) -> Tensor:
        """Map outputs `x` (B, P + T, D), P = prefix, and padding (B, T) to logits (B, outputs)."""
        pooled = self.norm(pool(x, self.pool, prefix, padding))
        if self.dense is not None:
            pooled = F.dropout(pooled, self.dropout, self.training)
            pooled = torch.tanh(self.dense(pooled))
        return self.out(F.dropout(pooled, self.dropout, self.training))


class TagHead(nn.Module):
    """Probability of each class in an example, pooled from its probabilities in the frames."""

    def __init__(self, p: params.Tag, dim: int, classes: int) -> None:
        super().__init__()
        self.pool, self.dropout = p.pool, p.dropout
        self.out = nn.Linear(dim, classes)

    def forward(self, x: Tensor, prefix: int, padding: Tensor | None) -> Tensor:
        """Map outputs `x` (B, P + T, D) and padding (B, T) to log-probabilities (B, classes).

        The result is float32. Linear softmax divides the sum of squared probabilities by their sum
        (paper 5.2; Wang et al. 2019).
        """
        x = F.dropout(x[:, prefix:], self.dropout, self.training)
        frames = F.logsigmoid(self.out(x).float())
        if padding is not None:
            frames = frames.masked_fill(padding.unsqueeze(-1), float("-inf"))
        total = frames.logsumexp(1)
        if self.pool == "linear_softmax":
            return (2 * frames).logsumexp(1) - total
        count = x.shape[1] if padding is None else (~padding).sum(1, keepdim=True)
        return total - torch.as_tensor(count, device=x.device).log()


class LetterHead(nn.Module):
    """Log-probabilities of letters for every frame (wav2vec 2.0 fine-tuning)."""

    def __init__(self, p: params.CTC, dim: int, letters: int) -> None:
        super().__init__()
        self.dropout = p.dropout
        self.out = nn.Linear(dim, letters)
        if p.xavier:
            nn.init.xavier_uniform_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, prefix: int, padding: Tensor | None) -> Tensor:
        """Map outputs `x` (B, P + T, D) to log-probabilities (B, T, letters), float32."""
        x = F.dropout(x[:, prefix:], self.dropout, self.training)
        return self.out(x).float().log_softmax(-1)


def pool(x: Tensor, kind: str, prefix: int, padding: Tensor | None) -> Tensor:
    """Pool `x` (B, P + T, D) to (B, D), or (B, 2D) for mean_max, ignoring padded positions."""
    if kind == "first":
        return x[:, 0]
    x = x[:, prefix:]
    if padding is None:
        mean, highest = x.mean(1), x.amax(1)
    else:
        hidden = padding.unsqueeze(-1)
        mean = x.masked_fill(hidden, 0.0).sum(1) / (~hidden).sum(1)
        highest = x.masked_fill(hidden, float("-inf")).amax(1)
    return mean if kind == "mean" else torch.cat([mean, highest], dim=-1)
