"""Parameters of one self-supervised pre-training."""

from itertools import chain
from typing import Literal

from pydantic import Field, model_validator

from d2v.params import fitting, removal
from d2v.params.base import Positive, Seed, Strict
from d2v.params.decoder import Decoder
from d2v.params.faults import refuse
from d2v.params.masks import Mask
from d2v.params.model import EMA, Backbone, Encoder, Loss, Targets
from d2v.params.released import Released
from d2v.params.training import Collapse, Optimiser, Schedule, Train, View


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
        refuse(chain(fitting.pretraining(self), removal.pretraining(self)))
        return self
