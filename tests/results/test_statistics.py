"""Intervals of means and of differences, against scipy."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from d2v.results.statistics import Estimate, estimate, welch


@pytest.mark.parametrize(("first", "second"), [(3, 3), (2, 10), (5, 8)])
def test_difference_is_welchs(first: int, second: int) -> None:
    random = np.random.default_rng(first)
    a, b = random.normal(60, 1, first), random.normal(62, 4, second)
    found = welch(estimate(a.tolist()), estimate(b.tolist()))
    theirs = stats.ttest_ind(a, b, equal_var=False)
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.bounds == pytest.approx(tuple(theirs.confidence_interval()))


def test_mean_has_students_interval() -> None:
    values = [61.0, 64.0, 66.0]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert estimate(values).bounds == pytest.approx((low, high))
    assert estimate(values).half > 4 * stats.sem(values)  # not two


def test_interval_of_five_percent_misses_five_percent() -> None:
    """Simulated seeds without any difference: gains and losses are as rare as they should be."""
    random = np.random.default_rng(0)
    draws = random.normal(size=(2000, 2, 3))
    found = [welch(estimate(a.tolist()), estimate(b.tolist())) for a, b in draws]
    wrong = np.mean([abs(f.value) > f.half for f in found])
    assert 0.02 < wrong < 0.06
    by_two_errors = np.mean([abs(f.value) > 2 * f.stderr for f in found])
    assert by_two_errors > 0.08


def test_too_few_values_give_no_interval() -> None:
    assert math.isnan(estimate([]).value)
    assert math.isnan(estimate([3.0]).half)
    assert math.isnan(welch(estimate([3.0]), estimate([1.0, 2.0])).half)
    assert math.isnan(welch(estimate([3.0]), estimate([1.0, 2.0])).p)


def test_equal_values_have_an_interval_without_width() -> None:
    found = welch(estimate([3.0, 3.0]), estimate([1.0, 1.0, 1.0]))
    assert found.bounds == (2.0, 2.0)
    assert (found.p, Estimate(0.0, 0.0, 2).p) == (0.0, 1.0)


def test_more_values_give_a_narrower_interval() -> None:
    values = [1.0, 2.0] * 10
    halves = [estimate(values[:n]).half for n in (2, 4, 8, 16)]
    assert all(wide > narrow for wide, narrow in pairwise(halves))
