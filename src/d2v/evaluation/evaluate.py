"""Predictions of a task over a dataset."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from d2v import params
from d2v.data.sampler import cut
from d2v.evaluation.predictions import Prediction, score_rows
from d2v.util.errors import NotFinite
from d2v.util.files import open_to_others, whole

Keep = Callable[[str, Tensor], None]  # id of an example, log-probabilities (T, letters)


class Dataset(Protocol):
    """What evaluation needs from a dataset (d2v.data.build_dataset)."""

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def references(self) -> Sequence[Any]: ...
    @property
    def letters(self) -> Sequence[str]: ...  # of a CTC model's outputs
    @property
    def sizes(self) -> Any: ...  # (N,) integers; needed if batches are formed by length
    def __len__(self) -> int: ...
    def __getitem__(self, at: tuple[int, int], /) -> dict[str, Any]: ...
    def collate(self, examples: list[dict[str, Any]], /) -> dict[str, Any]: ...


def batches(dataset: Dataset, train: params.Portions) -> list[list[int]]:
    """Indices for each forward pass, with as many examples as a micro-batch of training holds.

    Batches are formed by length if training does so; an example that is too long gets its own pass.
    """
    if train.sized is None:
        assert isinstance(train.micro_batch, int)  # auto is for pre-training only
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
    """Predictions for every example, in the dataset's order; `passes` are as from `batches`.

    The task is switched to evaluation mode and back. If it outputs log-probabilities of letters,
    the prediction is their greedy decoding, and `keep` receives the log-probabilities. Raises
    NotFinite if outputs are NaN.
    """
    device = next(task.parameters()).device
    training = task.training
    task.eval()
    loader: DataLoader[Any] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=[[(0, i) for i in indices] for indices in passes],
        collate_fn=dataset.collate,
        num_workers=workers,
        generator=torch.Generator(),  # the loader's seed must not come from the run's generator
    )
    rows: dict[int, Prediction] = {}
    with torch.inference_mode():
        for indices, inputs in zip(passes, loader, strict=True):
            inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
            outputs = task.predict(inputs)  # type: ignore[operator]
            for i, output in zip(indices, outputs, strict=True):
                _check_defined(dataset.ids[i], output)
                rows[i] = _row(dataset, i, output)
                if keep is not None:
                    keep(dataset.ids[i], output["logits"].clone())  # a copy without the padding
    task.train(training)
    return [rows[i] for i in range(len(rows))]


def _check_defined(id: str, output: dict[str, Any]) -> None:
    """Raise NotFinite for NaN, from which a class or a transcript could still be derived."""
    if any(bool(torch.as_tensor(value).isnan().any()) for value in output.values()):
        raise NotFinite(
            f"the outputs for example {id} are not numbers (NaN), because the weights are damaged"
            " or the training diverged; use another checkpoint or a lower learning rate"
        )


def _row(dataset: Dataset, i: int, output: dict[str, Any]) -> Prediction:
    id, reference = dataset.ids[i], dataset.references[i]
    if "probabilities" in output:
        return Prediction(id, reference, " ".join(f"{p:.6g}" for p in output["probabilities"]))
    if "logits" not in output:
        return Prediction(id, reference, output["prediction"])
    from d2v.evaluation.ctc import greedy

    letters = greedy(output["logits"], dataset.letters)
    return Prediction(id, reference, letters, letters)


def write_emissions(path: Path, emissions: Mapping[str, Tensor]) -> None:
    """Write the log-probabilities (T, letters) of each example under its id, atomically.

    A search for decoding weights reads them. They are float32, so that the search sees the same
    values as decoding within the fine-tuning run.
    """
    tensors = {id: e.to("cpu", torch.float32).contiguous() for id, e in emissions.items()}
    with whole(path) as draft:
        save_file(tensors, draft)
        open_to_others(draft)


def validator(
    dataset: Dataset, train: params.Portions, names: Sequence[str]
) -> Callable[[nn.Module, int], dict[str, float]]:
    """A function (task, step) -> metrics for the trainer's validation, with greedy decoding."""
    passes = batches(dataset, train)

    def validate(task: nn.Module, step: int) -> dict[str, float]:
        return score_rows(run_predictions(task, dataset, passes, workers=train.workers), names)

    return validate
