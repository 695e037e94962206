"""data2vec (paper figure 1): a student predicts its teacher's representations of the full input.

student   sees the masked input                 encoder -> backbone -> regression head
teacher   sees the full input, no gradient      EMA of the student's encoder and backbone
target    mean of the teacher's top K layers, each normalised, at the masked positions

For comparison, the target may be the input itself instead (params.InputTarget), without a teacher;
its head follows the decoder if there is one, as in MAE.

Only what the loss needs is computed: the regression head and the end of the last block run on the
masked positions only.

In data2vec 2.0 (arXiv 2212.07525), the student's blocks see the visible positions of several
differently masked copies of each example, and a decoder takes the place of the regression head. The
targets are the same, and are computed once per example.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v import params
from d2v.model import encoders
from d2v.model.decoder import Decoder
from d2v.model.ema import Teacher
from d2v.model.encoders import InputTargets
from d2v.model.kernels.linear import Linear
from d2v.model.transformer import Kept, Output, Transformer, at_rows, initialise
from d2v.model.visible import of_examples

HIDING = frozenset({"mask", "channel_mask"})  # batch entries that hide part of the input


@dataclass
class Regression:
    """Predictions and targets at the M masked positions, and the student's final outputs.

    A student that does not see masked positions has outputs at the visible ones, and may also
    predict the mean target of each of its R rows from the last of its extra tokens.
    """

    prediction: Tensor  # (M, C); C is D, or what the input's targets need
    target: Tensor  # values (M, C) float32, or classes (M,) int64; without gradient
    encoder_output: Tensor  # (M, D), or (R * V, D) at visible positions
    class_prediction: Tensor | None = None  # (R, D)
    class_target: Tensor | None = None  # (R, D)


class Student(nn.Module):
    """Encoder and backbone: the part that is trained, saved and fine-tuned."""

    def __init__(self, encoder: params.Encoder, backbone: params.Backbone) -> None:
        super().__init__()
        self.encoder = encoders.build(encoder, backbone)
        self.backbone = Transformer(backbone)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Output, Tensor | None]:
        """Outputs for `batch`, masked if it contains masks, and padding (B, T) or None."""
        x, padding = self.encoder.local_features(batch)
        return self.see(x, padding, batch)

    def see(
        self, x: Tensor, padding: Tensor | None, batch: dict[str, Tensor], **wanted: Any
    ) -> tuple[Output, Tensor | None]:
        """Outputs for local features `x` (B, T, D) that have already been computed, and padding.

        The padding (B, T) is that of `x`, without the P leading positions of the outputs.

        With `visible` (R, V) in the batch, they are (R, P + V, D), at these positions only.
        `wanted` is passed to Transformer: which features to keep, and at which positions.
        """
        visible = batch.get("visible")
        if visible is None and HIDING & batch.keys():
            x, padding = self.encoder.mask_features(x, padding, batch)
        h, padding = self.encoder(x, padding, visible)
        prefix = self.encoder.prefix
        output = self.backbone(h, padding, prefix=prefix, visible=visible, **wanted)
        return output, None if padding is None else padding[:, prefix:]

    def positions(self, x: Tensor) -> Tensor:
        """Drop the P leading positions, which have no target, from `x` (B, P + T, D)."""
        return x[:, self.encoder.prefix :]

    def rows(self, places: Tensor, length: int) -> Tensor:
        """Map places (M,) in (B * T), T = length, to rows of the backbone's (B * (P + T))."""
        prefix = self.encoder.prefix
        return places + (places // length + 1) * prefix if prefix else places


class Data2Vec(nn.Module):
    """Student, head or decoder, and a teacher or targets that are computed from the input."""

    def __init__(self, p: params.Pretrain) -> None:
        super().__init__()
        self.target = p.target
        self.student = Student(p.encoder, p.backbone)
        self.teacher: Teacher | None = None
        self.inputs: InputTargets | None = None
        if isinstance(p.target, params.InputTarget):
            self.inputs = self.student.encoder.input_targets(p.target)
            self.head = self.student.encoder.input_head(self.inputs.outputs)
            if p.backbone.init.head:
                initialise(self.head, p.backbone.init)
        else:
            self.average = Average(p.target)
            self.head = regression_head(p.regression, p.backbone)
        self.decoder = build_decoder(p.decoder, p.encoder, p.backbone)
        self.class_loss = p.loss.class_weight > 0
        if self.inputs is None:
            self.teacher = Teacher(self.student.encoder, self.student.backbone, p.ema)

    def forward(self, batch: dict[str, Tensor]) -> Regression:
        """Predictions and targets where `batch["mask"]` (B, T) is True; (R, T) with copies.

        `batch["masked"]` (M,), the places of the masked positions in (B * T), is optional. It saves
        a search on the GPU, for which the host would have to wait.
        """
        masked = batch.get("masked")
        if masked is None:
            masked = batch["mask"].flatten().nonzero().flatten()
        x, padding = self.student.encoder.local_features(batch)
        if self.decoder is not None:
            return self._decoded(self.decoder, x, padding, batch, masked)
        target = self.targets(x.detach(), padding, batch, masked)
        rows = self.student.rows(masked, x.shape[1])
        output, _ = self.student.see(x, padding, batch, rows=rows)
        if self.inputs is not None:
            prediction = self.student.encoder.predict_input(self.head, output.x)
        else:
            prediction = self.head(output.x)
        return Regression(prediction, target, output.x)

    def _decoded(
        self,
        decoder: Decoder,
        x: Tensor,
        padding: Tensor | None,
        batch: dict[str, Tensor],
        masked: Tensor,
    ) -> Regression:
        """Predictions of a decoder, from a student that sees the visible positions only.

        `masked` (M,) are places in (R * T), for R / B copies of each example.
        """
        targets, visible = self.targets(x.detach(), padding, batch), batch["visible"]
        length, copies, prefix = x.shape[1], len(visible) // len(x), self.student.encoder.prefix
        output, _ = self.student.see(x, padding, batch)
        seen = output.x[:, prefix:]
        prediction = decoder(seen, visible, length, masked)
        if self.inputs is not None:
            prediction = self.student.encoder.predict_input(self.head, prediction)
        found = Regression(
            prediction=prediction,
            target=at_rows(targets, of_examples(masked, length, copies)),
            encoder_output=seen.flatten(0, 1),
        )
        if self.class_loss:
            found.class_prediction = output.x[:, prefix - 1]
            found.class_target = targets.mean(1).repeat_interleave(copies, 0)
        return found

    def targets(
        self,
        x: Tensor,
        padding: Tensor | None,
        batch: dict[str, Tensor],
        masked: Tensor | None = None,
    ) -> Tensor:
        """Targets, computed from unmasked local features `x` (B, T, D) (paper 3.3).

        (M, D) at the places `masked` (M,) in (B * T); without `masked`, (B, T, D) at every
        position. Targets of the input have C values in place of D, or are classes (M,), (B, T).
        """
        with torch.inference_mode():
            if self.inputs is not None:
                target = self.inputs(batch)
                target = target if masked is None else target.flatten(0, 1)[masked]
            else:
                target = self._targets(x, padding, batch, masked)
        return target.clone()  # an ordinary tensor, which autograd can save for the loss's gradient

    def _targets(
        self, x: Tensor, padding: Tensor | None, batch: dict[str, Tensor], masked: Tensor | None
    ) -> Tensor:
        p, teacher = self.target, self.teacher
        assert isinstance(p, params.Target)
        assert teacher is not None
        over_time = "instance" in (p.layer_norm, p.final_norm)  # then all positions are needed
        narrow = masked is not None and not over_time
        rows = self.student.rows(masked, x.shape[1]) if narrow and masked is not None else None
        keep = Kept((p.feature,), p.top_k)
        output = teacher(x, padding, batch, keep=keep, context=p.context, rows=rows)
        layers = output.layers[p.feature]
        if rows is None:
            layers = [self.student.positions(layer) for layer in layers]
        target: Tensor = self.average(layers)
        return at_rows(target, masked) if masked is not None and rows is None else target

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Load student and head or decoder of another pre-training; the teacher copies the student.

        Everything else in `weights` is ignored.
        """
        parts = {"student.": self.student, "head.": self.head, "decoder.": self.decoder}
        for name, part in parts.items():
            if part is None:
                continue
            own = {k.removeprefix(name): w for k, w in weights.items() if k.startswith(name)}
            part.load_state_dict(own)
        self.update_teacher(0.0)

    def update_teacher(self, decay: float | Tensor) -> None:
        """Move the teacher towards the student; call this once after each optimiser step."""
        if self.teacher is not None:
            self.teacher.update(self.student.encoder, self.student.backbone, decay)


class Average(nn.Module):
    """Targets from layers: normalise each, average them, normalise the mean; no parameters."""

    def __init__(self, p: params.Target) -> None:
        super().__init__()
        self.layer_norm, self.final_norm = p.layer_norm, p.final_norm

    def forward(self, layers: list[Tensor]) -> Tensor:
        """Average K layers (..., D) into one target (..., D), float32."""
        first, *others = (normalise(layer.float(), self.layer_norm) for layer in layers)
        total = first.clone() if self.layer_norm == "none" else first
        for other in others:
            total += other
        return normalise(total.div_(len(layers)), self.final_norm)


def normalise(x: Tensor, kind: str) -> Tensor:
    """Normalise `x` (B, T, D) without parameters, over time (instance) or channels (layer).

    Instance norm includes padded positions, as the reference code does.
    """
    if kind == "instance":
        return F.instance_norm(x.transpose(1, 2)).transpose(1, 2)
    return F.layer_norm(x, x.shape[-1:]) if kind == "layer" else x


def regression_head(kind: str, backbone: params.Backbone) -> nn.Module:
    """Head that predicts targets from the student's output: one layer, two with GELU, or none."""
    dim = backbone.dim
    heads: dict[str, nn.Module] = {
        "linear": Linear(dim, dim),
        "mlp": nn.Sequential(Linear(dim, 2 * dim), nn.GELU(), Linear(2 * dim, dim)),
        "none": nn.Identity(),
    }
    head = heads[kind]
    if backbone.init.head:
        initialise(head, backbone.init)
    return head


def build_decoder(
    p: params.Decoder | None, encoder: params.Encoder, backbone: params.Backbone
) -> Decoder | None:
    """Decoder for the positions of an encoder: on its grid if it has one; None without `p`."""
    return None if p is None else Decoder(p, backbone, getattr(encoder, "grid", None))
