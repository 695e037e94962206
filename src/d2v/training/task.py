"""Training tasks: modules whose forward returns a loss and what to log.

The trainer knows nothing else about them. It follows the gradient of the summed losses divided by
the summed counts, over all micro-batches and processes of an optimiser step.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v import params
from d2v.model import ema, heads
from d2v.model.data2vec import Data2Vec, Student
from d2v.model.encoders import Freeze
from d2v.model.running_stats import channel_std, moments
from d2v.util.errors import Collapse

SPREAD = ("target", "prediction", "encoder")  # tensors whose standard deviations are logged


class Named(NamedTuple):
    """A parameter and its depth: 0 encoder, 1 ... L blocks, L + 1 everything after the blocks.

    A table of position biases that all blocks share counts as coming after them (BEiT).
    """

    name: str
    parameter: nn.Parameter
    depth: int
    scale: float = 1.0  # factor of the learning rate, on top of layer decay


class Task(nn.Module):
    """Base class of all tasks."""

    def named_groups(self) -> list[Named]:
        """Trainable parameters with their depth, for weight decay and layer decay."""
        return [
            Named(name, parameter, self._depth(name))
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        ]

    def summary(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """Numbers to log for an optimiser step.

        `sums` are the outputs of forward, summed over all micro-batches and processes.
        """
        return {"loss": sums["loss"] / sums["count"].clamp(min=1)}

    def after_step(self, step: int) -> dict[str, float]:
        """Act after the `step`-th optimiser step (1, 2, ...); return what to log."""
        return {}

    def check(self, step: int, logs: dict[str, float]) -> None:
        """Raise an error if the run has gone wrong."""

    def _depth(self, name: str) -> int:
        parts = name.split(".")
        if "student" not in parts:
            return self._blocks() + 1
        parts = parts[parts.index("student") + 1 :]
        if parts[0] == "encoder":
            return 0
        return int(parts[2]) + 1 if parts[1] == "blocks" else self._blocks() + 1

    def _blocks(self) -> int:
        return len(self.backbone().blocks)  # type: ignore[arg-type]

    def backbone(self) -> nn.Module:
        """The Transformer that is trained."""
        raise NotImplementedError

    def recompute(self) -> None:
        """Recompute the blocks' activations in the backward pass instead of keeping them."""
        self.backbone().recompute = True  # type: ignore[assignment]


class Pretraining(Task):
    """Pre-training: predict the targets at masked positions (paper 3.4).

    Values are predicted by regression, classes with cross-entropy.
    """

    def __init__(self, p: params.Pretrain) -> None:
        super().__init__()
        self.loss, self.ema, self.collapse = p.loss, p.ema, p.collapse
        self.classes = isinstance(p.target, params.InputTarget) and p.target.classes
        self.model = Data2Vec(p)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Summed loss, count of masked positions, and moments at these positions.

        The moments are those of the targets, the predictions and the student's last outputs.
        `weight` (M,) in the batch is 0 at positions of `masked` that do not count.
        """
        out, weight = self.model(batch), batch.get("weight")
        prediction, target = out.prediction.float(), out.target
        if self.classes:
            loss = unit_loss(prediction, target, weight)
        else:
            loss = regression_loss(prediction, target, self.loss, weight)
        if out.class_prediction is not None and out.class_target is not None:
            loss = loss + class_token_loss(
                out.class_prediction.float(), out.class_target, batch["mask"].sum(1), self.loss
            )
        with torch.no_grad():
            found = {
                "prediction": moments(prediction, weight),
                "encoder": moments(out.encoder_output, None if "visible" in batch else weight),
            }
            if self.classes:
                hits = prediction.argmax(-1) == target
                found["hits"] = (hits if weight is None else hits * weight).sum()
            else:
                found = {"target": moments(target, weight), **found}
            if weight is None:
                count = torch.full((), len(target), device=loss.device)
            else:
                count = weight.sum()
        return {"loss": loss, "count": count, **found}

    def summary(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss, and the standard deviations of the SPREAD tensors over the global batch.

        Classes have no deviation; the share that is predicted correctly takes its place.
        """
        found = {f"{name}_std": channel_std(sums[name]) for name in SPREAD if name in sums}
        if "hits" in sums:
            found["target_hits"] = sums["hits"] / sums["count"].clamp(min=1)
        return {**super().summary(sums), **found}

    def after_step(self, step: int) -> dict[str, float]:
        """Update the teacher, if there is one, after the optimiser step (as the reference does)."""
        if self.model.teacher is None:
            return {}
        rate = self.decay(step)
        self.model.update_teacher(rate)
        return {"ema_decay": rate}

    def decay(self, step: int) -> float:
        """Decay of the moving average after the `step`-th optimiser step."""
        return ema.decay(self.ema, step)

    def check(self, step: int, logs: dict[str, float]) -> None:
        """Raise Collapse when targets or predictions hardly vary any longer."""
        if step <= self.collapse.after:
            return
        for name in ("target_std", "prediction_std"):
            least = getattr(self.collapse, name)
            if logs.get(name, math.inf) < least:
                raise Collapse(
                    f"step {step}: {name} {logs[name]:.4f} is below collapse.{name} {least}:"
                    " representations have collapsed; try a lower optimiser.lr, a longer warm-up,"
                    " a higher ema.start, or target.layer_norm (paper section 6)"
                )

    def backbone(self) -> nn.Module:
        """The student's Transformer."""
        return self.model.student.backbone


class Finetuning(Task):
    """Fine-tuning: a labelled task on top of the student."""

    def __init__(
        self, p: params.Finetune, student: Student, dim: int, outputs: int, freeze: Freeze = False
    ) -> None:
        super().__init__()
        self.p = p.task
        self.freeze_steps = p.freeze_steps
        self.frozen = p.freeze_steps > 0
        self.student = student
        self.head = heads.build(
            p.task, dim, outputs, student.backbone.norm_eps, student.encoder.length
        )
        if freeze:
            self.student.encoder.freeze(freeze)

    def named_groups(self) -> list[Named]:
        """Trainable parameters as in `Task`; the head may have its own learning rate."""
        scale = getattr(self.p, "head_lr_scale", 1.0)
        return [
            entry._replace(scale=scale) if entry.name.startswith("head.") else entry
            for entry in super().named_groups()
        ]

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Summed loss and number of examples; with CTC, also how many cannot be aligned."""
        outputs, padding = self._outputs(batch)
        count = torch.full((), len(outputs), device=outputs.device)
        return {"loss": self.head.loss(outputs, padding, batch), "count": count} | (
            self.head.counts(outputs, padding, batch)
        )

    def summary(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss and, with CTC, the number of examples whose letters do not fit their frames."""
        more = {name: sums[name] for name in self.head.counted if name in sums}
        return {**super().summary(sums), **more}

    @torch.inference_mode()
    def predict(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One entry per example, whose content depends on the task.

        Classification gives a class and the scores of all classes (C,), regression a number,
        tagging the probabilities of all classes (C,), and CTC log-probabilities (T, letters).
        """
        return self.head.predictions(*self._outputs(batch))

    def freeze(self, step: int) -> None:
        """Train only the head during the first freeze_steps optimiser steps."""
        self.frozen = step < self.freeze_steps

    def backbone(self) -> nn.Module:
        """The student's Transformer."""
        return self.student.backbone

    def _outputs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            output, padding = self.student(batch)
        return self.head(output.x, self.student.encoder.prefix, padding), padding


def regression_loss(
    prediction: Tensor, target: Tensor, p: params.Loss, weight: Tensor | None = None
) -> Tensor:
    """Loss summed over the M masked positions, each reduced over its D channels (p.reduction).

    `weight` (M,) multiplies the losses of positions.
    """
    reduction = "sum" if weight is None else "none"
    if p.beta == 0:
        loss = F.mse_loss(prediction, target, reduction=reduction)
    else:
        loss = F.smooth_l1_loss(prediction, target, reduction=reduction, beta=p.beta)
    if weight is not None:
        loss = (loss.sum(-1) * weight).sum()
    return loss * channel_scale(prediction, p)


def unit_loss(scores: Tensor, classes: Tensor, weight: Tensor | None) -> Tensor:
    """Cross-entropy of scores (M, C) against classes (M,), summed over the masked positions."""
    if weight is None:
        return F.cross_entropy(scores, classes, reduction="sum")
    return (F.cross_entropy(scores, classes, reduction="none") * weight).sum()


def class_token_loss(prediction: Tensor, target: Tensor, hidden: Tensor, p: params.Loss) -> Tensor:
    """Summed loss of R extra tokens, (R, D) each, of rows with `hidden` (R,) masked positions.

    Each token counts as much as p.class_weight times all masked positions of its row. The quotient
    of summed losses and counts thus depends on neither micro-batches nor processes (params.Loss).
    """
    if p.beta == 0:
        loss = (prediction - target).square()
    else:
        loss = F.smooth_l1_loss(prediction, target, reduction="none", beta=p.beta)
    return p.class_weight * channel_scale(loss, p) * (loss.sum(1) * hidden).sum()


def channel_scale(x: Tensor, p: params.Loss) -> float:
    """Factor that turns a sum over the channels (..., D) into the reduction that `p` asks for."""
    channels: int = x.shape[-1]
    return {"sum": 1.0, "sum_sqrt_dim": channels**-0.5, "mean": 1 / channels}[p.reduction]
