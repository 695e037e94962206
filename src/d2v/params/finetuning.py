"""Parameters of fine-tuning: head, grid of settings, what is chosen where and reported."""

import itertools
from typing import Annotated, Literal

from pydantic import Field, model_validator

from d2v.params.base import Count, Fraction, Positive, Rate, Strict
from d2v.params.training import Optimiser, Schedule, Train, View


class Classify(Strict):
    """Class of an example from pooled outputs."""

    kind: Literal["classify"]
    classes: Annotated[int, Field(ge=2)]
    # mean: over positions without class token (BEiT); first: <s> (RoBERTa); mean_max: both joined
    pool: Literal["mean", "first", "mean_max"]
    norm: bool = False  # LayerNorm after pooling, in place of the final norm (BEiT fc_norm)
    hidden: bool = False  # dense + tanh before the output layer (RoBERTa)
    dropout: Fraction = 0.0
    label_smoothing: Fraction = 0.0


class Regress(Strict):
    """One number of an example from pooled outputs (STS-B)."""

    kind: Literal["regress"]
    pool: Literal["mean", "first", "mean_max"]
    scale: Rate = 5.0  # labels are divided by this (fairseq: / 5)
    norm: bool = False
    hidden: bool = False
    dropout: Fraction = 0.0


class CTC(Strict):
    """Letters of an utterance."""

    kind: Literal["ctc"]
    dropout: Fraction = 0.0


class Decode(Strict):
    """Lexicon and n-gram beam search for the final word error rate."""

    beam: Positive = 50
    lm_weight: float = 2.0
    word_score: float = -1.0
    silence_score: float = 0.0


Task = Annotated[Classify | Regress | CTC, Field(discriminator="kind")]

# as in metrics.METRICS; greedy_*: of the best path, without lexicon and language model
MetricName = Literal[
    "accuracy",
    "f1",
    "matthews",
    "pearson",
    "spearman",
    "wer",
    "cer",
    "greedy_wer",
    "greedy_cer",
]
TASK_METRICS: dict[str, tuple[str, ...]] = {
    "classify": ("accuracy", "f1", "matthews"),
    "regress": ("pearson", "spearman"),
    "ctc": ("wer", "cer", "greedy_wer", "greedy_cer"),
}


class Setting(Strict):
    """A point of the fine-tuning grid."""

    lr: Rate
    steps: Positive
    freeze: bool = False  # the encoder's local features stay as they are (wav2vec 2.0)

    @property
    def name(self) -> str:
        """Folder name of the point."""
        return f"lr{self.lr:g}-steps{self.steps}" + ("-frozen" if self.freeze else "")

    @property
    def words(self) -> str:
        """The point for a reader."""
        return f"{self.steps} steps, rate {self.lr:g}" + (", features frozen" * self.freeze)


class Grid(Strict):
    """Settings tried with seeds of their own; the best on the development split is used."""

    lr: list[Rate] = Field(min_length=1)
    steps: list[Positive] = Field(min_length=1)
    freeze: list[bool] = Field([False], min_length=1)
    seeds: list[Count] = Field(min_length=1)  # never the reported seeds

    def settings(self) -> list[Setting]:
        """All points, in the order of the file."""
        points = itertools.product(self.lr, self.steps, self.freeze)
        return [Setting(lr=lr, steps=steps, freeze=freeze) for lr, steps, freeze in points]


ARMS = ("scratch", "data2vec")


class Finetune(Strict):
    """One labelled task, fine-tuned from the pre-trained student and from scratch."""

    table: Literal["imagenet", "librispeech", "glue"]
    column: str  # heading in the table
    note: str = ""  # under the table: what the data and the labels are
    pretrain: str  # name under `pretrain:`; its encoder and backbone are used
    data: str
    train_split: str = "train"
    labels: str | None = None  # list of example ids; {seed} is replaced by the seed
    dev_split: str = "dev"  # settings and checkpoints are chosen here
    test_split: str = "test"  # reported, read once at the end
    metrics: list[MetricName] = Field(min_length=1)  # the first decides on the dev split
    task: Task
    decode: Decode | None = None
    freeze_steps: Count = 0  # optimiser steps in which only the head is trained
    dropout: Fraction | None = None  # of the backbone; None: as in pre-training
    drop_path: Fraction | None = None
    layer_drop: Fraction | None = None
    view: View
    seeds: list[Count] = Field(min_length=1)
    # settings of each arm, chosen beforehand; or a grid to choose from
    settings: dict[Literal["scratch", "data2vec"], Setting] | None = None
    grid: Grid | None = None
    optimiser: Optimiser  # its lr is replaced by the setting's
    schedule: Schedule
    train: Train  # its steps are replaced by the setting's
    validate_every: Positive = 100
    keep: Literal["last", "best"] = "last"  # which checkpoint is evaluated; best: on dev
    cpus: Positive = 1

    @model_validator(mode="after")
    def _consistent(self) -> "Finetune":
        if (self.settings is None) == (self.grid is None):
            raise ValueError("give either settings (one for each arm) or grid")
        if self.settings is not None and set(self.settings) != set(ARMS):
            raise ValueError(f"settings needs exactly the arms {', '.join(ARMS)}")
        if self.grid and set(self.grid.seeds) & set(self.seeds):
            raise ValueError("grid.seeds and seeds overlap: settings must not see reported seeds")
        fitting = TASK_METRICS[self.task.kind]
        if strange := [name for name in self.metrics if name not in fitting]:
            raise ValueError(
                f"metrics {', '.join(strange)} do not fit a {self.task.kind} task"
                f" (which has {', '.join(fitting)})"
            )
        if self.dev_split == self.test_split:
            raise ValueError("dev_split and test_split are the same")
        return self
