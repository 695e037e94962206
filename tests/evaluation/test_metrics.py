"""Metrics against values worked out by hand, and in the cases where they are undefined."""

import math
import subprocess
import sys
import typing
import warnings

import numpy as np
import pytest

from d2v.evaluation import metrics
from d2v.params import TASK_METRICS
from d2v.params.finetuning import MetricName
from d2v.util.errors import UserError


@pytest.mark.parametrize(
    ("name", "references", "predictions", "value"),
    [
        ("accuracy", [0, 1, 2, 2], [0, 1, 1, 2], 3 / 4),
        ("f1", [1, 1, 0, 0, 1], [1, 0, 1, 0, 1], 2 * 2 / (2 * 2 + 1 + 1)),
        # (tp tn - fp fn) / sqrt(product of the margins): (2 * 1 - 1 * 1) / sqrt(3 * 3 * 2 * 2)
        ("matthews", [1, 1, 0, 0, 1], [1, 0, 1, 0, 1], 1 / 6),
        ("pearson", [1.0, 2.0, 3.0], [2.0, 4.0, 6.0], 1.0),
        ("pearson", [0.0, 0.0, 1.0], [0.0, 1.0, 1.0], 0.5),
        ("spearman", [1.0, 2.0, 3.0], [1.0, 100.0, 50.0], 0.5),
        # one substitution and one deletion in 3 + 2 words: over the corpus, not the mean of rates
        ("wer", ["ONE TWO THREE", "FOUR FIVE"], ["ONE TEN THREE", "FOUR"], 2 / 5),
        ("wer", ["ONE"], ["ONE TWO THREE"], 2.0),
        ("cer", ["ONE TWO"], ["ONE TO"], 1 / 7),
        ("wer", ["ONE", "TWO"], ["ONE", ""], 1 / 2),
        # class 0: ranks 1 and 3 of its two, (1 / 1 + 2 / 3) / 2; class 1 nobody has; class 2: 1
        ("map", [[0, 2], [], [0]], [[0.9, 0.1, 0.8], [0.5, 0.9, 0.2], [0.3, 0.5, 0.1]], 11 / 12),
    ],
)
def test_values(name, references, predictions, value):
    assert metrics.compute(name, references, predictions) == pytest.approx(value)


@pytest.mark.parametrize(("name", "classes"), [("f1", 2), ("matthews", 2), ("matthews", 5)])
def test_metrics_of_counts_equal_those_of_examples(name: str, classes: int) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        used = random.integers(1, classes + 1)  # sometimes a single class
        references, predictions = random.integers(used, size=(2, 12))
        counts = np.zeros((classes, classes), int)
        np.add.at(counts, (references, predictions), 1)
        value = metrics.compute(name, references.tolist(), predictions.tolist())
        assert metrics.OF_COUNTS[name](counts) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "references", "predictions", "value"),
    [
        ("matthews", [0, 1, 1], [1, 1, 1], 0.0),
        ("matthews", [1, 1], [1, 1], 0.0),
        ("f1", [1, 0], [0, 0], 0.0),
        ("f1", [0, 0], [0, 0], 0.0),
        ("pearson", [1.0, 2.0], [3.0, 3.0], math.nan),
        ("spearman", [1.0, 2.0], [3.0, 3.0], math.nan),
        ("spearman", [1.0], [3.0], math.nan),
        ("pearson", [1.0, 2.0], [math.nan, 3.0], math.nan),
        ("squared_error", [1.0, 2.0], [math.nan, 3.0], math.nan),
        ("squared_error", [1.0, 2.0], [math.inf, 3.0], math.nan),
        ("map", [[0], [1]], [[0.1, math.nan], [0.3, 0.4]], math.nan),
        ("map", [[0], [1]], [[math.nan] * 2] * 2, math.nan),
        ("wer", ["", " "], ["ONE", ""], math.nan),
        ("cer", [""], ["ONE"], math.nan),
        ("accuracy", [], [], math.nan),
        ("map", [[], []], [[0.1, 0.2], [0.3, 0.4]], math.nan),
    ],
)
def test_undefined_cases_are_defined(name, references, predictions, value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.compute(name, references, predictions)
    assert found == value or (math.isnan(found) and math.isnan(value))


def test_an_empty_reference_counts_as_insertions():
    assert metrics.compute("wer", ["ONE TWO", ""], ["ONE TWO", "SIX"]) == pytest.approx(1 / 2)


def test_faults_are_told():
    with pytest.raises(UserError, match=r"no metric acuracy .*accuracy"):
        metrics.compute("acuracy", [1], [1])
    with pytest.raises(UserError, match="f1"):
        metrics.compute("f1", [0, 1, 2], [0, 1, 1])
    with pytest.raises(ValueError, match="2 references, 1 predictions"):
        metrics.compute("accuracy", [1, 1], [1])


def test_better_knows_the_direction_and_nan():
    assert metrics.better("accuracy", 0.8, 0.7)
    assert metrics.better("greedy_wer", 0.7, 0.8)
    assert not metrics.better("wer", 0.8, 0.8)
    assert metrics.better("wer", 2.0, math.nan)
    assert not metrics.better("wer", math.nan, 2.0)
    assert not metrics.better("wer", math.nan, math.nan)


@pytest.mark.slow
def test_import_is_light():
    code = (
        "import sys, d2v.evaluation.metrics; print([m for m in sys.modules if m in"
        " ('torch', 'sklearn', 'scipy', 'jiwer', 'pandas', 'numpy')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_parameters_accept_exactly_these_metrics_each_for_one_task():
    names = typing.get_args(MetricName)
    assert list(names) == list(metrics.METRICS)
    assert sorted(n for fitting in TASK_METRICS.values() for n in fitting) == sorted(names)


def test_squared_error_is_in_the_labels_unit_and_lower_is_better():
    assert metrics.compute("squared_error", [0.0, 2.0], [1.0, 5.0]) == pytest.approx(5.0)
    assert metrics.better("squared_error", 0.1, 0.2)
