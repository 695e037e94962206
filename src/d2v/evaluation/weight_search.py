"""The search for decoding weights on the development split (paper 4.2).

Quasi-random points replace the Bayesian optimiser of the released recipe (fairseq: ax.yaml, 128
trials in the same boxes), because all processes can try them at once. Three quarters of the trials
cover the whole box; the rest cover a box with sides a quarter as long, around the best of these.
The first trial is the preset. A trial thus depends only on the seed, its number and the results of
the first round.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from d2v import params
from d2v.util.errors import UserError
from d2v.util.journal import Journal, Record

EDGE = 0.02  # fraction of a side of the box within which a weight counts as at the edge
DIGITS = 4  # decimals of a weight


class Weights(NamedTuple):
    """Weights that score hypotheses, in addition to the letters' log-probabilities."""

    lm_weight: float
    word_score: float
    silence_score: float


@dataclass(frozen=True)
class Trial:
    """Weights, and their word error rate on the development split."""

    number: int
    weights: Weights
    wer: float


Measure = Callable[[Sequence[Weights]], Iterator[float]]  # error rates, in order


def preset(decode: params.Decode) -> Weights:
    """The weights that the parameters give before any search."""
    return Weights(decode.lm_weight, decode.word_score, decode.silence_score)


def search(
    decode: params.Decode,
    measure: Measure,
    journal: Journal,
    told: Callable[[Trial, Trial], None] = lambda trial, best: None,
) -> list[Trial]:
    """Try all weights except those already in the journal; return the trials, best first.

    `told` is called with every new trial and the best so far. Raises UserError if an error rate is
    undefined.
    """
    box = _box(decode)
    known = {r["number"]: r for r in journal.records if isinstance(r.get("number"), int)}
    points = _points(decode)
    first = [preset(decode), *(_scaled(p, box) for p in points[: _first(decode) - 1])]
    trials: list[Trial] = []
    _round(first, decode, measure, journal, known, trials, told)
    near = _around(min(trials, key=_rank(decode)).weights, box)
    second = [_scaled(p, near) for p in points[_first(decode) - 1 :]]
    _round(second, decode, measure, journal, known, trials, told)
    return sorted(trials, key=_rank(decode))


def at_edge(decode: params.Decode, chosen: Weights) -> dict[str, str]:
    """A warning with advice for each chosen weight that lies at an end of its box."""
    found = {}
    for name, value, (low, high) in zip(Weights._fields, chosen, _box(decode), strict=True):
        near = EDGE * (high - low)
        if low < high and not low + near < value < high - near:
            found[name] = (
                f"the best {name}, {value:g}, lies at the edge of its box [{low:g}, {high:g}]: "
                f"better ones may lie outside; widen decode.search.{name}"
            )
    return found


def _round(
    wanted: list[Weights],
    decode: params.Decode,
    measure: Measure,
    journal: Journal,
    known: dict[int, Record],
    trials: list[Trial],
    told: Callable[[Trial, Trial], None],
) -> None:
    """Add the trials of all `wanted` weights to `trials`, in order."""
    numbers = range(len(trials), len(trials) + len(wanted))
    done = {
        number: Trial(number, weights, known[number]["wer"])
        for number, weights in zip(numbers, wanted, strict=True)
        if _is_of(known.get(number), weights)
    }
    left = [n for n in numbers if n not in done]
    rates = measure([wanted[n - numbers.start] for n in left])
    for number, rate in zip(left, rates, strict=True):
        if not math.isfinite(rate):
            raise UserError("the development split has no words, so no weights can be chosen")
        trial = done[number] = Trial(number, wanted[number - numbers.start], rate)
        journal.add({"number": number, **trial.weights._asdict(), "wer": rate})
        told(trial, min([*trials, *done.values()], key=_rank(decode)))
    trials += [done[number] for number in numbers]


def _is_of(record: Record | None, weights: Weights) -> bool:
    """Whether a record is complete and belongs to a trial of these weights."""
    if record is None or {*record} != {"number", "wer", *Weights._fields}:
        return False
    rate = record["wer"]
    usable = isinstance(rate, float | int) and math.isfinite(rate)
    return usable and all(record[k] == v for k, v in weights._asdict().items())


def _first(decode: params.Decode) -> int:
    """Number of trials in the first round, including the preset."""
    return math.ceil(_settings(decode).trials * 3 / 4)


def _points(decode: params.Decode) -> list[tuple[float, ...]]:
    """A point of the unit cube for every trial but the first, spread evenly (scrambled Sobol)."""
    from scipy.stats import qmc

    count = _settings(decode).trials - 1
    sampler = qmc.Sobol(len(Weights._fields), scramble=True, seed=_settings(decode).seed)
    power = math.ceil(math.log2(max(count, 1)))  # the sequence is balanced at powers of two
    return [tuple(map(float, point)) for point in sampler.random_base2(power)[:count]]


def _rank(decode: params.Decode) -> Callable[[Trial], tuple[float, float, int]]:
    """Sort key of trials: error rate, distance from the preset in sides of the box, number."""
    start, box = preset(decode), _box(decode)

    def rank(trial: Trial) -> tuple[float, float, int]:
        changes = [
            (value - known) / (high - low)
            for value, known, (low, high) in zip(trial.weights, start, box, strict=True)
            if low < high
        ]
        return trial.wer, math.hypot(*changes), trial.number

    return rank


Box = list[tuple[float, float]]


def _box(decode: params.Decode) -> Box:
    found = [getattr(_settings(decode), name) for name in Weights._fields]
    return [(low, high) for low, high in found]


def _around(centre: Weights, box: Box) -> Box:
    """A box around a point with sides a quarter as long as those of `box`, clipped to `box`."""
    near = []
    for value, (low, high) in zip(centre, box, strict=True):
        middle, half = min(max(value, low), high), (high - low) / 8
        near.append((max(low, middle - half), min(high, middle + half)))
    return near


def _scaled(point: tuple[float, ...], box: Box) -> Weights:
    return Weights(
        *(round(low + p * (high - low), DIGITS) for p, (low, high) in zip(point, box, strict=True))
    )


def _settings(decode: params.Decode) -> params.DecodeSearch:
    assert decode.search is not None
    return decode.search
