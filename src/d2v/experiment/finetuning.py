"""Execution of a fine-tuning run, and of one that only evaluates released weights."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d2v import params
from d2v.data import build_dataset
from d2v.data.letters import LETTERS
from d2v.evaluation import evaluate, metrics, predictions
from d2v.experiment import compatible, released
from d2v.experiment.task_runs import FinetuneRun
from d2v.interop import matching
from d2v.model.data2vec import Student
from d2v.training import distributed, trainer
from d2v.training.task import Finetuning

STUDENT = "student."  # prefix of the student's weights in a pre-training checkpoint


def finetune(
    run: FinetuneRun, weights: dict[str, Tensor] | None, fit: dict[str, Any]
) -> dict[str, Any]:
    """Train a task from scratch or from `weights`, then evaluate it on the run's splits.

    `fit` holds the arguments of trainer.fit that all runs share. Returns the content of
    metrics.json; it is empty in all processes but the main one.
    """
    p, setting, model = run.params, run.setting(), run.model
    student, count = start(run, weights), outputs(p.task, run.letters)
    task = Finetuning(p, student, model.backbone.dim, count, setting.freeze)

    def data(split: str, train: bool = False) -> Any:
        return dataset_of(run, split, model.encoder, model.backbone.dim, train)

    names = _own_metrics(run)
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
    scores: dict[str, dict[str, float]] = {}
    for split, names in _by_split(run.splits).items():
        scores |= _evaluate(run, task, names, dev if "dev" in names else data(split))
    return {**summary.described(), "metrics": {name: scores[name] for name in run.splits}}


def start(run: FinetuneRun, weights: dict[str, Tensor] | None) -> Student:
    """The student that a run starts from: that of a pre-training, or one with random weights."""
    model = run.model
    student = Student(model.encoder, model.backbone)
    replaced = () if model.backbone.final_norm else ("backbone.norm.weight", "backbone.norm.bias")
    if weights is not None:
        own = {k.removeprefix(STUDENT): w for k, w in weights.items() if k.startswith(STUDENT)}
        student.load_state_dict({k: w for k, w in own.items() if k not in replaced})
    return student


def better_by(name: str, former: str) -> trainer.Better:
    """Compare validations by the metric `name`, which older checkpoints call `former`."""

    def better(new: trainer.Metrics, best: trainer.Metrics | None) -> bool:
        than = math.nan if best is None else best[name if name in best else former]
        return metrics.better(name, new[name], than)

    return better


def evaluate_released(run: FinetuneRun) -> dict[str, Any]:
    """Evaluate published fine-tuned weights unchanged; return the content of metrics.json."""
    p = run.params
    content, origin = released.fine_tuned(p, outputs(p.task, run.letters))
    inputs = compatible.inputs(run)
    assert inputs is not None
    content, lines = matching.fitted(content, inputs)
    print("".join(f"{line}\n" for line in lines), end="", flush=True)
    origin["notes"] = [*origin["notes"], *lines]
    a = content.architecture
    model = Finetuning(
        p.model_copy(update={"task": a.task}),
        Student(a.encoder, a.backbone),
        a.backbone.dim,
        outputs(p.task, run.letters),
    )
    parts = ("student.", "head.")
    model.load_state_dict({k: t for k, t in content.tensors.items() if k.startswith(parts)})
    model.to(distributed.join().device)
    found: dict[str, dict[str, float]] = {}
    for split, names in _by_split(run.splits).items():
        dataset = dataset_of(run, split, a.encoder, a.backbone.dim)
        found |= _evaluate(run, model, names, dataset)
    scores = {name: found[name] for name in run.splits}
    return {"steps": 0, "train_s": 0.0, "released": origin, "metrics": scores}


def outputs(task: params.Task, letters: Sequence[str] = LETTERS) -> int:
    """Number of logits of a task's head; `letters` are those of its transcripts."""
    return len(letters) if task.outputs is None else task.outputs


def _by_split(splits: dict[str, str]) -> dict[str, list[str]]:
    """The names of each split; a split with two names is thus read only once."""
    found = dict.fromkeys(splits.values())
    return {split: [name for name, s in splits.items() if s == split] for split in found}


def dataset_of(
    run: FinetuneRun, split: str, encoder: params.Encoder, dim: int, train: bool = False
) -> Any:
    """The labelled examples of a split."""
    p = run.params
    return build_dataset(
        run.prepared / p.data,
        split,
        p.view,
        seed=run.seed,
        train=train,
        labels=run.labels if train else None,
        task=p.task,
        encoder=encoder,
        dim=dim,
    )


def _evaluate(
    run: FinetuneRun, task: nn.Module, names: list[str], dataset: Any
) -> dict[str, dict[str, float]]:
    """Write the predictions of a split under each of its names; return the files' metrics."""
    p = run.params
    emissions: dict[str, torch.Tensor] | None = None if p.decode is None else {}
    rows = evaluate.run_predictions(
        task,
        dataset,
        evaluate.batches(dataset, p.train),
        workers=p.train.workers,
        keep=emissions.__setitem__ if emissions is not None else None,
    )
    if p.decode is not None and not run.searched and emissions is not None:
        rows = _searched(rows, emissions, p.decode, run.prepared / p.decode.lm, run.letters)
        emissions = None
    scores = {}
    for name in names:
        path = run.predictions(name)
        predictions.write_predictions(path, rows)
        if emissions is not None:
            evaluate.write_emissions(run.emissions(name), emissions)
        scores[name] = predictions.score(path, _own_metrics(run))
    return scores


def _searched(
    rows: list[predictions.Prediction],
    emissions: dict[str, torch.Tensor],
    decode: params.Decode,
    lm: Path,
    letters: Sequence[str],
) -> list[predictions.Prediction]:
    """The rows, with the words that a beam search finds in their log-probabilities."""
    from d2v.evaluation.beam_search import decode_all
    from d2v.evaluation.ctc import Language

    texts = decode_all([(row.id, emissions[row.id]) for row in rows], decode, Language(lm, letters))
    return [replace(row, prediction=text) for row, text in zip(rows, texts, strict=True)]


def _own_metrics(run: FinetuneRun) -> list[str]:
    """Metrics that the fine-tuning reports: greedy ones if a separate job searches for weights."""
    names = run.params.metrics
    return metrics.greedy(names) if run.searched else list(names)
