"""`d2v.probe`: what the frozen features of a model tell about the classes of labelled data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from d2v import params
from d2v.data import in_memory, labelled_for
from d2v.evaluation import probing
from d2v.interop import inference, matching
from d2v.interop.hidden_states import Layers, Pool, layer_numbers
from d2v.interop.loading import load
from d2v.interop.module import Model
from d2v.util.errors import UserError
from d2v.util.extras import named
from d2v.util.files import read_json

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Probes:
    """Accuracies of the probes of frozen features, as fractions, by layer and split.

    Layer 0 is the input of the first block, layer l the output of block l. `best` has the best
    linear probe on the development data, on which regularisation was chosen, too.
    """

    knn: dict[int, dict[str, float]]  # nearest neighbours
    linear: dict[int, dict[str, float]]  # a linear classifier
    weighted: dict[str, float]  # a linear classifier on a weighted sum of the layers, by split
    weights: dict[int, float]  # the weights of that sum, which add up to one
    best: int
    details: dict[str, Any] = field(repr=False)  # what `d2v probe -o FILE.json` writes

    def table(self) -> Any:
        """The accuracies as a pandas DataFrame: probe, layer, split, accuracy."""
        with named():
            import pandas as pd
        rows = [
            (kind, layer, split, accuracy)
            for kind, found in (("knn", self.knn), ("linear", self.linear))
            for layer, splits in found.items()
            for split, accuracy in splits.items()
        ]
        rows += [("weighted", -1, split, accuracy) for split, accuracy in self.weighted.items()]
        table = pd.DataFrame(rows, columns=["probe", "layer", "split", "accuracy"])
        return table.assign(layer=table.layer.mask(table.layer < 0).astype("Int64"))


def probe(
    model: Model | str | Path,
    train: Any,
    dev: Any = None,
    test: Any = None,
    *,
    layers: Layers = "all",
    positions: Literal["mean", "keep"] = "mean",
    neighbours: int = 10,
    c: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0),
    batch_size: int | None = None,
) -> Probes:
    """Classify by the frozen features of each layer: nearest neighbours and linear classifiers.

    `model` is loaded, or a checkpoint; it is not trained. `train`, `dev` and `test` are pairs of an
    input and its class (a list, or a table with two columns), or `train` is the folder of a
    prepared set with these splits. Features are means over positions, or with `keep` all positions
    side by side, which needs inputs of one length. `neighbours` is the number of nearest ones by
    cosine. `c` are inverse strengths of regularisation, one of which is chosen on `dev`. Raises
    UserError for data that the model cannot take, for a class that `train` lacks, and for layers
    that the model does not have.
    """
    with named():
        model = model if isinstance(model, Model) else load(model)
        p = _settings(positions, neighbours, c)
        if isinstance(train, str | Path):
            if dev is not None or test is not None:
                raise UserError(
                    "a prepared set has its own dev and test splits; leave out dev and test"
                )
            return _result(of_set(model, Path(train), SPLITS, None, p, layers))
        if dev is None:
            raise UserError("probe: give dev, labelled data on which regularisation is chosen")
        given = {"train": train, "dev": dev} | ({} if test is None else {"test": test})
        return _result(_of_examples(model, given, p, _ascending(model, layers), batch_size))


def of_set(
    model: Model,
    data: Path,
    splits: Sequence[str],
    labels: str | None,
    p: params.Probe,
    layers: Layers,
    say: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """Probes of a model on the splits (train, dev, test) of the prepared set `data`.

    `labels` names a list of training examples. Raises UserError if the set cannot be read or does
    not fit the model, and for layers that the model does not have; properties that cannot be
    compared are told to `say`.
    """
    chosen = _ascending(model, layers)
    parts: list[probing.Features] = []
    for split in splits:
        examples, how = labelled_for(model, data, split, None if parts else labels)
        if not parts:
            source = model.content.source
            for line in matching.check_inputs(matching.described(model.content), how, source):
                say(line)
        parts.append(probing.features(model.student, examples, p.positions, layers=chosen))
    train, dev, test = parts
    return {
        "checkpoint": str(model.content.source),
        "data": str(data),
        "data_sha256": (read_json(data / "meta.json") or {}).get("sha256"),
        "splits": dict(zip(SPLITS, splits, strict=True)),
        "labels": labels,
        "positions": p.positions,
        "neighbours": p.neighbours,
        **probing.probe(p, train, dev, test),
    }


def _ascending(model: Model, layers: Layers) -> tuple[int, ...]:
    """Numbers of the layers, each once."""
    return tuple(sorted(set(layer_numbers(model, layers))))


def _settings(positions: str, neighbours: int, c: Sequence[float]) -> params.Probe:
    given = {"positions": positions, "neighbours": neighbours, "c": list(c)}
    try:
        return params.Probe.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{first['loc'][0]} {first['input']!r}: {first['msg']}") from None


# --- data in memory ---------------------------------------------------------------------------


def _of_examples(
    model: Model,
    given: dict[str, Any],
    p: params.Probe,
    layers: tuple[int, ...],
    batch_size: int | None,
) -> dict[str, Any]:
    splits = {split: in_memory.pairs(data) for split, data in given.items()}
    classes = sorted({str(label) for _, label in splits["train"]})
    if len(classes) < 2:
        raise UserError(f"train: only one class, {classes[0]}; probes tell classes apart")
    for split, examples in splits.items():
        for number, (_, label) in enumerate(examples):
            if str(label) not in classes:
                raise UserError(f"{split}: example {number} is of class {label}, which train lacks")
    numbers = {name: number for number, name in enumerate(classes)}
    parts = {}
    for split, examples in splits.items():
        labels = np.array([numbers[str(label)] for _, label in examples])
        values = _features(model, [item for item, _ in examples], p.positions, layers, batch_size)
        if len(values) != len(labels):
            raise UserError(f"{split}: a file of several inputs; give each text with its class")
        parts[split] = probing.Features(values, labels, layers)
    if len({part.values.shape[2] for part in parts.values()}) > 1:
        raise UserError(probing.DIFFER)
    found = probing.probe(p, parts["train"], parts["dev"], parts.get("test"))
    return {
        "checkpoint": str(model.content.source),
        "classes": classes,
        "positions": p.positions,
        "neighbours": p.neighbours,
        **found,
    }


def _features(
    model: Model, inputs: list[Any], positions: str, layers: tuple[int, ...], size: int | None
) -> probing.Floats:
    """Features (N, layers, F) of inputs in memory."""
    prefix = model.prefix
    rows = []
    pool: Pool | None = "mean" if positions == "mean" else None
    for found in inference.features(model, inputs, layers, pool, size):
        states = [found.hidden[layer] for layer in layers]
        rows.append([(x if pool else x[prefix:].flatten()).double().numpy() for x in states])
    if len({len(row[0]) for row in rows}) > 1:
        raise UserError(probing.DIFFER)
    return np.array(rows)


def _result(found: dict[str, Any]) -> Probes:
    splits = tuple(found["examples"])[1:]

    def scores(entry: dict[str, Any]) -> dict[str, float]:
        return {split: float(entry[split]) for split in splits}

    by_layer = {entry["layer"]: entry for entry in found["layers"]}
    weights = zip(by_layer, found["weighted"]["weights"], strict=True)
    return Probes(
        knn={layer: scores(entry["knn"]) for layer, entry in by_layer.items()},
        linear={layer: scores(entry["linear"]) for layer, entry in by_layer.items()},
        weighted=scores(found["weighted"]),
        weights=dict(weights),
        best=found["best"],
        details=found,
    )
