"""Parameters of one self-supervised pre-training."""

from typing import Literal

from pydantic import Field, model_validator

from d2v.params.base import Count, Positive, Strict
from d2v.params.model import EMA, Backbone, Encoder, Loss, Mask, PatchEncoder, Target, WaveEncoder
from d2v.params.released import Released
from d2v.params.training import Collapse, Optimiser, Schedule, Train, View


class Pretrain(Strict):
    """One self-supervised pre-training."""

    data: str  # name under `data:`
    split: str = "train"
    seeds: list[Count] = Field(min_length=1)
    # name of the pre-training whose student this one starts from; the teacher starts as its copy,
    # optimiser and schedules start afresh (paper 5.1: the second 800 epochs of ViT-L)
    start_from: str | None = None
    # weights to take over in place of training: nothing below `regression` is used then
    released: Released | None = None
    encoder: Encoder
    backbone: Backbone
    # head on the student (paper 3.4): final_proj; text: head_layers 1 or 2; data2vec_vision:
    # lm_head; none: fairseq's vision model
    regression: Literal["linear", "mlp", "none"]
    target: Target
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
        if self.released is not None and (self.start_from is not None or len(self.seeds) > 1):
            raise ValueError("released weights have one seed and start from nothing")
        if self.target.top_k > self.backbone.depth:
            raise ValueError(
                f"target.top_k {self.target.top_k} is more than backbone.depth"
                f" {self.backbone.depth}"
            )
        if self.encoder.kind != self.view.kind:
            raise ValueError(
                f"encoder.kind is {self.encoder.kind} but view.kind is {self.view.kind}"
            )
        if isinstance(self.encoder, WaveEncoder) and self.backbone.norm_first:
            raise ValueError(
                "backbone.norm_first: true is not fairseq's layer_norm_first in a speech model,"
                " which would move the encoder's norm behind the last block: set it to false"
            )
        bias = self.backbone.position_bias
        if self.target.context and bias.kind == "per_layer_1d":
            raise ValueError("target.context does not go with position_bias per_layer_1d")
        if isinstance(self.encoder, PatchEncoder) and bias.kind == "shared_2d":
            grid = self.encoder.grid
            if bias.window != [grid, grid]:
                raise ValueError(
                    f"backbone.position_bias.window is {bias.window}, the grid [{grid}, {grid}]"
                )
        return self
