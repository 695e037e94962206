"""`d2v.finetune` and `d2v.pretrain`: runs of the workflow as functions.

They carry out the same runs as `d2v run` (d2v.experiment.execute), in one folder that is not part
of an experiment, with data that are prepared or in memory.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from d2v import params
from d2v.data import in_memory
from d2v.evaluation.predictions import read_predictions
from d2v.experiment import execute
from d2v.experiment.run import PretrainRun
from d2v.experiment.task_runs import FinetuneRun
from d2v.interop.loading import load
from d2v.interop.matching import described
from d2v.interop.module import Model
from d2v.interop.tokenizing import write_tokenizer
from d2v.params.faults import explain
from d2v.training import log, tracking
from d2v.util.errors import UserError
from d2v.util.extras import named
from d2v.util.files import read_json

Callback = Callable[[Mapping[str, Any]], None]
MODEL, TASK = "model", "task"  # names of the runs
METRICS = {"classify": ["accuracy"], "regress": ["spearman", "pearson"], "ctc": ["wer", "cer"]}


@dataclass(frozen=True)
class Result:
    """Result of a training run: metrics by split and name, as fractions, and its checkpoint."""

    metrics: dict[str, dict[str, float]]
    checkpoint: Path  # folder that d2v.load reads
    folder: Path  # of everything that the run wrote: metrics.json, log.jsonl, predictions
    details: dict[str, Any] = field(repr=False)  # content of metrics.json

    @property
    def log(self) -> list[dict[str, Any]]:
        """Loss, learning rate, validation metrics and so on of every step."""
        return log.read(self.folder / "log.jsonl")

    def predictions(self, split: str = "dev") -> Any:
        """The predictions of a split as a pandas DataFrame: id, reference, prediction."""
        path = self.folder / f"predictions-{split}.tsv"
        if not path.exists():
            known = ", ".join(self.metrics) or "none"
            raise UserError(f"no predictions of split {split!r}; there are: {known}")
        with named():
            import pandas as pd
        return pd.DataFrame([vars(row) for row in read_predictions(path)]).dropna(axis=1)

    def model(self) -> Model:
        """The trained model."""
        return load(self.checkpoint)


@dataclass(frozen=True)
class _InFolder:
    """Replaces the folders of a run of an experiment by one folder."""

    folder: Path = field(kw_only=True, compare=False)

    @property
    def work(self) -> Path:
        """Folder of checkpoints and logs."""
        return self.folder

    @property
    def results(self) -> Path:
        """Folder of predictions and metrics."""
        return self.folder


@dataclass(frozen=True)
class _Tuning(_InFolder, FinetuneRun):
    """A fine-tuning outside of an experiment."""


@dataclass(frozen=True)
class _Pretraining(_InFolder, PretrainRun):
    """A pre-training outside of an experiment."""


def finetune(
    model: Model | str | Path,
    train: Any,
    dev: Any = None,
    test: Any = None,
    *,
    task: params.Finetune | Mapping[str, Any] | str,
    steps: int = 1000,
    lr: float = 1e-4,
    batch: int = 16,
    seed: int = 0,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Fine-tune a model on labelled data; the best weights on the development data are kept.

    `model` is a loaded model or a checkpoint; it is not changed. `train`, `dev` and `test` are
    pairs of an input and its label (a list, or a table with two columns), or `train` is the folder
    of a prepared set. `task` is classify, regress or ctc (transcripts), which use a general recipe
    with `steps`, `lr` and `batch`, or a complete block of `finetune:`. Callbacks are called with
    each line of the log. Files are written to the folder `out`, which must not contain a finished
    run; the default is a temporary folder. Raises UserError as `d2v run` does.
    """
    with named():
        source = model if isinstance(model, Model) else load(model, "cpu")
        folder = _folder(out)
        prepared, name = _prepared(folder, source, train, dev, test, task)
        encoder = source.params.encoder
        if isinstance(task, str):
            block = _recipe(source, task, prepared / name, dev is not None, steps, lr, batch)
        else:
            block = dict(task.model_dump() if isinstance(task, params.Finetune) else task)
        p = _block(block, name, seed)
        if prepared.parent == folder and test is None:
            p = p.model_copy(update={"test_split": p.dev_split, "chosen_on_test": True})
        pretrain = params.Pretrain.model_construct(
            data=name, encoder=encoder, backbone=source.params.backbone, seeds=[seed], released=None
        )
        experiment = _experiment(prepared, {MODEL: pretrain}, {TASK: p})
        run = _Tuning(experiment, TASK, seed, "data2vec", folder=folder)
        weights = {f"student.{k}": _copy(t) for k, t in source.student.state_dict().items()}
        record = described(source.content).model_dump(mode="json")
        origin = str(source.provenance.get("sha256") or source.content.source)
        found = _carried_out(run, (weights, origin, record), callbacks)
        splits = ("dev",) if p.test_split == p.dev_split else tuple(found["metrics"])
        return _result(folder, found, {s: found["metrics"][s] for s in splits})


def pretrain(
    recipe: params.Pretrain | Mapping[str, Any] | str | Path,
    data: Any = None,
    *,
    name: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Pre-train a model on unlabelled data.

    `recipe` is a block of `pretrain:`, or a parameter file, in which `name` is one of its
    pre-training runs. `data` are inputs in memory (as for `features`) or the folder of a prepared
    set; the default is the set that the file names. The other arguments are those of `finetune`.
    """
    with named():
        if isinstance(recipe, str | Path):
            experiment = params.load(recipe)
            if name not in experiment.pretrain:
                known = ", ".join(experiment.pretrain)
                raise UserError(f"{recipe}: give name=, one of its pre-trainings: {known}")
            block: dict[str, Any] = experiment.pretrain[name].model_dump()
            data = Path(experiment.prepared) / block["data"] if data is None else data
        else:
            block = dict(recipe.model_dump() if isinstance(recipe, params.Pretrain) else recipe)
        if data is None:
            raise UserError("pretrain: give data, inputs or the folder of a prepared set")
        folder = _folder(out)
        if isinstance(data, str | Path):
            prepared, name = _of_folder(Path(data))
        else:
            prepared, name = folder / "prepared", in_memory.SET
        p = _valid(params.Pretrain, {**block, "data": name, "seeds": [seed], "start_from": None})
        if not isinstance(data, str | Path):
            _write_unlabelled(prepared, p, data)
        run = _Pretraining(_experiment(prepared, {MODEL: p}, {}), MODEL, seed, folder=folder)
        return _result(folder, _carried_out(run, None, callbacks), {})


def _carried_out(
    run: FinetuneRun | PretrainRun,
    weights: tuple[dict[str, Tensor], str, dict[str, Any]] | None,
    callbacks: Sequence[Callback],
) -> dict[str, Any]:
    with tracking.listening(callbacks):
        execute.execute(run, weights)
    found = read_json(run.metrics_path)
    assert found is not None
    return found


def _result(folder: Path, found: dict[str, Any], metrics: dict[str, dict[str, float]]) -> Result:
    return Result(metrics, Path(found["checkpoint"]), folder, found)


def _folder(out: str | Path | None) -> Path:
    """The run's folder; raises UserError if it contains a finished run, or anything of others."""
    if out is None:
        return Path(tempfile.mkdtemp(prefix="d2v-"))
    folder = Path(out).absolute()
    if (folder / "metrics.json").exists():
        raise UserError(f"{out}: contains a finished run; give another folder, or remove it")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{out}: not empty; give another folder, or remove it")
    return folder


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).float()


# --- data -------------------------------------------------------------------------------------


def _prepared(
    folder: Path, model: Model, train: Any, dev: Any, test: Any, task: Any
) -> tuple[Path, str]:
    """Folder of prepared sets, and the name of the labelled one."""
    if isinstance(train, str | Path):
        if dev is not None or test is not None:
            raise UserError(
                "a prepared set has its own dev and test splits; leave out dev and test"
            )
        return _of_folder(Path(train))
    if dev is None:
        raise UserError("finetune: give dev, labelled data on which the best weights are chosen")
    given = {"train": train, "dev": dev} | ({} if test is None else {"test": test})
    splits = {split: in_memory.pairs(data) for split, data in given.items()}
    labels = {str(label) for _, label in splits["train"]}
    classes = len(labels) if _kind(task) == "classify" else None
    prepared = folder / "prepared"
    in_memory.write(
        prepared,
        model.params.encoder.kind,
        splits,
        model.inputs,
        lambda folder: write_tokenizer(model.content, folder),
        classes=classes,
    )
    return prepared, in_memory.SET


def _of_folder(data: Path) -> tuple[Path, str]:
    if not (data / "meta.json").exists():
        raise UserError(f"{data}: not a prepared set (no meta.json); see `d2v prepare --help`")
    return data.absolute().parent, data.name


def _write_unlabelled(prepared: Path, p: params.Pretrain, data: Any) -> None:
    examples = [(item, None) for item in data]
    if not examples:
        raise UserError("no examples")
    more: dict[str, Any] = {}
    if isinstance(p.encoder, params.TokenEncoder):
        more = {"vocab_size": p.encoder.vocab_size, "block": p.view.longest}
    in_memory.write(prepared, p.encoder.kind, {"train": examples}, **more)


# --- parameters -------------------------------------------------------------------------------


def _kind(task: Any) -> str:
    if isinstance(task, params.Finetune):
        return task.task.kind
    return str(task["task"]["kind"]) if isinstance(task, Mapping) else task


def _recipe(
    model: Model, kind: str, data: Path, in_memory: bool, steps: int, lr: float, batch: int
) -> dict[str, Any]:
    """A general recipe for a task: AdamW, cosine schedule, ten validations."""
    if kind not in METRICS:
        raise UserError(f"task {kind!r}: give one of {', '.join(METRICS)}, or a block of finetune:")
    meta = read_json(data / "meta.json") or {}
    head: dict[str, Any] = {"kind": kind}
    if kind != "ctc":
        head["pool"] = "first" if isinstance(model.inputs, params.TokenInput) else "mean"
    if kind == "classify":
        head["classes"] = len(meta.get("classes") or ())
    view: dict[str, Any] = {"kind": model.params.encoder.kind}
    if isinstance(model.inputs, params.TokenInput):
        view["max_tokens"] = model.inputs.max_tokens
    every = max(1, steps // 10)
    return {
        "metrics": METRICS[kind],
        "task": head,
        "view": view,
        "settings": {"data2vec": {"lr": lr, "steps": steps}},
        "optimiser": {"betas": [0.9, 0.98], "eps": 1e-8, "weight_decay": 0.01, "clip": 1.0},
        "schedule": {"kind": "cosine", "warmup": 0.1},
        "train": {"batch": batch, "micro_batch": batch, "precision": "mixed",
                  "log_every": min(20, every), "checkpoint_every": every},
        "validate_every": every,
        "keep": "best",
    }  # fmt: skip


def _block(block: Mapping[str, Any], data: str, seed: int) -> params.Finetune:
    """A block of `finetune:` for the set `data`, one seed, and the given weights."""
    values = {"table": "glue", "column": "", **block}
    settings = values.get("settings")
    if not settings or "data2vec" not in settings:
        raise UserError("task: give settings with data2vec, learning rate and steps, not a grid")
    values |= {
        "pretrain": MODEL, "data": data, "seeds": [seed], "arms": ["data2vec"], "baseline": None,
        "settings": {"data2vec": settings["data2vec"]}, "grid": None, "probe": None,
    }  # fmt: skip
    found: params.Finetune = _valid(params.Finetune, values)
    return found


def _valid(kind: Any, values: Mapping[str, Any]) -> Any:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(explain(fault, kind) for fault in error.errors())) from None


def _experiment(
    prepared: Path,
    pretrain: dict[str, params.Pretrain],
    finetune: dict[str, params.Finetune],
) -> params.Experiment:
    """What the runs need of an experiment; it is not validated, since it has no data groups."""
    return params.Experiment.model_construct(
        name="library", title="", scale="own", prepared=str(prepared), stages="", data={},
        pretrain=pretrain, finetune=finetune,
    )  # fmt: skip
