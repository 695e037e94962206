"""Metrics of the paper's tables as fractions, computed by scikit-learn, scipy and jiwer.

The libraries are imported only when a metric is computed, so that importing this module is cheap.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from d2v.params import Finetune
from d2v.util.errors import UserError


def _accuracy(references: list[int], predictions: list[int]) -> float:
    from sklearn.metrics import accuracy_score

    return accuracy_score(references, predictions)


def _f1(references: list[int], predictions: list[int]) -> float:
    """F1 of class 1 (GLUE: paraphrase); 0 if class 1 is neither present nor predicted."""
    from sklearn.metrics import f1_score

    if not set(references) | set(predictions) <= {0, 1}:
        raise UserError("metric f1 compares class 1 with class 0, but there are other labels")
    return f1_score(references, predictions, labels=[1], average="micro", zero_division=0.0)


def _matthews(references: list[int], predictions: list[int]) -> float:
    """Matthews correlation; 0 for constant predictions or references (the usual convention)."""
    from sklearn.metrics import matthews_corrcoef

    with warnings.catch_warnings():  # "a single label": the 0 is documented above
        warnings.simplefilter("ignore", UserWarning)
        return matthews_corrcoef(references, predictions)


def _pearson(references: list[float], predictions: list[float]) -> float:
    from scipy.stats import pearsonr

    return _correlation(pearsonr, references, predictions)


def _spearman(references: list[float], predictions: list[float]) -> float:
    from scipy.stats import spearmanr

    return _correlation(spearmanr, references, predictions)


def _squared_error(references: list[float], predictions: list[float]) -> float:
    """Mean squared error in the labels' unit; fairseq chooses the best STS-B checkpoint by it.

    NaN if values are not finite.
    """
    if not all(map(math.isfinite, references + predictions)):
        return math.nan
    from sklearn.metrics import mean_squared_error

    return mean_squared_error(references, predictions)


def _correlation(function: Any, references: list[float], predictions: list[float]) -> float:
    """A correlation; NaN if values are constant, not finite or fewer than two."""
    if len(references) < 2 or not all(map(math.isfinite, references + predictions)):
        return math.nan
    with warnings.catch_warnings():  # a constant input: the NaN is documented above
        warnings.simplefilter("ignore", RuntimeWarning)
        return function(references, predictions).statistic


def _wer(references: list[str], predictions: list[str]) -> float:
    """Word errors of all utterances divided by their words; NaN without any reference word."""
    import jiwer

    return jiwer.wer(references, predictions) if any(map(str.strip, references)) else math.nan


def _cer(references: list[str], predictions: list[str]) -> float:
    """Letter errors of all utterances per letter and space; NaN without any reference word."""
    import jiwer

    return jiwer.cer(references, predictions) if any(map(str.strip, references)) else math.nan


def _map(references: list[list[int]], predictions: list[list[float]]) -> float:
    """Average precision, averaged over classes; classes without any example do not count.

    NaN if scores are not finite.
    """
    import numpy as np
    from sklearn.metrics import average_precision_score

    scores = np.array(predictions)  # (N, C)
    truth = np.zeros(scores.shape, bool)
    for row, classes in zip(truth, references, strict=True):
        row[classes] = True
    present = truth.any(0)
    if not present.any() or not np.isfinite(scores).all():
        return math.nan
    return average_precision_score(truth[:, present], scores[:, present], average="macro")


def _classes(text: str) -> list[int]:
    """Class numbers from a text such as 3,17; none from an empty text."""
    return [int(number) for number in text.split(",")] if text else []


def _scores(text: str) -> list[float]:
    """One score per class, from a text with spaces between the numbers."""
    return [float(number) for number in text.split(" ")]


@dataclass(frozen=True)
class Metric:
    """How a metric is computed, from which column of a prediction file, and how it is shown."""

    label: str
    unit: Literal["%", "×100"]  # unit of the value times 100
    higher_is_better: bool
    value: Callable[[Any], Any]  # type of one reference or prediction
    function: Callable[[list[Any], list[Any]], float]
    column: Literal["prediction", "greedy"] = "prediction"
    reference: Callable[[Any], Any] | None = None  # type of one reference, if different


METRICS = {
    "accuracy": Metric("accuracy", "%", True, int, _accuracy),
    "f1": Metric("F1", "%", True, int, _f1),
    "matthews": Metric("Matthews", "×100", True, int, _matthews),
    "pearson": Metric("Pearson", "×100", True, float, _pearson),
    "spearman": Metric("Spearman", "×100", True, float, _spearman),
    "squared_error": Metric("squared error", "×100", False, float, _squared_error),
    "wer": Metric("WER", "%", False, str, _wer),
    "cer": Metric("CER", "%", False, str, _cer),
    # metrics of the best path without lexicon and language model, kept besides the beam search's
    "greedy_wer": Metric("greedy WER", "%", False, str, _wer, "greedy"),
    "greedy_cer": Metric("greedy CER", "%", False, str, _cer, "greedy"),
    "map": Metric("mAP", "%", True, _scores, _map, reference=_classes),
}


def _f1_of_counts(counts: Any) -> float:
    wrong = counts[0, 1] + counts[1, 0]
    return float(2 * counts[1, 1] / (2 * counts[1, 1] + wrong)) if counts[1, 1] + wrong else 0.0


def _matthews_of_counts(counts: Any) -> float:
    """Matthews correlation of several classes (Gorodkin 2004), as scikit-learn defines it."""
    total, right = float(counts.sum()), float(counts.trace())
    true, predicted = counts.sum(1).astype(float), counts.sum(0).astype(float)
    spread = (total**2 - predicted @ predicted) * (total**2 - true @ true)
    return (right * total - true @ predicted) / math.sqrt(spread) if spread else 0.0


# metrics from counts (C, C) of references (rows) and predictions: for thousands of bootstrap draws
OF_COUNTS: dict[str, Callable[[Any], float]] = {
    "f1": _f1_of_counts,
    "matthews": _matthews_of_counts,
}


def greedy(names: Sequence[str]) -> list[str]:
    """Metrics available before a beam search: greedy_wer for wer, greedy_cer for cer, others as is.

    >>> greedy(["wer", "greedy_wer", "cer"])
    ['greedy_wer', 'greedy_cer']
    """
    return list(dict.fromkeys(f"greedy_{n}" if n in ("wer", "cer") else n for n in names))


def named(name: str) -> Metric:
    """The metric called `name`; raises UserError for an unknown name."""
    if name not in METRICS:
        raise UserError(f"no metric {name} (known: {', '.join(METRICS)})")
    return METRICS[name]


def compute(name: str, references: Sequence[Any], predictions: Sequence[Any]) -> float:
    """Value of a metric over all examples, as a fraction (an error rate may exceed 1).

    The value is NaN where it is undefined: no examples, predictions that are not finite, a
    correlation with constant predictions, an error rate without reference words. F1 and Matthews of
    constant predictions are 0 by convention.
    Raises UserError for an unknown name, ValueError if the lengths differ.
    """
    metric = named(name)
    if len(references) != len(predictions):
        raise ValueError(f"{len(references)} references, {len(predictions)} predictions")
    if not references:
        return math.nan
    return float(metric.function(list(references), list(predictions)))


def better(name: str, value: float, than: float) -> bool:
    """Whether `value` is better than `than`; undefined (not finite) is worse than any number."""
    if not math.isfinite(value) or not math.isfinite(than):
        return math.isfinite(value) and not math.isfinite(than)
    return value > than if named(name).higher_is_better else value < than


# GLUE tasks with two metrics are scored by the mean of both (paper 4.3)
PAIRS = (("accuracy", "f1"), ("pearson", "spearman"))


def headline(task: Finetune) -> tuple[str, ...]:
    """Names of the metrics whose mean is the task's score."""
    pair = next((p for p in PAIRS if set(p) <= set(task.metrics)), None)
    return pair or (task.metrics[0],)
