"""Parameters of fine-tuning: head, settings or grid, and splits for selection and reporting."""

import itertools
from typing import Annotated, Literal

from pydantic import Field, model_validator

from d2v.params import fitting
from d2v.params.base import BelowOne, Count, Fraction, Positive, Rate, Seed, Strict
from d2v.params.faults import refuse
from d2v.params.released import Released
from d2v.params.training import AdamW, Portions, Schedule, View


class Classify(Strict):
    """Task of predicting the class of an example from pooled outputs."""

    kind: Literal["classify"]
    classes: Annotated[int, Field(ge=2)]
    # pooling over positions. mean: mean without the class token (BEiT); first: output of <s>
    # (RoBERTa); mean_max: mean and maximum, concatenated
    pool: Literal["mean", "first", "mean_max"]
    norm: bool = False  # LayerNorm after pooling, instead of the final norm (BEiT fc_norm)
    hidden: bool = False  # dense + tanh before the output layer (RoBERTa)
    dropout: BelowOne = 0.0
    label_smoothing: Fraction = 0.0
    init_scale: Rate = 1.0  # factor on the output layer's initial values (BEiT: .001)


class Regress(Strict):
    """Task of predicting one number per example from pooled outputs (STS-B)."""

    kind: Literal["regress"]
    pool: Literal["mean", "first", "mean_max"]  # pooling over positions, as for Classify
    scale: Rate = 5.0  # divisor of the labels (fairseq: 5)
    norm: bool = False  # LayerNorm after pooling
    hidden: bool = False  # dense + tanh before the output layer
    dropout: BelowOne = 0.0


class Tag(Strict):
    """Task of predicting any number of classes per example (AudioSet; paper 5.2)."""

    kind: Literal["tag"]
    classes: Annotated[int, Field(ge=2)]
    # pooling of the frames' probabilities. linear_softmax: their mean, weighted by the
    # probabilities themselves (Wang et al. 2019)
    pool: Literal["mean", "linear_softmax"]
    dropout: BelowOne = 0.0
    head_lr_scale: Rate = 1.0  # factor on the setting's learning rate for the output layer


class CTC(Strict):
    """Task of predicting the letters of an utterance with CTC."""

    kind: Literal["ctc"]
    dropout: BelowOne = 0.0
    # initialise the output layer with Xavier's method and zero bias (fairseq); false: PyTorch's
    # default
    xavier: bool = False


Range = Annotated[list[float], Field(min_length=2, max_length=2)]


class DecodeSearch(Strict):
    """Search for the decoding weights on the development split (paper 4.2; fairseq ax.yaml)."""

    trials: Positive = 128  # number of weight combinations to try
    lm_weight: Range = Field([0.0, 5.0])  # lowest and highest value
    word_score: Range = Field([-5.0, 5.0])  # lowest and highest value
    silence_score: Range = Field([-8.0, 0.0])  # lowest and highest value
    beam: Positive = 500  # beam size during the search; the final decoding uses decode.beam
    seed: Seed = 0  # seed of the search

    @model_validator(mode="after")
    def _ordered(self) -> "DecodeSearch":
        for name in ("lm_weight", "word_score", "silence_score"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(
                    f"{name}: [{low}, {high}] is not a range; give the lowest value first"
                )
        return self


class Decode(Strict):
    """Beam search with lexicon and n-gram model, for the final word error rate."""

    lm: str = "lm"  # name of the prepared set with lexicon and language model
    beam: Positive = 50  # beam size
    beam_threshold: Rate = 50.0
    # weight of the language model, used unless the weights are searched for
    lm_weight: float = 2.0
    word_score: float = -1.0  # score per word, used unless the weights are searched for
    silence_score: float = 0.0  # score added to silence, used unless the weights are searched for
    # search for the three weights in a separate job after fine-tuning (CPUs only)
    search: DecodeSearch | None = None
    cpus: Positive = 1  # CPUs for decoding, which is parallel over utterances


Task = Annotated[Classify | Regress | Tag | CTC, Field(discriminator="kind")]

# names as in metrics.METRICS; greedy_*: for the best path, without lexicon and language model
MetricName = Literal[
    "accuracy",
    "f1",
    "matthews",
    "pearson",
    "spearman",
    "squared_error",
    "wer",
    "cer",
    "greedy_wer",
    "greedy_cer",
    "map",
]


class Probe(Strict):
    """Probes of frozen features, fitted to the labels of every arm and seed, without fine-tuning.

    k nearest neighbours and a linear classifier for each layer, and a linear classifier on a
    weighted sum of the layers. Settings are chosen on the development split.
    """

    # how the outputs of an example become one vector. mean: their mean over positions; keep: all
    # of them side by side, so that what is where is not lost (examples of one length only)
    positions: Literal["mean", "keep"] = "mean"
    neighbours: Positive = 10
    # inverse strengths of the linear classifiers' regularisation to try (scikit-learn's C)
    c: list[Rate] = Field([0.001, 0.01, 0.1, 1.0, 10.0], min_length=1)


class Setting(Strict):
    """A point of the fine-tuning grid: learning rate, number of steps, frozen parts."""

    lr: Rate  # peak learning rate
    steps: Positive  # optimiser steps
    # parts of the encoder that are never trained. true: all of its local features; convolutions:
    # their convolutions and norms, but not the projection after them (wav2vec 2.0:
    # feature_grad_mult 0)
    freeze: bool | Literal["convolutions"] = False

    @property
    def name(self) -> str:
        """Name of the point's folder."""
        frozen = {False: "", True: "-frozen", "convolutions": "-frozen-convolutions"}
        return f"lr{self.lr:g}-steps{self.steps}{frozen[self.freeze]}"

    @property
    def words(self) -> str:
        """Description of the point for readers."""
        frozen = {False: "", True: ", features frozen", "convolutions": ", convolutions frozen"}
        return f"{self.steps} steps, learning rate {self.lr:g}{frozen[self.freeze]}"


class Grid(Strict):
    """Settings that are tried with separate seeds; the best on the development split is used."""

    lr: list[Rate] = Field(min_length=1)  # peak learning rates to try
    steps: list[Positive] = Field(min_length=1)  # numbers of optimiser steps to try
    # values of setting.freeze to try
    freeze: list[bool | Literal["convolutions"]] = Field([False], min_length=1)
    seeds: list[Seed] = Field(min_length=1)  # seeds of the grid, distinct from the reported seeds
    # scope of the selection. task: the best setting of each task; table: the one learning rate that
    # is best on average over all tasks of the table with the same pre-training, each with its own
    # number of steps (paper 4.3)
    best_over: Literal["task", "table"] = "task"

    @model_validator(mode="after")
    def _comparable(self) -> "Grid":
        if self.best_over == "table" and (len(self.steps) > 1 or len(self.freeze) > 1):
            raise ValueError(
                "best_over: table selects only the learning rate; give a single value for steps"
                " and for freeze"
            )
        return self

    def settings(self) -> list[Setting]:
        """All points of the grid, in the order of the file."""
        points = itertools.product(self.lr, self.steps, self.freeze)
        return [Setting(lr=lr, steps=steps, freeze=freeze) for lr, steps, freeze in points]


Arm = Literal["scratch", "input", "data2vec"]
ARMS = ("scratch", "input", "data2vec")
TableName = Literal[
    "imagenet",
    "librispeech",
    "audioset",
    "glue",
    "ablation_layers",
    "ablation_targets",
    "ablation_loss",
    "ablation_masks",
    "ablation_context",
]


class Finetune(Strict):
    """One labelled task, fine-tuned from the pre-trained student and from scratch."""

    table: TableName
    # row of the table, named like the reported row of the same recipe; "": data2vec
    row: str = ""
    column: str  # column heading in the table
    note: str = ""  # note under the table that describes data and labels
    pretrain: str  # name under `pretrain:`; its encoder and backbone are used
    # published fine-tuned weights to evaluate instead of training; they determine the model's sizes
    released: Released | None = None
    data: str  # name of the prepared data set
    train_split: str = "train"
    labels: str | None = None  # list of example ids; {seed} is replaced by the seed
    dev_split: str = "dev"  # split on which settings and checkpoints are selected
    test_split: str = "test"  # reported split, evaluated once at the end
    # select on the reported split, too, as the paper does: GLUE's test sets have no public labels
    chosen_on_test: bool = False
    # further reported columns of the same runs: heading -> split
    more: dict[str, str] = Field(default_factory=dict)
    # name under `pretrain:` of the same student, pre-trained with targets of the input; for the arm
    # `input`
    baseline: str | None = None
    # starting points to fine-tune: random weights, the student of `baseline`, that of `pretrain`
    arms: list[Arm] = Field(["scratch", "data2vec"], min_length=1)
    # metrics to compute; the first is used for selection on the development split
    metrics: list[MetricName] = Field(min_length=1)
    task: Task
    decode: Decode | None = None
    probe: Probe | None = None  # None: no probes; for tasks of kind classify
    freeze_steps: Count = 0  # initial optimiser steps in which only the head is trained
    # substitute for an unpublished recipe, described under the table
    stand_in: str = ""
    dropout: BelowOne | None = None  # dropout of the backbone; None: as in pre-training
    encoder_dropout: BelowOne | None = None  # dropout of the encoder; None: as in pre-training
    attention_dropout: BelowOne | None = None  # None: as in pre-training
    activation_dropout: BelowOne | None = None  # None: as in pre-training
    drop_path: BelowOne | None = None  # None: as in pre-training
    layer_drop: BelowOne | None = None  # None: as in pre-training
    view: View
    seeds: list[Seed] = Field(min_length=1)
    # setting of each arm, fixed in advance; give either settings or grid
    settings: dict[Arm, Setting] | None = None
    grid: Grid | None = None  # settings to select from
    optimiser: AdamW  # without a learning rate, which settings or grid contain
    schedule: Schedule
    train: Portions  # without a number of steps, which settings or grid contain
    validate_every: Positive = 100  # optimiser steps between validations
    # checkpoint that is evaluated. best: the best on the development split
    keep: Literal["last", "best"] = "last"
    cpus: Positive = 1

    @model_validator(mode="after")
    def _consistent(self) -> "Finetune":
        refuse(fitting.finetuning(self))
        return self
