"""Fine-tuning heads: outputs, loss and predictions of classes, numbers, tags or letters."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v import params
from d2v.util.errors import UserError

Batch = dict[str, Any]


class Head(nn.Module):
    """What a task needs on top of the student."""

    counted: tuple[str, ...] = ()  # names of `counts`

    def forward(self, x: Tensor, prefix: int, padding: Tensor | None) -> Tensor:
        """Map outputs `x` (B, P + T, D), P = prefix, and padding (B, T) to the head's outputs."""
        raise NotImplementedError

    def loss(self, outputs: Tensor, padding: Tensor | None, batch: Batch) -> Tensor:
        """Loss of the head's outputs, summed over the examples."""
        raise NotImplementedError

    def counts(self, outputs: Tensor, padding: Tensor | None, batch: Batch) -> dict[str, Tensor]:
        """Further numbers of a batch to log, which are summed."""
        return {}

    def predictions(self, outputs: Tensor, padding: Tensor | None) -> list[dict[str, Any]]:
        """One entry per example."""
        raise NotImplementedError


def build(
    p: params.Task, dim: int, outputs: int, norm_eps: float = 1e-5, length: int | None = None
) -> Head:
    """The head for the task `p`, with `outputs` logits; `norm_eps` as in the backbone.

    `length` is the number of positions of every example, which pooling `all` needs.
    """
    match p:
        case params.CTC():
            return LetterHead(p, dim, outputs)
        case params.Tag():
            return TagHead(p, dim, outputs)
        case params.Regress():
            return NumberHead(p, dim, outputs, norm_eps)
        case params.Classify():
            return ClassHead(p, dim, outputs, norm_eps, length)


class PooledHead(Head):
    """Pool the outputs of an example into one vector, then compute logits.

    Pooling, optional LayerNorm (BEiT's fc_norm), optional dense + tanh (RoBERTa), linear.
    """

    def __init__(
        self,
        p: params.Classify | params.Regress,
        dim: int,
        outputs: int,
        norm_eps: float,
        length: int | None = None,
    ) -> None:
        super().__init__()
        self.pool = p.pool
        width = dim * pooled_vectors(p.pool, length)
        self.norm = nn.LayerNorm(width, eps=norm_eps) if p.norm else nn.Identity()
        self.dense = nn.Linear(width, width) if p.hidden else None
        self.out = nn.Linear(width, outputs)
        self.dropout = p.dropout

    def forward(self, x: Tensor, prefix: int, padding: Tensor | None) -> Tensor:
        """Map outputs `x` (B, P + T, D), P = prefix, and padding (B, T) to logits (B, outputs)."""
        pooled = self.norm(pool(x, self.pool, prefix, padding))
        if self.dense is not None:
            pooled = F.dropout(pooled, self.dropout, self.training)
            pooled = torch.tanh(self.dense(pooled))
        return self.out(F.dropout(pooled, self.dropout, self.training))


class ClassHead(PooledHead):
    """One class per example."""

    def __init__(
        self, p: params.Classify, dim: int, outputs: int, norm_eps: float, length: int | None = None
    ) -> None:
        super().__init__(p, dim, outputs, norm_eps, length)
        self.smoothing = p.label_smoothing
        if p.init_scale != 1:
            for parameter in self.out.parameters():
                parameter.data.mul_(p.init_scale)

    def loss(self, outputs: Tensor, padding: Tensor | None, batch: Batch) -> Tensor:
        """Cross-entropy of logits (B, C)."""
        return class_loss(outputs.float(), batch["labels"], self.smoothing)

    def predictions(self, outputs: Tensor, padding: Tensor | None) -> list[dict[str, Any]]:
        """A class and the scores of all classes (C,)."""
        scores = outputs.float().softmax(-1)
        return [
            {"prediction": int(best), "scores": row.tolist()}
            for best, row in zip(scores.argmax(-1), scores, strict=True)
        ]


class NumberHead(PooledHead):
    """One number per example."""

    def __init__(self, p: params.Regress, dim: int, outputs: int, norm_eps: float) -> None:
        super().__init__(p, dim, outputs, norm_eps)
        self.scale = p.scale

    def loss(self, outputs: Tensor, padding: Tensor | None, batch: Batch) -> Tensor:
        """Squared error of outputs (B, 1), which predict labels (B,) divided by `scale`."""
        target = batch["labels"] / self.scale
        return F.mse_loss(outputs.squeeze(-1).float(), target.float(), reduction="sum")

    def predictions(self, outputs: Tensor, padding: Tensor | None) -> list[dict[str, Any]]:
        """A number in the labels' unit."""
        return [{"prediction": value} for value in (outputs.squeeze(-1) * self.scale).tolist()]


class TagHead(Head):
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

    def loss(self, outputs: Tensor, padding: Tensor | None, batch: Batch) -> Tensor:
        """Binary cross-entropy of log-probabilities (B, C)."""
        return tag_loss(outputs, batch["labels"])

    def predictions(self, outputs: Tensor, padding: Tensor | None) -> list[dict[str, Any]]:
        """The probabilities of all classes (C,)."""
        return [{"probabilities": row.tolist()} for row in outputs.exp().cpu()]


class LetterHead(Head):
    """Log-probabilities of letters for every frame (wav2vec 2.0 fine-tuning)."""

    counted = ("unaligned",)

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

    def loss(self, outputs: Tensor, padding: Tensor | None, batch: Batch) -> Tensor:
        """CTC loss of log-probabilities (B, T, letters)."""
        return ctc_loss(outputs, padding, batch)

    def counts(self, outputs: Tensor, padding: Tensor | None, batch: Batch) -> dict[str, Tensor]:
        """How many examples cannot be aligned."""
        return {"unaligned": unaligned(outputs, padding, batch)}

    def predictions(self, outputs: Tensor, padding: Tensor | None) -> list[dict[str, Any]]:
        """Log-probabilities (T, letters) of the frames that are not padding."""
        lengths = frame_lengths(outputs, padding).tolist()
        return [
            {"logits": row[:length].cpu()} for row, length in zip(outputs, lengths, strict=True)
        ]


def pooled_vectors(kind: str, length: int | None) -> int:
    """How many vectors of width D an example is pooled to; raises UserError for an unknown one."""
    if kind == "all":
        if length is None:
            raise UserError("task.pool all: examples of this encoder differ in length; use mean")
        return length
    return 2 if kind == "mean_max" else 1


def pool(x: Tensor, kind: str, prefix: int, padding: Tensor | None) -> Tensor:
    """Pool `x` (B, P + T, D) to (B, F), ignoring padded positions.

    F is D, 2D for mean_max, and TD for all.
    """
    if kind == "first":
        return x[:, 0]
    x = x[:, prefix:]
    if kind == "all":
        return x.flatten(1)
    if padding is None:
        mean, highest = x.mean(1), x.amax(1)
    else:
        hidden = padding.unsqueeze(-1)
        mean = x.masked_fill(hidden, 0.0).sum(1) / (~hidden).sum(1)
        highest = x.masked_fill(hidden, float("-inf")).amax(1)
    return mean if kind == "mean" else torch.cat([mean, highest], dim=-1)


def class_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Summed cross-entropy of logits (B, C) against classes (B,) or soft targets (B, C).

    Soft targets come from mixed examples. They are smoothed during mixing, so not again here.
    """
    if labels.is_floating_point():
        return F.cross_entropy(logits, labels, reduction="sum")
    return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)


def tag_loss(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy, summed over all of (B, C); labels (B, C) lie between 0 and 1."""
    log_probs = log_probs.clamp(max=-1e-7)  # keeps the logarithm of 1 - p finite
    absent = torch.log(-torch.expm1(log_probs))
    return -(labels * log_probs + (1 - labels) * absent).sum()


def ctc_loss(log_probs: Tensor, padding: Tensor | None, batch: Batch) -> Tensor:
    """Summed CTC loss of log-probabilities (B, T, letters); impossible alignments count as zero."""
    return F.ctc_loss(
        log_probs.transpose(0, 1),
        batch["letters"],
        frame_lengths(log_probs, padding),
        batch["letter_counts"],
        reduction="sum",
        zero_infinity=True,
    )


def unaligned(log_probs: Tensor, padding: Tensor | None, batch: Batch) -> Tensor:
    """Number of examples without a possible alignment.

    CTC needs one frame per letter, plus one blank frame per repeated letter.
    """
    letters, counts = batch["letters"], batch["letter_counts"]
    place = torch.arange(1, letters.shape[1], device=letters.device)
    repeats = (letters[:, 1:] == letters[:, :-1]) & (place < counts[:, None])
    return (counts + repeats.sum(1) > frame_lengths(log_probs, padding)).sum()


def frame_lengths(x: Tensor, padding: Tensor | None) -> Tensor:
    """Number of unpadded frames (B,) of `x` (B, T, ...)."""
    if padding is None:
        return torch.full((x.shape[0],), x.shape[1], device=x.device)
    return (~padding).sum(1)
