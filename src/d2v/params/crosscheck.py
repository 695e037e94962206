"""Consistency checks across a whole parameter file: between runs, and between runs and data.

Each function yields the errors that it finds, one line each, with dotted path.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from d2v.params.choices import KINDS, Data, Encoder, sets_of
from d2v.params.comparison import Compare
from d2v.params.data import Holds, PlainText, Verses
from d2v.params.data import faults as data_faults
from d2v.params.faults import nearest
from d2v.params.finetuning import Finetune
from d2v.params.masks import sufficient
from d2v.params.model import Backbone, InputTarget
from d2v.params.own import LabelledText, TextFolder
from d2v.params.pretraining import Pretrain
from d2v.params.text import TokenAugment, TokenEncoder
from d2v.params.unique import repetitions
from d2v.util.errors import quoted

# parameters of a backbone that may differ between a pre-training and the one it starts from
OF_TRAINING = {
    "dropout", "attention_dropout", "activation_dropout", "layer_drop", "drop_path", "init",
}  # fmt: skip
OfBlocks = PlainText | Verses | TextFolder  # corpora, cut into blocks
NAME = re.compile(r"[^\W_][\w.+=@-]*")
SET_NAME = re.compile(r"[^\W_][\w-]*")  # DVC allows no more in the names of stages
LONGEST = 100  # bytes of the name of a run
Made = Mapping[str, Holds]  # prepared sets of the experiment, by name


def faults(
    data: Mapping[str, Data], pretrain: Mapping[str, Pretrain], finetune: Mapping[str, Finetune]
) -> Iterator[str]:
    """Errors of a whole parameter file whose groups are valid on their own."""
    yield from _set_names(data)
    yield from _names("pretrain", pretrain)
    yield from _names("finetune", finetune)
    made: dict[str, Holds] = {}
    for name, group in data.items():
        yield from (f"data.{name}: {fault}" for fault in data_faults(group))
        sets = sets_of(name, group)
        for doubled in sorted(made.keys() & sets):
            yield f"data.{name}: another group already prepares {doubled}; remove one of the two"
        made |= sets
    yield from _tokenizer(data, made)
    for name, run in pretrain.items():
        path = f"pretrain.{name}"
        yield from _starts(name, pretrain)
        if run.released is None:
            kind = KINDS[run.encoder.kind]
            yield from _data(path, run.data, kind.unlabelled, made)
            yield from _splits(path, made.get(run.data), {"split": run.split})
            yield from _blocks(path, run, data)
            yield from _vocabulary(path, run.encoder, data)
            yield from _mask(path, run)
    for name, task in finetune.items():
        path = f"finetune.{name}"
        yield from _labelled(path, task, made)
        yield from _apart(path, task)
        yield from _lists(path, task, data)
        if task.pretrain not in pretrain:
            near = nearest(task.pretrain, pretrain)
            yield f"{path}.pretrain: no pretrain.{task.pretrain}{near}"
        else:
            yield from _start(path, task, pretrain[task.pretrain], data)
            yield from _baseline(path, task, pretrain)
        yield from _grid(name, task, finetune)
    yield from repetitions(pretrain, finetune)


def compared(compare: Compare | None, pretrain: Mapping[str, Pretrain]) -> Iterator[str]:
    """Check that the names of pre-trainings to compare exist in this file."""
    for name in compare.names if compare else ():
        if name not in pretrain:
            yield f"compare.names.{name}: no pretrain.{name}{nearest(name, pretrain)}"


def _names(kind: str, named: Mapping[str, Any]) -> Iterator[str]:
    """Check that names of runs can be names of folders, in one folder of the experiment."""
    for name in named:
        if not NAME.fullmatch(name) or len(name.encode()) > LONGEST:
            yield (
                f"{kind}: {quoted(name)} cannot be the name of a folder; use letters and digits,"
                f" then also . _ - + = and @, {LONGEST} bytes at most"
            )


def _set_names(data: Mapping[str, Data]) -> Iterator[str]:
    """Check that names of data sets can be names of folders and of DVC stages."""
    for name in data:
        if not SET_NAME.fullmatch(name) or len(name.encode()) > LONGEST:
            yield (
                f"data: {quoted(name)} cannot be the name of a folder and of a stage; use letters"
                f" and digits, then also _ and -, {LONGEST} bytes at most"
            )


# --- masks ----------------------------------------------------------------------------------------


def _mask(path: str, run: Pretrain) -> Iterator[str]:
    longest = run.view.longest
    positions = None if longest is None else run.encoder.positions(longest)
    yield from (f"{path}: {fault}" for fault in sufficient(run.mask, positions))


# --- runs with runs ---------------------------------------------------------------------------


def _starts(name: str, pretrain: Mapping[str, Pretrain]) -> Iterator[str]:
    """Check that `start_from` names another pre-training of the same model, without cycles."""
    path, this = f"pretrain.{name}.start_from", pretrain[name]
    if this.start_from is None:
        return
    if this.start_from not in pretrain:
        yield f"{path}: no pretrain.{this.start_from}{nearest(this.start_from, pretrain)}"
        return
    seen, start = [name], this.start_from
    while start in pretrain and start not in seen:
        seen.append(start)
        start = pretrain[start].start_from or ""
    if start == name:
        yield f"{path}: circular reference ({' -> '.join([*seen, name])})"
        return
    other = pretrain[this.start_from]
    if (this.encoder, _shape(this.backbone)) != (other.encoder, _shape(other.backbone)):
        yield f"{path}: pretrain.{this.start_from} has a different encoder or backbone"
    elif other.released is not None and this.regression != "none":
        yield (
            f"{path}: the released weights of pretrain.{this.start_from} have no head to start"
            " from; set regression: none"
        )
    elif _of(this) != _of(other) or (_of(this) is None and this.regression != other.regression):
        yield (
            f"{path}: pretrain.{this.start_from} has a different head; set the same regression, and"
            " the same kind of target"
        )


def _of(pretrain: Pretrain) -> tuple[str, int | None] | None:
    """What a pre-training predicts of its input; None if it has a teacher."""
    target = pretrain.target
    return (target.of, target.units) if isinstance(target, InputTarget) else None


# parameters that two arms share, so that they differ in nothing but the target
SHARED = ("data", "split", "start_from", "encoder", "backbone", "mask", "view", "schedule")


def _baseline(path: str, task: Finetune, pretrain: Mapping[str, Pretrain]) -> Iterator[str]:
    """Check that a task's baseline differs from its pre-training in nothing but the target."""
    name = task.baseline
    if name is None:
        return
    if name not in pretrain:
        yield f"{path}.baseline: no pretrain.{name}{nearest(name, pretrain)}"
        return
    mine, other = pretrain[task.pretrain], pretrain[name]
    if not isinstance(other.target, InputTarget):
        yield f"{path}.baseline: pretrain.{name} has a teacher; give one with target.kind input"
        return
    found = [key for key in SHARED if getattr(mine, key) != getattr(other, key)]
    found += [f"train.{key}" for key in ("steps", "batch", "sized")
              if getattr(mine.train, key) != getattr(other.train, key)]  # fmt: skip
    if found:
        yield (
            f"{path}.baseline: pretrain.{name} differs from pretrain.{task.pretrain} in"
            f" {', '.join(found)}, so that a comparison would not be of the targets alone"
        )


def _shape(backbone: Backbone) -> dict[str, Any]:
    """Parameters of a backbone that determine which weights it has, and their meaning."""
    values = backbone.model_dump(exclude=OF_TRAINING)
    return {**values, "layer_scale": backbone.layer_scale is not None}


def _start(
    path: str, task: Finetune, pretrain: Pretrain, data: Mapping[str, Data]
) -> Iterator[str]:
    """Check that a task's view fits the encoder of its pre-training."""
    if task.view.kind != pretrain.encoder.kind:
        yield f"{path}.view.kind does not fit pretrain.{task.pretrain}"
    elif task.released is None:  # otherwise, the released weights determine the sizes
        for error in pretrain.encoder.sees(task.view):
            yield f"{path}: {error} (of pretrain.{task.pretrain})"
        if getattr(task.task, "pool", None) == "all" and pretrain.encoder.length is None:
            yield (
                f"{path}.task.pool all: examples differ in length with an encoder of kind"
                f" {pretrain.encoder.kind}; use mean"
            )
        if pretrain.released is not None:  # otherwise already reported for the pre-training
            yield from _vocabulary(f"pretrain.{task.pretrain}", pretrain.encoder, data)


def _grid(name: str, run: Finetune, finetune: Mapping[str, Finetune]) -> Iterator[str]:
    """Check that tasks that share one learning rate try the same rates in the same arms."""
    if run.grid is None or run.grid.best_over == "task":
        return
    for other, task in finetune.items():
        if (task.table, task.row, task.pretrain) != (run.table, run.row, run.pretrain):
            continue
        same = task.grid is not None and task.grid.best_over == "table"
        if not same or (task.arms, task.grid and task.grid.lr) != (run.arms, run.grid.lr):
            yield (
                f"finetune.{name}.grid selects one learning rate for its whole table row, but"
                f" finetune.{other} has other rates or arms, or no grid with best_over: table"
            )


# --- runs with data ---------------------------------------------------------------------------


def _data(
    path: str, name: str, wanted: tuple[str, ...], made: Made, key: str = "data"
) -> Iterator[str]:
    """Check that some data group makes a prepared set, with one of the wanted contents."""
    if name not in made:
        yield f"{path}.{key}: no data set {name}{nearest(name, made)}"
    elif made[name].content not in wanted:
        yield f"{path}.{key}: {name} contains {made[name].content}; expected {' or '.join(wanted)}"


def _splits(path: str, holds: Holds | None, splits: Mapping[str, str]) -> Iterator[str]:
    """Check that a prepared set has all `splits` (key to split, or to a sum of splits, a+b)."""
    if holds is None or not holds.splits:
        return
    for key, value in splits.items():
        for split in value.split("+"):
            if split not in holds.splits:
                yield f"{path}.{key}: no split {split}{nearest(split, holds.splits)}"


def _apart(path: str, task: Finetune) -> Iterator[str]:
    """Check that no example of the training is for choosing or reporting."""
    if task.released is not None:  # nothing is trained
        return
    train = set(task.train_split.split("+"))
    for key, split in (("dev_split", task.dev_split), ("test_split", task.test_split)):
        if shared := train.intersection(split.split("+")):
            yield (
                f"{path}: {key} contains {', '.join(sorted(shared))}, like train_split; evaluate on"
                " other examples than those of the training"
            )


def _labelled(path: str, task: Finetune, made: Made) -> Iterator[str]:
    content = KINDS[task.view.kind].labelled.get(task.task.kind)
    holds = made.get(task.data)
    if content is not None or holds is None:
        yield from _data(path, task.data, (content or "",), made)
    if task.decode is not None:
        yield from _data(path, task.decode.lm, ("language model",), made, "decode.lm")
    splits = {"dev_split": task.dev_split, "test_split": task.test_split}
    if task.released is None:
        splits["train_split"] = task.train_split
    splits |= {f"more.{heading}": split for heading, split in task.more.items()}
    yield from _splits(path, holds, splits)
    if holds is None or holds.content != content:
        return
    classes = getattr(task.task, "classes", None)
    if classes is not None and holds.most is not None and classes > holds.most:
        yield (
            f"{path}.task.classes: {task.data} has {holds.most} classes, but the task expects"
            f" {classes}; give {holds.most}"
        )
    if holds.content != "sentences" and holds.classes is None:  # only known once it is prepared
        return
    if classes != holds.classes:
        found, needed = (
            "numbers" if count is None else f"{count} classes" for count in (holds.classes, classes)
        )
        yield f"{path}.task: {task.data} has {found}, but the task expects {needed}"


def _lists(path: str, task: Finetune, data: Mapping[str, Data]) -> Iterator[str]:
    """Check that the data includes the label lists of all seeds."""
    if task.labels is None:
        return
    seeds = [*task.seeds, *(task.grid.seeds if task.grid else [])]
    names = dict.fromkeys(task.labels.replace("{seed}", str(seed)) for seed in seeds)
    for key, group in data.items():
        known = getattr(group, "listed", None)
        if task.data not in sets_of(key, group) or known is None:
            continue
        if missing := [name for name in names if name.removesuffix(".txt") not in known]:
            yield f"{path}.labels: no list {missing[0]}{nearest(missing[0], known)}"


def _blocks(path: str, pretrain: Pretrain, data: Mapping[str, Data]) -> Iterator[str]:
    """Check that the blocks of a corpus are no longer than the view's examples may be."""
    if not isinstance(pretrain.view, TokenAugment):
        return
    most = pretrain.view.max_tokens
    for name, group in data.items():
        if not isinstance(group, OfBlocks) or pretrain.data not in sets_of(name, group):
            continue
        if group.block > most:
            yield (
                f"{path}.view.max_tokens {most} is less than the block length of"
                f" {pretrain.data}, {group.block} tokens"
            )


def _tokenizer(data: Mapping[str, Data], made: Made) -> Iterator[str]:
    """Check that some group prepares the tokenizer that texts of one's own need."""
    for name, group in data.items():
        if isinstance(group, TextFolder | LabelledText) and "tokenizer" not in made:
            yield (
                f"data.{name}: no group prepares a tokenizer; add one of kind text_folder with"
                " vocab_size, or of kind checkpoint_tokenizer"
            )


def _vocabulary(path: str, encoder: Encoder, data: Mapping[str, Data]) -> Iterator[str]:
    """Check that the experiment's tokenizer has as many tokens as the encoder."""
    if not isinstance(encoder, TokenEncoder):
        return
    for name, group in data.items():
        if not isinstance(group, OfBlocks) or group.vocab_size is None:
            continue
        if group.vocab_size != encoder.vocab_size:
            yield (
                f"{path}.encoder.vocab_size {encoder.vocab_size} differs from"
                f" data.{name}.vocab_size {group.vocab_size}"
            )
