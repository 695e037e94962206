"""Predictions of a task over a dataset, kept in a file, and the metrics of that file."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from d2v import metrics, params
from d2v.data.sampler import cut
from d2v.errors import UserError

Keep = Callable[[str, Tensor], None]  # id of an example, log-probabilities (T, letters)


class Dataset(Protocol):
    """What evaluation needs of a dataset (d2v.data.build_dataset)."""

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def references(self) -> Sequence[Any]: ...
    @property
    def sizes(self) -> Any: ...  # (N,) integers; asked for where batches go by length
    def __len__(self) -> int: ...
    def __getitem__(self, at: tuple[int, int], /) -> dict[str, Any]: ...
    def collate(self, examples: list[dict[str, Any]], /) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Prediction:
    """One example: what is true, what was predicted and, of transcripts, the greedy reading."""

    id: str
    reference: Any
    prediction: Any
    greedy: str | None = None


def batches(dataset: Dataset, train: params.Train) -> list[list[int]]:
    """Indices of each forward pass: as many examples as a micro-batch of training holds.

    By length where training goes by length; an example that is too long for that has its own pass.
    """
    if train.sized is None:
        assert train.micro_batch is not None
        order, ends = np.arange(len(dataset)), range(0, len(dataset), train.micro_batch)
        return [order[start : start + train.micro_batch].tolist() for start in ends]
    order = np.argsort(-dataset.sizes, kind="stable")
    parts = np.split(order, cut(dataset.sizes[order], train.sized.size)[:-1])
    return [part.tolist() for part in parts]


def run_predictions(
    task: nn.Module,
    dataset: Dataset,
    passes: Sequence[Sequence[int]],
    *,
    workers: int = 0,
    keep: Keep | None = None,
) -> list[Prediction]:
    """Predictions for every example in the dataset's order; `passes` are indices, as by `batches`.

    The task is put into evaluation mode and back. Where it gives log-probabilities of letters, the
    prediction is their greedy reading, and `keep` gets them.
    """
    device = next(task.parameters()).device
    training = task.training
    task.eval()
    loader: DataLoader[Any] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=[[(0, i) for i in indices] for indices in passes],
        collate_fn=dataset.collate,
        num_workers=workers,
        generator=torch.Generator(),  # the loader draws a seed: not from the run's generator
    )
    rows: dict[int, Prediction] = {}
    with torch.inference_mode():
        for indices, inputs in zip(passes, loader, strict=True):
            inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
            outputs = task.predict(inputs)  # type: ignore[operator]
            for i, output in zip(indices, outputs, strict=True):
                rows[i] = _row(dataset.ids[i], dataset.references[i], output)
                if keep is not None:
                    keep(dataset.ids[i], output["logits"].clone())  # without its padding
    task.train(training)
    return [rows[i] for i in range(len(rows))]


def _row(id: str, reference: Any, output: dict[str, Any]) -> Prediction:
    if "probabilities" in output:
        return Prediction(id, reference, " ".join(f"{p:.6g}" for p in output["probabilities"]))
    if "logits" not in output:
        return Prediction(id, reference, output["prediction"])
    from d2v.decode import greedy

    letters = greedy(output["logits"])
    return Prediction(id, reference, letters, letters)


def write_predictions(path: str | Path, rows: Sequence[Prediction]) -> None:
    """Write id, reference, prediction and, where there is one, greedy: tab-separated, atomically.

    Numbers are written so that they are read back exactly. Raises UserError for a tab or a line
    break inside a field.
    """
    path = Path(path)
    names = _columns(rows)
    lines = ["\t".join(names)]
    for row in rows:
        fields = [str(getattr(row, name)) for name in names]
        if any(mark in field for field in fields for mark in "\t\n\r"):
            raise UserError(f"{path}: example {row.id!r} has a tab or line break; remove it")
        lines.append("\t".join(fields))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    os.replace(partial, path)


def write_emissions(path: Path, emissions: Mapping[str, Tensor]) -> None:
    """Write log-probabilities (T, letters) of each example under its id, float32, atomically.

    A search for decoding weights reads them; float32, so that it sees what an inline one would.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    save_file({id: e.to("cpu", torch.float32).contiguous() for id, e in emissions.items()}, partial)
    os.replace(partial, path)


def _columns(rows: Sequence[Prediction]) -> list[str]:
    names = ["id", "reference", "prediction"]
    return [*names, "greedy"] if rows and rows[0].greedy is not None else names


def read_predictions(path: str | Path) -> list[Prediction]:
    """Rows of a prediction file, values as text. Raises UserError naming the file and line."""
    try:
        header, *lines = Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read predictions: {error}") from None
    names = header.split("\t")
    if names not in (
        ["id", "reference", "prediction"],
        ["id", "reference", "prediction", "greedy"],
    ):
        raise UserError(f"{path}:1: not a prediction file (id, reference, prediction[, greedy])")
    rows = []
    for number, line in enumerate(lines, start=2):
        fields = line.split("\t")
        if len(fields) != len(names):
            raise UserError(f"{path}:{number}: {len(fields)} fields, {len(names)} are expected")
        rows.append(Prediction(*fields))
    return rows


def score(path: str | Path, names: Sequence[str]) -> dict[str, float]:
    """Metrics recomputed from a prediction file: {name: fraction, NaN where undefined}.

    Raises UserError naming the file for values that do not fit a metric.
    """
    try:
        return score_rows(read_predictions(path), names)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def score_rows(rows: Sequence[Prediction], names: Sequence[str]) -> dict[str, float]:
    """Metrics of predictions; the same whether the rows were just made or read from a file.

    Raises ValueError for a value of the wrong type, UserError for an unknown metric.
    """
    found = {}
    for name in names:
        metric = metrics.named(name)
        if any(getattr(row, metric.column) is None for row in rows):
            raise ValueError(f"no column {metric.column}, which {name} needs")
        references = [(metric.reference or metric.value)(row.reference) for row in rows]
        predictions = [metric.value(getattr(row, metric.column)) for row in rows]
        found[name] = metrics.compute(name, references, predictions)
    return found


def validator(
    dataset: Dataset, train: params.Train, names: Sequence[str]
) -> Callable[[nn.Module, int], dict[str, float]]:
    """A function (task, step) -> metrics for the trainer's validations: greedy, without search."""
    passes = batches(dataset, train)

    def validate(task: nn.Module, step: int) -> dict[str, float]:
        return score_rows(run_predictions(task, dataset, passes, workers=train.workers), names)

    return validate
