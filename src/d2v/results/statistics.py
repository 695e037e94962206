"""Uncertainty: the one rule for means over seeds, and a bootstrap over the examples of single runs.

Means over seeds have intervals with the quantile of Student's t, and differences of two means those
of Welch's test: in the console, the tables and the page, and when `d2v compare` compares arms.
The bootstrap resamples examples (utterances, sentences, images). It does not estimate how much
another training seed would change the result.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt

from d2v.evaluation import metrics
from d2v.evaluation.predictions import Prediction, score_rows

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
DRAWS = 2000
COSTLY_DRAWS = 300  # for metrics that must be recomputed from all examples of every draw
LEVEL = 0.95
SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of means, with its standard error and degrees of freedom."""

    value: float
    stderr: float = float("nan")  # NaN: fewer than two independent values
    freedom: float = float("nan")  # degrees of freedom of t

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval; NaN without a standard error."""
        if not self.stderr:
            return self.stderr  # equal values: an interval without width
        return self.stderr * quantile(self.freedom)

    @property
    def bounds(self) -> tuple[float, float]:
        """The 95 % interval."""
        return self.value - self.half, self.value + self.half

    @property
    def p(self) -> float:
        """Two-sided p-value under the hypothesis that the true value is zero."""
        if math.isnan(self.stderr) or math.isnan(self.value):
            return float("nan")
        if not self.stderr:
            return float(self.value == 0)
        from scipy.special import stdtr

        return float(2 * stdtr(self.freedom, -abs(self.value) / self.stderr))


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of independent values, with the standard error of the mean."""
    count = len(values)
    mean = float(np.mean(values)) if count else float("nan")
    if count < 2:
        return Estimate(mean)
    return Estimate(mean, float(np.std(values, ddof=1)) / math.sqrt(count), count - 1)


def welch(mine: Estimate, other: Estimate) -> Estimate:
    """The difference mine − other of two independent means with unequal variances.

    Degrees of freedom as Welch and Satterthwaite approximate them.
    """
    value, parts = mine.value - other.value, (mine.stderr**2, other.stderr**2)
    spread = sum(parts)
    if not spread > 0:  # equal values in both, or fewer than two in either
        return Estimate(value, math.sqrt(spread), mine.freedom + other.freedom)
    freedom = spread**2 / (parts[0] ** 2 / mine.freedom + parts[1] ** 2 / other.freedom)
    return Estimate(value, math.sqrt(spread), freedom)


@cache  # takes milliseconds, and tables ask for few values thousands of times
def quantile(freedom: float) -> float:
    """Quantile of t that leaves 5 % outside an interval."""
    from scipy.special import stdtrit  # scipy.stats calls it, and takes a second to import

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


@dataclass(frozen=True)
class Comparison:
    """Difference b − a, its interval, and the p-value under the hypothesis of equal runs."""

    difference: float
    low: float
    high: float
    p: float
    test: str


def interval(rows: Sequence[Prediction], name: str) -> tuple[float, float]:
    """95 % interval of a metric over resampled examples (percentile bootstrap).

    NaN if the metric is undefined for these examples or for too many draws.
    """
    if not rows or not np.isfinite(_score(rows, name, np.arange(len(rows)))):
        return float("nan"), float("nan")
    random = np.random.default_rng(SEED)
    parts = fractions(rows, name)
    if parts is not None:
        errors, weights = parts
        draws = random.integers(len(rows), size=(DRAWS, len(rows)))
        return _percentiles(_ratios(errors[draws].sum(1), weights[draws].sum(1)))
    draws = random.integers(len(rows), size=(COSTLY_DRAWS, len(rows)))
    return _percentiles(np.array(list(map(_scorer(rows, name), draws))))


def compare(a: Sequence[Prediction], b: Sequence[Prediction], name: str) -> Comparison:
    """Compare a metric of two runs on the same examples, in the same order.

    The interval is that of the paired bootstrap. The test is McNemar's exact test for accuracy;
    for other metrics it is a randomisation test that exchanges the two runs' predictions of each
    example at random. All numbers are NaN if the metric is undefined for either run.
    """
    random = np.random.default_rng(SEED)
    whole = np.arange(len(a))
    difference = _score(b, name, whole) - _score(a, name, whole) if len(a) else float("nan")
    if np.isnan(difference) or np.isinf(difference):
        difference = float("nan")
        return Comparison(difference, difference, difference, difference, "undefined")
    mine, theirs = fractions(a, name), fractions(b, name)
    if mine is None or theirs is None:
        return _costly(a, b, name, difference, random)
    deltas, weights = theirs[0] - mine[0], mine[1]
    draws = random.integers(len(a), size=(DRAWS, len(a)))
    low, high = _percentiles(_ratios(deltas[draws].sum(1), weights[draws].sum(1)))
    if name == "accuracy":
        return Comparison(difference, low, high, *_mcnemar(deltas))
    signs = random.choice((-1, 1), size=(DRAWS, len(a)))
    p = _share(np.abs((signs * deltas).sum(1)), abs(deltas.sum()))
    return Comparison(difference, low, high, p, f"{DRAWS} random exchanges")


def fractions(rows: Sequence[Prediction], name: str) -> tuple[Floats, Floats] | None:
    """Numerators and denominators (N,) whose sums give the metric; None if it is no such ratio."""
    metric = metrics.named(name)
    if name == "accuracy":
        hits = [metric.value(row.reference) == metric.value(row.prediction) for row in rows]
        return np.array(hits, float), np.ones(len(rows))
    if name.removeprefix("greedy_") not in ("wer", "cer"):
        return None
    import jiwer

    process: Callable[..., jiwer.WordOutput | jiwer.CharacterOutput]
    process = jiwer.process_words if name.endswith("wer") else jiwer.process_characters
    out = process([row.reference for row in rows], [getattr(row, metric.column) for row in rows])
    errors = [
        sum(
            max(c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx)
            for c in chunks
            if c.type != "equal"
        )
        for chunks in out.alignments
    ]
    return np.array(errors, float), np.array([len(words) for words in out.references], float)


def _costly(
    a: Sequence[Prediction],
    b: Sequence[Prediction],
    name: str,
    difference: float,
    random: np.random.Generator,
) -> Comparison:
    score, count = _scorer([*a, *b], name), len(a)
    draws = random.integers(count, size=(COSTLY_DRAWS, count))
    low, high = _percentiles(np.array([score(draw + count) - score(draw) for draw in draws]))
    whole, moved = np.arange(count), []
    for swap in random.random((COSTLY_DRAWS, count)) < 0.5:
        moved.append(score(whole + count * ~swap) - score(whole + count * swap))
    p = _share(np.abs(np.array(moved)), abs(difference))
    return Comparison(difference, low, high, p, f"{COSTLY_DRAWS} random exchanges")


def _mcnemar(deltas: Floats) -> tuple[float, str]:
    """McNemar's exact test on the examples that only one run gets right: p-value and words."""
    from scipy.stats import binomtest

    more, less = int((deltas > 0).sum()), int((deltas < 0).sum())
    p = float(binomtest(more, more + less).pvalue) if more + less else 1.0
    return p, f"McNemar, exact: {more} examples only B has right, {less} only A"


def _score(rows: Sequence[Prediction], name: str, draw: Ints) -> float:
    return score_rows([rows[i] for i in draw], [name])[name]


def _scorer(rows: Sequence[Prediction], name: str) -> Callable[[Ints], float]:
    """Function of the metric of chosen rows, for many choices."""
    formula = metrics.OF_COUNTS.get(name)
    if formula is None:
        return partial(_score, rows, name)
    labels = [int(label) for row in rows for label in (row.reference, row.prediction)]
    classes, places = np.unique([0, 1, *labels], return_inverse=True)
    size = len(classes)
    cells = places[2:].reshape(-1, 2) @ np.array([size, 1])

    def score(draw: Ints) -> float:
        counts = np.bincount(cells[draw], minlength=size**2).reshape(size, size)
        return formula(counts)

    return score


def _percentiles(values: Floats) -> tuple[float, float]:
    tail = 50 * (1 - LEVEL)
    defined = values[np.isfinite(values)]
    if len(defined) < LEVEL * len(values):  # the defined draws would be a biased sample
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)


def _ratios(errors: Floats, weights: Floats) -> Floats:
    """Errors divided by weights, per draw; NaN for a draw without reference words."""
    return np.divide(errors, weights, out=np.full(len(errors), np.nan), where=weights > 0)


def _share(values: Floats, least: float) -> float:
    """p-value: share of random differences at least as large; never zero (Phipson 2010)."""
    # an exchange that leaves the metric undefined counts as evidence against a difference
    far = (values >= least - 1e-12) | ~np.isfinite(values)
    return float((1 + far.sum()) / (1 + len(values)))
