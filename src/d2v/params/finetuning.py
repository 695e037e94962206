"""Parameters of fine-tuning: head, grid of settings, what is chosen where and reported."""

import itertools
from typing import Annotated, Literal

from pydantic import Field, model_validator

from d2v.params import fitting
from d2v.params.base import BelowOne, Count, Fraction, Positive, Rate, Strict
from d2v.params.faults import refuse
from d2v.params.released import Released
from d2v.params.training import AdamW, Portions, Schedule, View


class Classify(Strict):
    """Class of an example from pooled outputs."""

    kind: Literal["classify"]
    classes: Annotated[int, Field(ge=2)]
    # mean: over positions without class token (BEiT); first: <s> (RoBERTa); mean_max: both joined
    pool: Literal["mean", "first", "mean_max"]
    norm: bool = False  # LayerNorm after pooling, in place of the final norm (BEiT fc_norm)
    hidden: bool = False  # dense + tanh before the output layer (RoBERTa)
    dropout: BelowOne = 0.0
    label_smoothing: Fraction = 0.0
    init_scale: Rate = 1.0  # the output layer's initial values are multiplied by this (BEiT: .001)


class Regress(Strict):
    """One number of an example from pooled outputs (STS-B)."""

    kind: Literal["regress"]
    pool: Literal["mean", "first", "mean_max"]
    scale: Rate = 5.0  # labels are divided by this (fairseq: / 5)
    norm: bool = False
    hidden: bool = False
    dropout: BelowOne = 0.0


class Tag(Strict):
    """Any number of classes of an example (AudioSet; paper 5.2)."""

    kind: Literal["tag"]
    classes: Annotated[int, Field(ge=2)]
    # linear_softmax: mean of the frames' probabilities, weighted by themselves (Wang et al. 2019)
    pool: Literal["mean", "linear_softmax"]
    dropout: BelowOne = 0.0
    head_lr_scale: Rate = 1.0  # the output layer's rate is the setting's times this


class CTC(Strict):
    """Letters of an utterance."""

    kind: Literal["ctc"]
    dropout: BelowOne = 0.0
    xavier: bool = False  # initial values: Xavier's and no bias (fairseq), or PyTorch's default


Range = Annotated[list[float], Field(min_length=2, max_length=2)]


class DecodeSearch(Strict):
    """Search of the decoding weights on the development split (paper 4.2; fairseq ax.yaml)."""

    trials: Positive = 128
    lm_weight: Range = Field([0.0, 5.0])
    word_score: Range = Field([-5.0, 5.0])
    silence_score: Range = Field([-8.0, 0.0])
    beam: Positive = 500  # while searching; the final decoding uses decode.beam
    seed: Count = 0

    @model_validator(mode="after")
    def _ordered(self) -> "DecodeSearch":
        for name in ("lm_weight", "word_score", "silence_score"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: [{low}, {high}] is no range, lowest first")
        return self


class Decode(Strict):
    """Lexicon and n-gram beam search for the final word error rate."""

    lm: str = "lm"  # prepared set: lexicon and language model
    beam: Positive = 50
    beam_threshold: Rate = 50.0
    # weights that are known beforehand, used unless they are searched for
    lm_weight: float = 2.0
    word_score: float = -1.0
    silence_score: float = 0.0
    # search for the weights in a job of its own, after fine-tuning (CPUs only)
    search: DecodeSearch | None = None
    cpus: Positive = 1  # decoding runs in parallel over utterances


Task = Annotated[Classify | Regress | Tag | CTC, Field(discriminator="kind")]

# as in metrics.METRICS; greedy_*: of the best path, without lexicon and language model
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


class Setting(Strict):
    """A point of the fine-tuning grid."""

    lr: Rate
    steps: Positive
    # what stays as it is for ever: all of the encoder's local features; or their convolutions with
    # their norms, not the projection after them (wav2vec 2.0: feature_grad_mult 0)
    freeze: bool | Literal["convolutions"] = False

    @property
    def name(self) -> str:
        """Folder name of the point."""
        frozen = {False: "", True: "-frozen", "convolutions": "-frozen-convolutions"}
        return f"lr{self.lr:g}-steps{self.steps}{frozen[self.freeze]}"

    @property
    def words(self) -> str:
        """The point for a reader."""
        frozen = {False: "", True: ", features frozen", "convolutions": ", convolutions frozen"}
        return f"{self.steps} steps, learning rate {self.lr:g}{frozen[self.freeze]}"


class Grid(Strict):
    """Settings tried with seeds of their own; the best on the development split is used."""

    lr: list[Rate] = Field(min_length=1)
    steps: list[Positive] = Field(min_length=1)
    freeze: list[bool | Literal["convolutions"]] = Field([False], min_length=1)
    seeds: list[Count] = Field(min_length=1)  # never the reported seeds
    # task: the best setting of each task; table: the one rate that is best on average over all
    # tasks of the table with the same pre-training, each with its own steps (paper 4.3)
    best_over: Literal["task", "table"] = "task"

    @model_validator(mode="after")
    def _comparable(self) -> "Grid":
        if self.best_over == "table" and (len(self.steps) > 1 or len(self.freeze) > 1):
            raise ValueError("best_over: table chooses a rate; give one value of steps and freeze")
        return self

    def settings(self) -> list[Setting]:
        """All points, in the order of the file."""
        points = itertools.product(self.lr, self.steps, self.freeze)
        return [Setting(lr=lr, steps=steps, freeze=freeze) for lr, steps, freeze in points]


Arm = Literal["scratch", "data2vec"]
ARMS = ("scratch", "data2vec")
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
    # row of the table, as a reported row of the same recipe is called; "": data2vec
    row: str = ""
    column: str  # heading in the table
    note: str = ""  # under the table: what the data and the labels are
    pretrain: str  # name under `pretrain:`; its encoder and backbone are used
    # fine-tuned weights that are only evaluated; sizes of the model are those of the weights
    released: Released | None = None
    data: str
    train_split: str = "train"
    labels: str | None = None  # list of example ids; {seed} is replaced by the seed
    dev_split: str = "dev"  # settings and checkpoints are chosen here
    test_split: str = "test"  # reported, read once at the end
    # the split that is reported also chooses, as in the paper: GLUE's tests have no public labels
    chosen_on_test: bool = False
    # further reported columns of the same runs: heading -> split
    more: dict[str, str] = Field(default_factory=dict)
    # which starting points are fine-tuned
    arms: list[Arm] = Field(["scratch", "data2vec"], min_length=1)
    metrics: list[MetricName] = Field(min_length=1)  # the first decides on the dev split
    task: Task
    decode: Decode | None = None
    freeze_steps: Count = 0  # optimiser steps in which only the head is trained
    # recipes that nobody published: what stands in for them, said under the table
    stand_in: str = ""
    dropout: BelowOne | None = None  # of the backbone; None: as in pre-training
    encoder_dropout: BelowOne | None = None  # of the encoder; None: as in pre-training
    attention_dropout: BelowOne | None = None
    activation_dropout: BelowOne | None = None
    drop_path: BelowOne | None = None
    layer_drop: BelowOne | None = None
    view: View
    seeds: list[Count] = Field(min_length=1)
    # settings of each arm, chosen beforehand; or a grid to choose from
    settings: dict[Arm, Setting] | None = None
    grid: Grid | None = None
    optimiser: AdamW  # the setting says the rate
    schedule: Schedule
    train: Portions  # the setting says how many steps
    validate_every: Positive = 100
    keep: Literal["last", "best"] = "last"  # which checkpoint is evaluated; best: on dev
    cpus: Positive = 1

    @model_validator(mode="after")
    def _consistent(self) -> "Finetune":
        refuse(fitting.finetuning(self))
        return self
