"""Execution of one run: data, task, training, evaluation, and `metrics.json` as the last file."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from d2v import params
from d2v.data import build_dataset
from d2v.data.letters import LETTERS
from d2v.data.readers.official import lacking
from d2v.evaluation import attention_example, evaluate, metrics, predictions
from d2v.experiment import compatible, provenance, released, runs
from d2v.experiment.runs import Run
from d2v.interop import matching
from d2v.model.data2vec import Student
from d2v.training import checkpoint, distributed, trainer
from d2v.training.task import Finetuning, Pretraining
from d2v.util.errors import UserError, spared
from d2v.util.files import read_json, remove_file, remove_folder, write_json

Weights = dict[str, torch.Tensor]
STUDENT = "student."  # prefix of the student's weights in a pre-training checkpoint


def execute(experiment_path: Path, run_id: str) -> None:
    """Execute a run of an experiment, resuming where an earlier attempt ended.

    Raises UserError for anything the user can fix; no metrics are written then.
    """
    started = time.perf_counter()
    experiment = params.load(experiment_path)
    run = runs.parse(experiment, run_id)
    defining = runs.resolve_fully(experiment, run)
    data = {name: _content_hash(experiment, name) for name in runs.datasets(experiment, run)}
    source = runs.pretrain_run(experiment, run)
    weights = _pretrained(experiment, source) if source else None
    loaded, weights_sha256, known = weights or (None, None, None)
    inputs = compatible.inputs(experiment, run)
    lines = compatible.compared(experiment, run, known) if weights else []
    work = runs.work_folder(experiment, run)
    main = distributed.join().main
    if main:
        attempts = _enter(work, defining)
        print("".join(f"{line}\n" for line in lines), end="", flush=True)
    fit = {
        "work": work,
        "seed": run.seed,
        "params": {**defining, "data_sha256": data, "weights_sha256": weights_sha256},
        "inputs": inputs.model_dump(mode="json") if inputs else None,
    }
    torch.manual_seed(run.seed)
    if runs.released_of(experiment, run):
        found = _released(experiment, run, fit) if main else {}
    elif run.kind == "pretrain":
        found = _pretrain(experiment, run, loaded, fit)
    elif run.kind == "decode":
        from d2v.experiment import decoding

        found = decoding.execute_decode(experiment, run) if main else {}
    else:
        found = _finetune(experiment, run, loaded, fit)
    if not main:
        return
    noted: dict[str, Any] = {
        "params_sha256": runs.fingerprint(experiment, run),
        "data_sha256": data,
        "seed": run.seed,
        "wall_s": round(time.perf_counter() - started, 2),
        "attempts": attempts,
    }
    described = provenance.incomplete(noted)
    with spared("the provenance"):
        described = provenance.describe(**noted)
    head: dict[str, Any] = {
        "run": run.id,
        "kind": run.kind,
        "name": run.name,
        "arm": run.arm,
        "seed": run.seed,
    }
    head |= {"pretrain_run": source.id if source else None, "setting": defining.get("setting")}
    if partial := _partial_data(experiment, run):
        head["partial_data"] = partial
    write_json(runs.metrics_path(experiment, run), {**head, **found, "provenance": described})
    with spared("the note that the run has finished"):
        _leave(work)


def _partial_data(experiment: params.Experiment, run: Run) -> dict[str, str]:
    """What is missing from the official datasets, by prepared set.

    This covers the sets of the run and of the run that it starts from.
    """
    before = runs.finetune_run(run) if run.kind == "decode" else runs.pretrain_run(experiment, run)
    earlier = read_json(runs.metrics_path(experiment, before)) if before else None
    found = dict((earlier or {}).get("partial_data") or {})
    for name in runs.datasets(experiment, run):
        found[name] = lacking(read_json(runs.meta_path(experiment, name)) or {})
    return {name: what for name, what in found.items() if what}


def _pretrain(
    experiment: params.Experiment, run: Run, weights: Weights | None, fit: dict[str, Any]
) -> dict[str, Any]:
    p = experiment.pretrain[run.name]
    dataset = build_dataset(
        Path(experiment.prepared) / p.data,
        p.split,
        p.view,
        seed=run.seed,
        mask=p.mask,
        train=True,
        encoder=p.encoder,
    )
    task = Pretraining(p)
    if weights is not None:
        task.model.start_from(weights)
    summary = trainer.fit(
        task,
        dataset,
        optimiser=p.optimiser,
        schedule=p.schedule,
        train=p.train,
        **fit,
    )
    if distributed.join().main:
        path = runs.result_folder(experiment, run) / "attention.json"
        with spared("the picture of attention"):
            remove_file(path)
            if look := attention_example.attention(task, dataset):
                write_json(path, look)
    return {**_training(summary), "metrics": {}}


def _finetune(
    experiment: params.Experiment,
    run: Run,
    weights: Weights | None,
    fit: dict[str, Any],
) -> dict[str, Any]:
    p = experiment.finetune[run.name]
    setting = runs.setting_of(experiment, run)
    model = runs.pretrain_of(experiment, run)
    student = Student(model.encoder, model.backbone)
    replaced = () if model.backbone.final_norm else ("backbone.norm.weight", "backbone.norm.bias")
    if weights is not None:
        own = {k.removeprefix(STUDENT): w for k, w in weights.items() if k.startswith(STUDENT)}
        student.load_state_dict({k: w for k, w in own.items() if k not in replaced})
    task = Finetuning(p, student, model.backbone.dim, outputs(p.task), setting.freeze)

    def data(split: str, train: bool = False) -> Any:
        return _dataset(experiment, run, split, model.encoder, model.backbone.dim, train)

    names = _own_metrics(p)
    # validation decodes greedily, so it reports greedy_wer; `wer` is left to the final decoding
    validated = metrics.greedy(names) if p.decode is not None else names
    dev, decides = data(p.dev_split), validated[0]
    summary = trainer.fit(
        task,
        data(p.train_split, train=True),
        optimiser=p.optimiser.at(setting.lr),
        schedule=p.schedule,
        train=p.train.lasting(setting.steps),
        validate=evaluate.validator(dev, p.train, validated),
        validate_every=p.validate_every,
        keep=p.keep,
        better=better_by(decides, names[0]),
        **fit,
    )
    if not distributed.join().main:
        return {}
    splits = _splits(p) if run.kind != "select" else {"dev": p.dev_split}
    scores: dict[str, dict[str, float]] = {}
    for split, names in _by_split(splits).items():
        scores |= _evaluate(experiment, run, task, names, dev if "dev" in names else data(split))
    return {**_training(summary), "metrics": {name: scores[name] for name in splits}}


def better_by(name: str, former: str) -> trainer.Better:
    """Compare validations by the metric `name`, which older checkpoints call `former`."""

    def better(new: trainer.Metrics, best: trainer.Metrics | None) -> bool:
        than = math.nan if best is None else best[name if name in best else former]
        return metrics.better(name, new[name], than)

    return better


def _released(experiment: params.Experiment, run: Run, fit: dict[str, Any]) -> dict[str, Any]:
    """Use published weights instead of training; return the content of metrics.json."""
    if run.kind == "pretrain":
        p = experiment.pretrain[run.name]
        return released.take_over(p, fit["work"] / "checkpoints", fit["params"])
    task = experiment.finetune[run.name]
    content, origin = released.fine_tuned(task, outputs(task.task))
    inputs = compatible.inputs(experiment, run)
    assert inputs is not None
    content, lines = matching.fitted(content, inputs)
    print("".join(f"{line}\n" for line in lines), end="", flush=True)
    origin["notes"] = [*origin["notes"], *lines]
    a = content.architecture
    model = Finetuning(
        task.model_copy(update={"task": a.task}),
        Student(a.encoder, a.backbone),
        a.backbone.dim,
        outputs(task.task),
    )
    parts = ("student.", "head.")
    model.load_state_dict({k: t for k, t in content.tensors.items() if k.startswith(parts)})
    model.to(distributed.join().device)
    splits = _splits(task)
    found: dict[str, dict[str, float]] = {}
    for split, names in _by_split(splits).items():
        dataset = _dataset(experiment, run, split, a.encoder, a.backbone.dim)
        found |= _evaluate(experiment, run, model, names, dataset)
    scores = {name: found[name] for name in splits}
    return {"steps": 0, "train_s": 0.0, "released": origin, "metrics": scores}


def _splits(p: params.Finetune) -> dict[str, str]:
    """The splits to evaluate at the end, by the name of their predictions."""
    return {"dev": p.dev_split, "test": p.test_split, **{split: split for split in p.more.values()}}


def _by_split(splits: dict[str, str]) -> dict[str, list[str]]:
    """The names of each split; a split with two names is thus read only once."""
    found = dict.fromkeys(splits.values())
    return {split: [name for name, s in splits.items() if s == split] for split in found}


def _dataset(
    experiment: params.Experiment,
    run: Run,
    split: str,
    encoder: params.Encoder,
    dim: int,
    train: bool = False,
) -> Any:
    """The labelled examples of a split."""
    p = experiment.finetune[run.name]
    return build_dataset(
        Path(experiment.prepared) / p.data,
        split,
        p.view,
        seed=run.seed,
        train=train,
        labels=runs.labels_of(p, run.seed) if train else None,
        task=p.task,
        encoder=encoder,
        dim=dim,
    )


def _evaluate(
    experiment: params.Experiment, run: Run, task: nn.Module, names: list[str], dataset: Any
) -> dict[str, dict[str, float]]:
    """Write the predictions of a split under each of its names; return the files' metrics."""
    p = experiment.finetune[run.name]
    emissions: dict[str, torch.Tensor] | None = None if p.decode is None else {}
    rows = evaluate.run_predictions(
        task,
        dataset,
        evaluate.batches(dataset, p.train),
        workers=p.train.workers,
        keep=emissions.__setitem__ if emissions is not None else None,
    )
    if p.decode is not None and p.decode.search is None and emissions is not None:
        rows = _searched(rows, emissions, p.decode, Path(experiment.prepared) / p.decode.lm)
        emissions = None
    scores = {}
    for name in names:
        path = runs.result_folder(experiment, run) / f"predictions-{name}.tsv"
        predictions.write_predictions(path, rows)
        if emissions is not None:
            evaluate.write_emissions(runs.emissions_path(experiment, run, name), emissions)
        scores[name] = predictions.score(path, _own_metrics(p))
    return scores


def _searched(
    rows: list[predictions.Prediction],
    emissions: dict[str, torch.Tensor],
    decode: params.Decode,
    lm: Path,
) -> list[predictions.Prediction]:
    """The rows, with the words that a beam search finds in their log-probabilities."""
    from d2v.evaluation.beam_search import decode_all

    texts = decode_all([(row.id, emissions[row.id]) for row in rows], decode, lm)
    return [replace(row, prediction=text) for row, text in zip(rows, texts, strict=True)]


def _own_metrics(p: params.Finetune) -> list[str]:
    """Metrics that the fine-tuning reports: greedy ones if a separate job searches for weights."""
    searched = p.decode is not None and p.decode.search is not None
    return metrics.greedy(p.metrics) if searched else list(p.metrics)


def outputs(task: params.Task) -> int:
    """Number of logits of a task's head."""
    match task:
        case params.Classify() | params.Tag():
            return task.classes
        case params.Regress():
            return 1
        case params.CTC():
            return len(LETTERS)


def _training(summary: trainer.Summary) -> dict[str, Any]:
    return {
        "steps": summary.steps,
        "kept_step": summary.kept,
        "checkpoint": str(summary.checkpoint),
        "train_s": round(summary.seconds, 2),
        **summary.logs,
    }


def _content_hash(experiment: params.Experiment, dataset: str) -> str:
    path = runs.meta_path(experiment, dataset)
    meta = read_json(path)
    if meta is None or "sha256" not in meta:
        raise UserError(f"{path} is missing or incomplete; run `d2v data {dataset}`")
    return str(meta["sha256"])


def _pretrained(
    experiment: params.Experiment, source: Run
) -> tuple[Weights, str, dict[str, Any] | None]:
    """Student and head of a pre-training, the hash of their file, and the record of its inputs.

    Raises UserError if the pre-training is not done or its checkpoint is missing.
    """
    found = read_json(runs.metrics_path(experiment, source))
    if found is None:
        raise UserError(f"{source.id} has not finished; run it first (`d2v run {source.id}`)")
    folder = Path(found["checkpoint"])
    if not folder.exists():
        raise UserError(f"{folder} is missing; run {source.id} again (`d2v run {source.id}`)")
    weights = checkpoint.load_weights(folder, "model.")
    weights = {name: w for name, w in weights.items() if not name.startswith("teacher.")}
    meta = json.loads((folder / checkpoint.META).read_text())
    return weights, str(meta["sha256"][checkpoint.MODEL]), meta.get("inputs")


def _enter(work: Path, defining: dict[str, Any]) -> int:
    """Record the attempt; return the number of attempts so far.

    A run that was finished by a different version of the code starts again. A run that was
    interrupted resumes with the new code and prints a note.
    """
    code = provenance.code_sha256()
    before = read_json(work / "attempts.json") or {"attempts": 0}
    if before["attempts"] and before["code_sha256"] != code:
        if before["finished"]:
            print("the code has changed since this run finished, so it starts again")
            remove_folder(work / "checkpoints")
            before = {"attempts": 0}
        else:
            print("the code has changed since this run was interrupted; it resumes with new code")
    now = {"attempts": before["attempts"] + 1, "code_sha256": code, "finished": False}
    write_json(work / "attempts.json", now)
    return now["attempts"]


def _leave(work: Path) -> None:
    write_json(
        work / "attempts.json", {**(read_json(work / "attempts.json") or {}), "finished": True}
    )
