"""data2vec (paper figure 1): a student regresses what a teacher makes of the whole input.

student   sees the masked input                 encoder -> backbone -> regression head
teacher   sees the whole input, no gradient     EMA of the student's encoder and backbone
target    mean of the teacher's top K layers, each normalised, at the masked positions
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v import encoders, params
from d2v.ema import Teacher
from d2v.transformer import Output, Transformer, initialise

HIDING = frozenset({"mask", "channel_mask"})  # entries of a batch that hide something


@dataclass
class Regression:
    """What the loss compares, at the M masked positions, and the student's last outputs."""

    prediction: Tensor  # (M, D)
    target: Tensor  # (M, D), float32, without gradient
    encoder_output: Tensor  # (B, P + T, D)


class Student(nn.Module):
    """Encoder and backbone: what is trained, kept, and fine-tuned."""

    def __init__(self, encoder: params.Encoder, backbone: params.Backbone) -> None:
        super().__init__()
        self.encoder = encoders.build(encoder, backbone)
        self.backbone = Transformer(backbone)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Output, Tensor | None]:
        """Outputs for `batch`, masked where it has masks, and padding (B, T) or None."""
        x, padding = self.encoder.local_features(batch)
        return self.see(x, padding, batch)

    def see(
        self, x: Tensor, padding: Tensor | None, batch: dict[str, Tensor]
    ) -> tuple[Output, Tensor | None]:
        """Outputs for local features `x` (B, T, D) that are already there."""
        if HIDING & batch.keys():
            x, padding = self.encoder.mask_features(x, padding, batch)
        h, padding = self.encoder(x, padding)
        return self.backbone(h, padding), padding

    def positions(self, x: Tensor) -> Tensor:
        """Cut the leading positions without a target off `x` (B, P + T, D)."""
        return x[:, self.encoder.prefix :]


class Data2Vec(nn.Module):
    """Student, teacher and regression head."""

    def __init__(self, p: params.Pretrain) -> None:
        super().__init__()
        self.target = p.target
        self.student = Student(p.encoder, p.backbone)
        self.head = regression_head(p.regression, p.backbone)
        self.teacher = Teacher(self.student.encoder, self.student.backbone, p.ema)

    def forward(self, batch: dict[str, Tensor]) -> Regression:
        """Predictions and targets where `batch["mask"]` (B, T) is True."""
        mask = batch["mask"]
        x, padding = self.student.encoder.local_features(batch)
        target = self.targets(x.detach(), padding, batch)[mask]
        output, _ = self.student.see(x, padding, batch)
        prediction = self.head(self.student.positions(output.x)[mask])
        return Regression(prediction, target, output.x)

    @torch.no_grad()
    def targets(self, x: Tensor, padding: Tensor | None, batch: dict[str, Tensor]) -> Tensor:
        """Targets (B, T, D) at every position, from unmasked local features (paper 3.3)."""
        kind, context = self.target.feature, self.target.context
        output, _ = self.teacher(x, padding, batch, kind, context)
        layers = output.layers(kind)
        top = [self.student.positions(layer).float() for layer in layers[-self.target.top_k :]]
        mean = torch.stack([normalise(t, self.target.layer_norm) for t in top]).mean(0)
        return normalise(mean, self.target.final_norm)

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take student and head of another pre-training; the teacher becomes the student's copy."""
        for name, part in (("student.", self.student), ("head.", self.head)):
            own = {k.removeprefix(name): w for k, w in weights.items() if k.startswith(name)}
            part.load_state_dict(own)
        self.update_teacher(0.0)

    def update_teacher(self, decay: float) -> None:
        """Move the teacher towards the student; once after each optimiser step."""
        self.teacher.update(self.student.encoder, self.student.backbone, decay)


def normalise(x: Tensor, kind: str) -> Tensor:
    """Normalise `x` (B, T, D) without parameters: over time (instance) or channels (layer).

    Instance norm covers padded positions too, as the reference does.
    """
    if kind == "instance":
        return F.instance_norm(x.transpose(1, 2)).transpose(1, 2)
    return F.layer_norm(x, x.shape[-1:]) if kind == "layer" else x


def regression_head(kind: str, backbone: params.Backbone) -> nn.Module:
    """From the student's output to targets: one layer, two with GELU between, or none."""
    dim = backbone.dim
    heads: dict[str, nn.Module] = {
        "linear": nn.Linear(dim, dim),
        "mlp": nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)),
        "none": nn.Identity(),
    }
    head = heads[kind]
    if backbone.init.head:
        initialise(head, backbone.init)
    return head
