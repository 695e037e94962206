"""Parameters of one self-supervised pre-training, and the rules that they must obey."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from d2v.params import targets
from d2v.params.base import Positive, Seed, Strict
from d2v.params.choices import KINDS, Encoder, View
from d2v.params.decoder import Decoder
from d2v.params.faults import refuse
from d2v.params.masks import Mask, exact, learnable
from d2v.params.model import EMA, Backbone, InputTarget, Loss, Targets
from d2v.params.released import Released
from d2v.params.training import Collapse, Optimiser, Schedule, Train


class Pretrain(Strict):
    """One self-supervised pre-training, with one run per seed."""

    data: str  # name of the prepared data set
    split: str = "train"
    seeds: list[Seed] = Field(min_length=1)
    # name of the pre-training whose student is the starting point; the teacher starts as a copy of
    # it, optimiser and schedules start anew (paper 5.1: the second 800 epochs of ViT-L)
    start_from: str | None = None
    # published weights to use instead of training; the keys after `regression` are then not used
    released: Released | None = None
    encoder: Encoder
    backbone: Backbone
    # regression head on the student (paper 3.4): final_proj; text: head_layers 1 or 2;
    # data2vec_vision: lm_head; none: fairseq's vision model
    regression: Literal["linear", "mlp", "none"]
    # predicts hidden positions from the visible ones, instead of `regression`; needs
    # encoder.hidden: removed (data2vec 2.0)
    decoder: Decoder | None = None
    # differently masked copies of each example in a step, for which the teacher runs only once;
    # clone_batch (data2vec 2.0)
    copies: Positive = 1
    target: Targets
    loss: Loss
    mask: Mask
    ema: EMA
    view: View
    optimiser: Optimiser
    schedule: Schedule
    train: Train
    collapse: Collapse = Collapse()
    cpus: Positive = 1

    @model_validator(mode="after")
    def _consistent(self) -> "Pretrain":
        refuse(faults(self))
        return self


# --- rules: each yields the errors that it finds, one sentence each


def faults(p: Pretrain) -> Iterator[str]:
    """Errors of a pre-training."""
    kind = KINDS[p.encoder.kind]
    if p.released is not None and (p.start_from is not None or len(p.seeds) > 1):
        yield "released weights allow only one seed and no start_from"
    if isinstance(p.target, InputTarget) and p.loss.class_weight:
        yield "loss.class_weight needs the targets of a teacher, which target.kind input has not"
    yield from targets.faults(p.target, p.backbone, kind.inputs)
    yield from _model(p.encoder, p.backbone)
    yield from _shared(p.ema, p.encoder)
    if p.encoder.kind != p.view.kind:
        yield f"encoder.kind is {p.encoder.kind} but view.kind is {p.view.kind}"
    else:
        yield from p.encoder.sees(p.view)
        yield from p.view.without_labels()
        yield from p.encoder.covers(p.view, 2 if targets.over_time(p.target) else 1)
        yield from p.train.suits(kind.lengths, p.view.longest)
    masks = kind.masks[p.encoder.hidden]
    if p.mask.kind not in masks:
        how = " with hidden: removed" if p.encoder.hidden == "removed" else ""
        yield (
            f"mask.kind is {p.mask.kind}, but encoder.kind {p.encoder.kind}{how} needs"
            f" {' or '.join(masks)}"
        )
    else:
        yield from learnable(p.mask, p.encoder.grid)
    yield from _removal(p)


def _model(encoder: Encoder, backbone: Backbone) -> Iterator[str]:
    """Check that encoder and backbone fit together."""
    bias = backbone.position_bias
    grid = encoder.grid
    if bias.kind.endswith("_2d"):
        if grid is None:
            yield (
                f"backbone.position_bias.kind {bias.kind} needs a grid of patches, which"
                f" encoder.kind {encoder.kind} does not have"
            )
        elif bias.window != [grid, grid]:
            yield (
                f"backbone.position_bias.window is {bias.window}, but the grid is [{grid}, {grid}]"
            )
    elif bias.window is not None:
        yield f"backbone.position_bias.window has no effect with kind {bias.kind}; remove it"
    if bias.kind != "per_layer_1d" and bias.max_distance is not None:
        yield f"backbone.position_bias.max_distance has no effect with kind {bias.kind}; remove it"
    if backbone.layer_scale is not None and not backbone.norm_first:
        yield (
            "backbone.layer_scale applies only to pre-norm blocks; remove it, or set"
            " norm_first: true"
        )
    yield from encoder.fits(backbone)


def _shared(ema: EMA, encoder: Encoder) -> Iterator[str]:
    parts = [*KINDS[encoder.kind].parts, *encoder.further_parts()]
    if strange := [name for name in ema.shared if name not in (*parts, "prenet")]:
        yield (
            f"ema.shared: encoder.kind {encoder.kind} has no {', '.join(strange)}"
            f" (it has {', '.join(parts)})"
        )


def _removal(p: Pretrain) -> Iterator[str]:
    """Check what concerns hidden positions, the decoder and copies (data2vec 2.0)."""
    removed = p.encoder.hidden == "removed"
    if p.released is None and removed and p.decoder is None:
        yield "encoder.hidden: removed needs a decoder, which predicts the hidden positions"
    if not removed:
        if p.decoder is not None:
            yield "decoder needs encoder.hidden: removed; set it, or remove decoder"
        if p.copies > 1:
            yield f"copies {p.copies} needs encoder.hidden: removed and a decoder"
    else:
        yield from _removing(p)
        yield from exact(p.mask, p.encoder.grid)
    if p.loss.class_weight and not (removed and p.encoder.extra_tokens):
        yield "loss.class_weight needs encoder.hidden: removed and encoder.extra_tokens"
    bias = p.backbone.position_bias.kind
    if "prenet" in p.ema.shared and not p.backbone.prenet_depth and bias != "alibi":
        yield (
            "ema.shared: prenet has no effect without backbone.prenet_depth and position_bias alibi"
        )


def _removing(p: Pretrain) -> Iterator[str]:
    """Check that encoder and backbone can work on visible positions only."""
    if p.regression != "none":
        yield (
            f"regression {p.regression} would not be used, because the decoder predicts; set it to"
            " none"
        )
    bias = p.backbone.position_bias.kind
    if bias not in ("none", "alibi"):
        yield (
            f"backbone.position_bias.kind {bias} needs all positions, but hidden ones are removed;"
            " use none or alibi"
        )
    yield from p.encoder.removes()
    if p.decoder is not None and p.backbone.dim % p.decoder.groups:
        yield (
            f"backbone.dim {p.backbone.dim} is not a multiple of decoder.groups {p.decoder.groups}"
        )
