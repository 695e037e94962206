"""Probes: what frozen features of each layer tell about the labels. scikit-learn does the fitting.

Three probes of increasing freedom: the classes of the nearest neighbours, a linear classifier for
each layer, and a linear classifier on a weighted sum of the layers (SUPERB, Yang et al. 2021).
Everything is fitted to labelled training examples and chosen on the development split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from d2v import params
from d2v.data.examples import Examples
from d2v.model.data2vec import Student
from d2v.model.heads import pool
from d2v.model.transformer import Kept
from d2v.training import devices
from d2v.training.adam import Uncompiled
from d2v.util.errors import UserError

Floats = npt.NDArray[np.float64]
Classes = npt.NDArray[np.int64]
BATCH = 64
DIFFER = "probe.positions keep: examples differ in length; use mean"


@dataclass(frozen=True)
class Features:
    """Features of a split's examples, (N, layers, F), and their classes (N,).

    Layer 0 is the input of the first block, layer l the output of block l. `chosen` are the layers
    whose features these are; None: all.
    """

    values: Floats
    classes: npt.NDArray[np.int64]
    chosen: tuple[int, ...] | None = None

    @property
    def layers(self) -> tuple[int, ...]:
        """The number of each layer."""
        return tuple(range(self.values.shape[1])) if self.chosen is None else self.chosen


@torch.inference_mode()
def features(
    student: Student,
    dataset: Examples,
    positions: str,
    most: int | None = None,
    layers: tuple[int, ...] | None = None,
) -> Features:
    """Frozen features of the first `most` examples, in evaluation mode; by default of all layers.

    `positions` is `mean`, over the positions of an example, or `keep`, all of them side by side.
    Raises UserError for `keep` with examples of several lengths.
    """
    like = next(student.parameters())
    before = student.training
    student.eval()
    count = len(dataset) if most is None else min(most, len(dataset))
    found = []
    for start in range(0, count, BATCH):
        places = [(0, i) for i in range(start, min(start + BATCH, count))]
        batch = devices.move(dataset.collate(dataset.__getitems__(places)), like.device)
        batch = devices.cast(dataset.finish(batch, like.device), like.dtype)
        pooled = _pooled(student, batch, positions)
        found.append(pooled if layers is None else pooled[:, list(layers)])
    student.train(before)
    if len({part.shape[2] for part in found}) > 1:
        raise UserError(DIFFER)
    return Features(
        torch.cat(found).double().cpu().numpy(),
        np.array([int(label) for label in dataset.references[:count]]),
        layers,
    )


def _pooled(student: Student, batch: dict[str, Any], positions: str) -> torch.Tensor:
    """Features (B, layers, F) of a batch."""
    local, padding = student.encoder.local_features(batch)
    x, padding = student.encoder(local, padding)
    layers = [x, *student.backbone(x, padding, keep=Kept(("block",))).layers["block"]]
    if positions == "mean":
        parts = [pool(layer, "mean", student.encoder.prefix, padding) for layer in layers]
    else:
        if padding is not None and bool(padding.any()):
            raise UserError(DIFFER)
        parts = [student.positions(layer).flatten(1) for layer in layers]
    return torch.stack(parts, 1).float()


def probe(
    p: params.Probe, train: Features, dev: Features, test: Features | None = None
) -> dict[str, Any]:
    """Accuracy of every probe on dev and test, and which setting of the grid was chosen on dev.

    `layers` has one entry per layer, `best` names the layer with the best linear probe on dev.
    """
    held = {"dev": dev} if test is None else {"dev": dev, "test": test}
    layers: list[dict[str, Any]] = []
    for place, layer in enumerate(train.layers):
        x = train.values[:, place]
        seen = {split: (part.values[:, place], part.classes) for split, part in held.items()}
        near = neighbours(p, x, train.classes)
        c, fitted = linear(p, x, train.classes, *seen["dev"])
        layers.append(
            {
                "layer": layer,
                "knn": _scores(near, seen),
                "linear": {**_scores(fitted, seen), "c": c},
            }
        )
    best = max(layers, key=lambda entry: (entry["linear"]["dev"], -entry["layer"]))
    return {
        "layers": layers,
        "best": best["layer"],
        "weighted": _weighted(p, train, held),
        "grid": p.c,
        "examples": {split: len(part.classes) for split, part in {"train": train, **held}.items()},
    }


def _scores(fitted: Any, held: Mapping[str, tuple[Floats, Classes]]) -> dict[str, float]:
    """Accuracy of a classifier on each split."""
    return {split: fitted.score(x, classes) for split, (x, classes) in held.items()}


def neighbours(p: params.Probe, x: Floats, classes: npt.NDArray[np.int64]) -> Any:
    """k nearest neighbours by cosine, fitted to standardised features (N, F)."""
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    k = min(p.neighbours, len(x))
    return make_pipeline(StandardScaler(), KNeighborsClassifier(k, metric="cosine")).fit(x, classes)


def linear(
    p: params.Probe,
    x: Floats,
    classes: npt.NDArray[np.int64],
    on_dev: Floats,
    dev: npt.NDArray[np.int64],
) -> tuple[float, Any]:
    """Logistic regression on standardised features, with the C of the grid that is best on dev.

    Ties go to the stronger regularisation.
    """
    fits = [(c, _logistic(c).fit(x, classes)) for c in sorted(p.c)]
    return max(fits, key=lambda pair: (pair[1].score(on_dev, dev), -pair[0]))


def _logistic(c: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000))


def _weighted(p: params.Probe, train: Features, held: Mapping[str, Features]) -> dict[str, Any]:
    """Weights of the layers learned with a classifier, then a classifier on the weighted sum."""
    weights = layer_weights(train)
    mean, std = _scale(train.values)

    def mixed(part: Features) -> Floats:
        found: Floats = np.einsum("nlf,l->nf", (part.values - mean) / std, weights)
        return found

    seen = {split: (mixed(part), part.classes) for split, part in held.items()}
    c, fitted = linear(p, mixed(train), train.classes, *seen["dev"])
    return {**_scores(fitted, seen), "c": c, "weights": weights.tolist()}


class _LBFGS(Uncompiled, torch.optim.LBFGS):
    """PyTorch's L-BFGS, which does not import PyTorch's compiler."""


def layer_weights(train: Features, steps: int = 50) -> Floats:
    """Softmax weights (layers,) that minimise the loss of a linear classifier on the weighted sum.

    Both are trained together, as in SUPERB, from equal weights, by L-BFGS with a unit penalty.
    """
    mean, std = _scale(train.values)
    x = torch.from_numpy((train.values - mean) / std).float()
    known, labels = np.unique(train.classes, return_inverse=True)
    target = torch.from_numpy(labels)
    logits = torch.zeros(x.shape[1], requires_grad=True)
    table = torch.zeros(x.shape[2], len(known), requires_grad=True)
    bias = torch.zeros(len(known), requires_grad=True)
    optimiser = _LBFGS([logits, table, bias], max_iter=steps)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        mixed = torch.einsum("nlf,l->nf", x, logits.softmax(0))
        loss = torch.nn.functional.cross_entropy(mixed @ table + bias, target)
        total = loss + 0.5 * table.square().sum() / len(x)
        total.backward()
        return total

    with torch.inference_mode(False), torch.enable_grad():
        optimiser.step(closure)
    return logits.detach().softmax(0).double().numpy()


def _scale(values: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation (layers, F) of features; a constant feature has the deviation one."""
    std = values.std(0)
    return values.mean(0), np.where(std > 1e-8, std, 1.0)


def position_share(targets: Sequence[torch.Tensor]) -> float:
    """Share of the variance of targets (B, T, D) that position alone explains, over all channels.

    0: targets do not depend on the position; 1: they depend on nothing else, so that predicting
    them takes no content. All batches must have the same T.
    """
    x = torch.cat(list(targets)).double()
    total = x.flatten(0, 1).var(0, correction=0).sum()
    return float(x.mean(0).var(0, correction=0).sum() / total.clamp(min=1e-12))
