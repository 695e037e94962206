"""Parameters of fine-tuning: splits, arms, training, and the rules that they must obey."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from d2v.params.base import BelowOne, Count, Positive, Seed, Strict
from d2v.params.choices import KINDS, View
from d2v.params.faults import refuse
from d2v.params.released import Released
from d2v.params.settings import Grid, Probe, Setting
from d2v.params.tasks import TASK_METRICS, Decode, MetricName, Task
from d2v.params.training import AdamW, Portions, Schedule

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
    # setting of each arm, fixed in advance; give either settings or grid. null leaves out an arm
    # that a template has
    settings: dict[Arm, Setting] | None = None
    grid: Grid | None = None  # settings to select from
    optimiser: AdamW  # without a learning rate, which settings or grid contain
    schedule: Schedule
    train: Portions  # without a number of steps, which settings or grid contain
    validate_every: Positive = 100  # optimiser steps between validations
    # checkpoint that is evaluated. best: the best on the development split
    keep: Literal["last", "best"] = "last"
    cpus: Positive = 1

    @field_validator("settings", mode="before")
    @classmethod
    def _without_null(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {arm: setting for arm, setting in given.items() if setting is not None}

    @model_validator(mode="after")
    def _consistent(self) -> "Finetune":
        refuse(faults(self))
        return self


# --- rules: each yields the errors that it finds, one sentence each


def faults(p: Finetune) -> Iterator[str]:
    """Errors of a fine-tuning."""
    if p.released is not None and (len(p.seeds) > 1 or p.arms != ["data2vec"]):
        yield "released weights allow only one seed and arms: [data2vec]"
    yield from _apart(p)
    if (p.baseline is not None) != ("input" in p.arms):
        yield (
            "arms has input, but no baseline names its pre-training"
            if p.baseline is None
            else f"baseline {p.baseline} has no effect without input in arms; add it, or remove one"
        )
    if p.probe is not None and (p.task.kind != "classify" or p.released is not None):
        yield "probe: probes are for pre-trained features and tasks of kind classify; remove it"
    yield from _settings(p)
    yield from _task(p)
    kind = KINDS[p.view.kind]
    if p.task.kind not in kind.labelled:
        yield (
            f"task.kind {p.task.kind} does not fit view.kind {p.view.kind}"
            f" (which supports {', '.join(kind.labelled)})"
        )
    if p.encoder_dropout is not None and not kind.dropout:
        yield f"encoder_dropout: an encoder of kind {p.view.kind} has no dropout; remove it"
    yield from p.train.suits(kind.lengths, p.view.longest)
    yield from _only_pretraining(p.train)
    yield from p.view.with_labels(p.task.kind, p.train.micro_batch)
    yield from _more(p)


def _apart(p: Finetune) -> Iterator[str]:
    """Check that dev and test share no split, unless that is confirmed; they may be sums, a+b."""
    dev, test = (set(split.split("+")) for split in (p.dev_split, p.test_split))
    if bool(dev & test) != p.chosen_on_test:
        what = "are the same" if dev == test else f"share {', '.join(sorted(dev & test))}"
        yield (
            f"dev_split and test_split {what}; confirm this with chosen_on_test: true"
            if dev & test
            else "chosen_on_test: true, but dev_split and test_split differ"
        )


def _more(p: Finetune) -> Iterator[str]:
    """Check that no further split takes the name under which dev or test metrics are kept."""
    for heading, split in p.more.items():
        if split in ("dev", "test") and split != getattr(p, f"{split}_split"):
            yield (
                f"more.{heading}: the metrics of split {split} would replace those of"
                f" {split}_split {getattr(p, f'{split}_split')}; rename the split"
            )


def _settings(p: Finetune) -> Iterator[str]:
    if (p.settings is None) == (p.grid is None):
        yield "give either settings (one for each arm) or grid"
    if p.settings is not None and set(p.settings) != set(p.arms):
        yield f"settings must have exactly these arms: {', '.join(p.arms)}"
    if p.grid and set(p.grid.seeds) & set(p.seeds):
        yield "grid.seeds and seeds overlap: settings must not be chosen on reported seeds"
    frozen: list[object] = [*(p.grid.freeze if p.grid else [])]
    frozen += [setting.freeze for setting in (p.settings or {}).values()]
    if "convolutions" in frozen and not KINDS[p.view.kind].convolutions:
        yield (
            f"freeze: convolutions, but an encoder of kind {p.view.kind} has none; use true to"
            " freeze all of its features"
        )


def _task(p: Finetune) -> Iterator[str]:
    """Check that metrics and decoding fit the task."""
    known = TASK_METRICS[p.task.kind]
    if strange := [name for name in p.metrics if name not in known]:
        yield (
            f"metrics {', '.join(strange)} do not fit a {p.task.kind} task"
            f" (which supports {', '.join(known)})"
        )
    elif "f1" in p.metrics and getattr(p.task, "classes", 2) != 2:
        yield "metrics: f1 compares class 1 with class 0, but task.classes is not 2"
    if p.decode is not None and p.task.kind != "ctc":
        yield f"decode searches letters for words, but a {p.task.kind} task has none; remove it"
    if p.decode is not None and p.decode.search and p.grid:
        yield "decode.search needs settings, not a grid"


def _only_pretraining(train: Portions) -> Iterator[str]:
    """Check for values that fine-tuning does not support."""
    if train.micro_batch == "auto":
        yield "train.micro_batch auto is only for pre-training; give a number"
    if train.precision == "bfloat16":
        yield "train.precision bfloat16 is only for pre-training; use mixed or float32"
    if train.cuda_graph is True:
        yield "train.cuda_graph true is only for pre-training; use auto or false"
