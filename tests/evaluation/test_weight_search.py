"""The search for decoding weights, on error rates that are functions of the weights."""

import json
import math

import pytest

from d2v import params
from d2v.evaluation import weight_search
from d2v.evaluation.weight_search import Weights
from d2v.util.errors import UserError
from d2v.util.journal import Journal

DECODE = params.Decode(
    lm_weight=1.0,
    word_score=0.0,
    silence_score=0.0,
    search=params.DecodeSearch(trials=32, silence_score=[-2.0, 2.0]),
)
BEST = Weights(2.2, -1.4, 0.3)


def bowl(weights, best=BEST):
    return 0.1 + sum((a - b) ** 2 for a, b in zip(weights, best, strict=True)) / 100


def run(path, decode=DECODE, rate=bowl, work="this"):
    """Trials, best first, and the weights that were measured."""
    measured = []

    def measure(wanted):
        for weights in wanted:
            measured.append(weights)
            yield rate(weights)

    return weight_search.search(decode, measure, Journal(path, {"work": work})), measured


def test_the_best_of_all_trials_is_near_the_best_there_is(tmp_path):
    trials, measured = run(tmp_path / "trials.jsonl")
    assert len(trials) == len(measured) == len(set(measured)) == 32
    assert [t.wer for t in trials] == sorted(bowl(w) for w in measured)
    assert all(abs(a - b) < 1.0 for a, b in zip(trials[0].weights, BEST, strict=True))
    assert trials[0].number >= 24  # the second round got nearer than the first


def test_the_first_trial_is_the_preset_and_the_others_fill_the_box(tmp_path):
    _, measured = run(tmp_path / "trials.jsonl")
    assert measured[0] == Weights(1.0, 0.0, 0.0)
    box = [(0.0, 5.0), (-5.0, 5.0), (-2.0, 2.0)]
    for side, (low, high) in enumerate(box):
        values = [w[side] for w in measured[1:24]]
        assert all(low <= v <= high for v in values)
        quarters = {math.floor(4 * (v - low) / (high - low)) for v in values}
        assert quarters == {0, 1, 2, 3}


def test_the_second_round_lies_in_a_quarter_of_the_box_around_the_best_of_the_first(tmp_path):
    _, measured = run(tmp_path / "trials.jsonl")
    centre = min(measured[:24], key=bowl)
    for side, width in enumerate((5.0, 10.0, 4.0)):
        assert all(abs(w[side] - centre[side]) <= width / 8 + 1e-4 for w in measured[24:])


def test_the_second_round_stays_in_the_box(tmp_path):
    outside = DECODE.model_copy(update={"lm_weight": 9.0})  # a preset may lie outside
    _, measured = run(tmp_path / "a", outside, lambda w: bowl(w, Weights(9.0, 0.0, 0.0)))
    assert measured[0].lm_weight == 9.0
    assert all(4.3 <= w.lm_weight <= 5.0 for w in measured[24:])
    _, measured = run(tmp_path / "b", rate=lambda w: bowl(w, Weights(0.0, -5.0, 2.0)))
    assert all(w.lm_weight >= 0.0 and w.word_score >= -5.0 for w in measured)


def test_trials_depend_on_the_seed_only(tmp_path):
    _, one = run(tmp_path / "a")
    assert run(tmp_path / "b")[1] == one
    other = DECODE.search.model_copy(update={"seed": 1})
    _, two = run(tmp_path / "c", DECODE.model_copy(update={"search": other}))
    assert two[0] == one[0]
    assert not set(two[1:]) & set(one[1:])


@pytest.mark.parametrize("trials", [1, 2, 3, 4, 5])
def test_few_trials(tmp_path, trials):
    search = DECODE.search.model_copy(update={"trials": trials})
    found, measured = run(tmp_path / "a", DECODE.model_copy(update={"search": search}))
    assert [t.number for t in sorted(found, key=lambda t: t.number)] == list(range(trials))
    assert len(measured) == trials


def test_a_side_without_width_stays_as_it_is(tmp_path):
    search = DECODE.search.model_copy(update={"silence_score": [0.0, 0.0]})
    decode = DECODE.model_copy(update={"search": search})
    trials, measured = run(tmp_path / "a", decode)
    assert {w.silence_score for w in measured} == {0.0}
    assert "silence_score" not in weight_search.at_edge(decode, trials[0].weights)


def test_of_equal_rates_the_smallest_change_is_chosen(tmp_path):
    def change(weights):
        return math.hypot((weights[0] - 1) / 5, weights[1] / 10, weights[2] / 4)

    trials, measured = run(tmp_path / "a", rate=lambda w: 0.25)
    assert trials[0].weights == Weights(1.0, 0.0, 0.0)
    changes = [change(trial.weights) for trial in trials]
    assert changes == sorted(changes)
    trials, measured = run(tmp_path / "b", rate=lambda w: 0.5 if w == (1.0, 0.0, 0.0) else 0.25)
    assert trials[0].weights == min(measured[1:], key=change)


def test_undefined_rates_are_told(tmp_path):
    with pytest.raises(UserError, match="development split has no words"):
        run(tmp_path / "a", rate=lambda w: math.nan)


@pytest.mark.parametrize(
    ("weights", "names"),
    [
        (Weights(2.0, 0.0, 0.0), []),
        (Weights(0.05, 0.0, 1.99), ["lm_weight", "silence_score"]),
        (Weights(5.0, -5.0, 0.0), ["lm_weight", "word_score"]),
        (Weights(9.0, 4.9, 0.0), ["lm_weight", "word_score"]),
        (Weights(0.2, 4.7, 0.0), []),
    ],
)
def test_the_edge_of_the_box_is_told(weights, names):
    found = weight_search.at_edge(DECODE, weights)
    assert list(found) == names
    for name, text in found.items():
        assert f"widen decode.search.{name}" in text


# --- interruptions ----------------------------------------------------------------------------


@pytest.mark.parametrize("done", [0, 1, 10, 23, 24, 30, 31])
def test_a_search_that_was_cut_off_goes_on(tmp_path, done):
    whole, _ = run(tmp_path / "whole")
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    cut = tmp_path / "cut"
    cut.write_bytes(b"".join(lines[: 1 + done]) + lines[1 + done][:-7])  # within a line
    found, measured = run(cut)
    assert found == whole
    assert len(measured) == 32 - done
    assert cut.read_bytes() == (tmp_path / "whole").read_bytes()
    assert run(cut) == (whole, [])


@pytest.mark.parametrize(
    "broken",
    [
        b"\x00\xff nonsense",
        b"[1, 2]",
        b"{}",
        b'{"number": [3], "wer": 0.1}',
        b'{"number": 5, "lm_weight": 1.0, "word_score": 0.0, "silence_score": 0.0, "wer": 0.01}',
        b'{"number": 5, "lm_weight": 1.0, "word_score": 0.0, "silence_score": 0.0, "wer": "x"}',
        b'{"number": 5, "lm_weight": 1.0, "wer": NaN}',
    ],
)
def test_a_damaged_line_is_one_trial_to_do_again(tmp_path, broken):
    whole, _ = run(tmp_path / "trials")
    lines = (tmp_path / "trials").read_bytes().splitlines(keepends=True)
    lost = json.loads(lines[6])
    (tmp_path / "trials").write_bytes(b"".join([*lines[:6], broken + b"\n", *lines[7:]]))
    found, measured = run(tmp_path / "trials")
    assert found == whole
    assert measured == [Weights(lost["lm_weight"], lost["word_score"], lost["silence_score"])]
    assert run(tmp_path / "trials") == (whole, [])


def test_trials_of_other_work_are_not_taken_over(tmp_path):
    run(tmp_path / "trials", work="other", rate=lambda w: 0.0)
    trials, measured = run(tmp_path / "trials")
    assert len(measured) == 32
    assert trials[0].wer > 0
    for head in (b"", b"{half a li", b"\xff\xfe\n"):
        (tmp_path / "trials").write_bytes(head)
        assert len(run(tmp_path / "trials")[1]) == 32


def test_ranges_are_checked_when_the_parameters_are_read():
    with pytest.raises(ValueError, match=r"lm_weight: \[5.0, 0.0\]"):
        params.DecodeSearch(lm_weight=[5.0, 0.0])
