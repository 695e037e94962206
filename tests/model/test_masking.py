"""Masks have the reference's distribution, depend on their key only, and cost little.

`data/mask_statistics.json` holds statistics of 2,000 draws of the reference generators. Ours are
compared with them by two-sample tests; no comparison may have a p-value under ALPHA. There are
about 1,600 of them, so at ALPHA = 1e-5 the whole file would reject a right generator with
a probability under 2 %; seeds are fixed, so it either always or never does.

- means (of a row's masked positions, runs, ...): z-test; variances: z-test, with the fourth moment;
- positions: z-test of each position's share;
- histograms of run lengths: a chi-squared (Wald) test whose covariance comes from whole rows,
  because the runs of one row depend on each other.
"""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, stats

from d2v.model import masking
from d2v.params import BlockMask, SpanMask, TokenMask
from d2v.util.errors import UserError

ALPHA = 1e-5
DRAWS = 6000
REFERENCE = json.loads((Path(__file__).with_name("mask_statistics.json")).read_text())
SPAN = SpanMask(kind="span", prob=0.65, length=10)
BLOCK = BlockMask(kind="block", patches=120, min_block=16, max_block=196)
TOKEN = TokenMask(kind="token", prob=0.35, length=4)
BERT = TokenMask(kind="token", prob=0.15, random_prob=0.1, keep_prob=0.1)
FROZEN_SPANS = [
    [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24],
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20],
]
FROZEN_BLOCK = [4, 5, 8, 9, 10, 11, 13, 14, 15]
FROZEN_KINDS = {4: 1, 11: 1, 12: 1, 15: 1}


def keys(count, seed=1, epoch=0, first=0):
    return [(seed, epoch, first + i) for i in range(count)]


# --- the tests' own statistics ----------------------------------------------------------------


def z_test(difference, variance):
    """Two-sided p-value of a difference with the given variance."""
    if variance <= 0:
        return float(abs(difference) < 1e-6)
    return float(2 * stats.norm.sf(abs(difference) / np.sqrt(variance)))


def compare_moments(ours, mean, std, draws):
    """p-values of equal means and of equal variances."""
    ours = np.asarray(ours, float)
    spread = 1 / len(ours) + 1 / draws
    variance = ours.var()
    fourth = ((ours - ours.mean()) ** 4).mean()
    # rounding of the published figures: 1e-6
    of_mean = z_test(max(abs(ours.mean() - mean) - 1e-6, 0), variance * spread)
    of_variance = z_test(max(abs(variance - std**2) - 1e-4, 0), (fourth - variance**2) * spread)
    return of_mean, of_variance


def compare_shares(ours, shares, draws):
    """Smallest p-value over positions of equal shares of rows (ours: (N, T) bool)."""
    ours_share = ours.mean(0)
    pooled = (ours.sum(0) + np.array(shares) * draws) / (len(ours) + draws)
    variance = pooled * (1 - pooled) * (1 / len(ours) + 1 / draws)
    return min(z_test(d, v) for d, v in zip(ours_share - shares, variance, strict=True))


def runs(masks):
    """Row and length of every run of True in (N, T)."""
    edges = np.diff(np.pad(masks, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = np.nonzero(edges == 1)
    return row, np.nonzero(edges == -1)[1] - start


def histograms(row, length, rows):
    """Histogram of run lengths of each row: (rows, longest + 1)."""
    table = np.zeros((rows, length.max(initial=0) + 1))
    np.add.at(table, (row, length), 1)
    return table


def compare_histograms(tables, reference, draws):
    """p-value of equal expected histograms a row; `tables` (N, bins), `reference` {bin: count}."""
    width = max(tables.shape[1], max(map(int, reference)) + 1)
    tables = np.pad(tables, ((0, 0), (0, width - tables.shape[1])))
    theirs = np.zeros(width)
    for key, count in reference.items():
        theirs[int(key)] = count
    expected = tables.mean(0) * draws + theirs
    # neighbouring bins are joined until each expects 50
    group, groups, filled = np.zeros(width, int), 0, 0.0
    for i in range(width):
        group[i] = groups
        filled += expected[i]
        if filled >= 50:
            groups, filled = groups + 1, 0.0
    group = np.minimum(group, max(groups - 1, 0))
    join = np.eye(group.max() + 1)[group]
    tables, theirs = tables @ join, theirs @ join
    covariance = np.atleast_2d(np.cov(tables.T)) * (1 / len(tables) + 1 / draws)
    difference = theirs / draws - tables.mean(0)
    statistic = difference @ np.linalg.pinv(covariance, rcond=1e-9) @ difference
    return float(stats.chi2.sf(statistic, np.linalg.matrix_rank(covariance, tol=1e-12)))


def compare_row(masks, reference):
    """p-values of one row's statistics; `masks` (N, T) of rows of equal length."""
    draws = reference["draws"]
    row, length = runs(masks)
    a, b = compare_moments(masks.sum(1), *reference["count"], draws)
    c, d = compare_moments(np.bincount(row, minlength=len(masks)), *reference["runs"], draws)
    table = histograms(row, length, len(masks))
    edge = len(reference["first"])
    return {
        "mean count": a,
        "std of count": b,
        "mean runs": c,
        "std of runs": d,
        "run lengths": compare_histograms(table, reference["run_lengths"], draws),
        "first positions": compare_shares(masks[:, :edge], reference["first"], draws),
        "last positions": compare_shares(
            masks[:, -len(reference["last"]) :], reference["last"], draws
        ),
    }


def refused(p_values):
    return {name: p for name, p in p_values.items() if p < ALPHA}


# --- distributions ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("length", [49, 99, 249, 499, 749, 999])
def test_spans_of_single_rows(length):
    mask = SPAN.model_copy(update={"equal_counts": False})
    masks = masking.span_masks(mask, np.full(DRAWS, length), keys(DRAWS))
    assert not refused(compare_row(masks, REFERENCE["speech"]["single"][str(length)]))
    assert not masks[:, -1].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(REFERENCE["speech"]["batches"]))
def test_spans_with_equal_counts(name):
    reference = REFERENCE["speech"]["batches"][name]
    lengths = np.array(reference["lengths"])
    size = len(lengths)
    batches = np.stack(
        [masking.span_masks(SPAN, lengths, keys(size, first=size * i)) for i in range(DRAWS // 2)]
    )
    counts = batches.sum(2)
    assert (counts == counts[:, :1]).all()
    for row, length in enumerate(lengths):
        assert not batches[:, row, length:].any()
        assert not refused(compare_row(batches[:, row, :length], reference["rows"][row])), row


@pytest.mark.slow
@pytest.mark.parametrize("name", list(REFERENCE["vision"]))
def test_blocks(name):
    reference = REFERENCE["vision"][name]
    fields = ("patches", "min_block", "max_block")
    mask = BlockMask(kind="block", **{f: reference[f] for f in fields})
    grid, draws = reference["grid"], reference["draws"]
    masks = masking.block_masks(mask, grid, keys(DRAWS)).reshape(DRAWS, grid, grid)
    counts = np.eye(grid**2 + 1)[masks.sum((1, 2))]
    p = {"counts": compare_histograms(counts, reference["counts"], draws)}
    for axis, kind in ((masks, "row_runs"), (masks.transpose(0, 2, 1), "column_runs")):
        line, length = runs(axis.reshape(-1, grid))
        table = histograms(line // grid, length, DRAWS)
        p[kind] = compare_histograms(table, reference[kind], draws)
    parts = [ndimage.label(m)[1] for m in masks]
    p["components"] = min(compare_moments(parts, *reference["components"], draws))
    pairs = (masks[:, 1:] & masks[:, :-1]).sum((1, 2))
    pairs = pairs + (masks[:, :, 1:] & masks[:, :, :-1]).sum((1, 2))
    p["pairs"] = min(compare_moments(pairs, *reference["pairs"], draws))
    shares = np.array(reference["probability"]).ravel()
    p["positions"] = compare_shares(masks.reshape(DRAWS, -1), shares, draws)
    assert not refused(p)
    assert masks.sum((1, 2)).max() <= mask.patches


@pytest.mark.parametrize("length", [16, 32, 64, 128, 256, 512])
@pytest.mark.parametrize("name", list(REFERENCE["text"]))
def test_tokens(name, length):
    reference = REFERENCE["text"][name]
    fields = ("prob", "length", "random_prob", "keep_prob")
    mask = TokenMask(kind="token", **{f: reference[f] for f in fields})
    chosen, kind = masking.token_masks(mask, np.full(DRAWS, length), keys(DRAWS))
    theirs = reference["lengths"][str(length)]
    p = compare_row(chosen, theirs)
    assert (chosen == (kind > 0)).all()
    for name, code in (("random", masking.RANDOM), ("kept", masking.KEPT)):
        ours, total = (kind == code).sum(), chosen.sum()
        share = (ours + theirs[name]) / (total + theirs["total"])
        variance = share * (1 - share) * (1 / total + 1 / theirs["total"])
        p[name] = z_test(ours / total - theirs[name] / theirs["total"], variance)
    assert not refused(p)


def _one_start_more(mask, lengths, rows):
    """The fault of drawing starts from [0, T - length]."""
    return masking.span_masks(mask, np.asarray(lengths) + 1, rows)[:, :-1]


def _no_random_rounding(mask, lengths, rows):
    whole = int(mask.prob * lengths[0] / mask.length) * mask.length / lengths[0] + 1e-9
    return masking.span_masks(mask.model_copy(update={"prob": whole}), lengths, rows)


def _with_replacement(mask, lengths, rows):
    generator = np.random.default_rng(0)
    out = np.zeros((len(rows), lengths[0]), bool)
    for row in out:
        spans = int(mask.prob * lengths[0] / mask.length + generator.random())
        for start in generator.integers(0, lengths[0] - mask.length, spans):
            row[start : start + mask.length] = True
    return out


@pytest.mark.parametrize(
    ("fault", "length"),
    [(_one_start_more, 99), (_no_random_rounding, 99), (_with_replacement, 999)],
)
def test_the_comparison_finds_faults(fault, length):
    mask = SPAN.model_copy(update={"equal_counts": False})
    masks = fault(mask, np.full(DRAWS, length), keys(DRAWS))
    assert refused(compare_row(masks, REFERENCE["speech"]["single"][str(length)]))


def test_the_comparison_finds_another_order_of_thinning():
    """Keeping the first frames in place of random ones is another distribution."""
    reference = REFERENCE["speech"]["batches"]["B4_T499_padded"]
    mask = SPAN.model_copy(update={"equal_counts": False})
    masks = masking.span_masks(mask, np.full(DRAWS, 499), keys(DRAWS))
    counts = masking.span_masks(mask, np.full(DRAWS, 200), keys(DRAWS, seed=2)).sum(1)
    masks &= masks.cumsum(1) <= counts[:, None]
    assert refused(compare_row(masks, reference["rows"][0]))


# --- keys -------------------------------------------------------------------------------------


def test_rows_depend_on_their_key_only():
    alone = SPAN.model_copy(update={"equal_counts": False})
    lengths = np.array([70, 500, 31, 500, 12, 1])
    rows = [(3, 2, 9), (3, 2, 11), (3, 2, 4), (3, 2, 8), (3, 2, 1), (3, 2, 0)]
    together = masking.span_masks(alone, lengths, rows)
    tokens, kinds = masking.token_masks(BERT, lengths, rows)
    blocks = masking.block_masks(BLOCK, 14, rows)
    for i, (length, key) in enumerate(zip(lengths, rows, strict=True)):
        assert (masking.span_masks(alone, [length], [key])[0] == together[i, :length]).all()
        chosen, kind = masking.token_masks(BERT, [length], [key])
        assert (chosen[0] == tokens[i, :length]).all()
        assert (kind[0] == kinds[i, :length]).all()
        assert (masking.block_masks(BLOCK, 14, [key])[0] == blocks[i]).all()


def test_thinning_keeps_the_same_frames_whoever_is_the_shortest():
    """Fewer frames kept are always a part of more frames kept."""
    first, second = (3, 2, 9), (3, 2, 11)
    alone = masking.span_masks(SPAN, [500], [first])[0]
    some = masking.span_masks(SPAN, [500, 300], [first, second])[0]
    few = masking.span_masks(SPAN, [500, 100], [first, second])[0]
    assert alone.sum() > some.sum() > few.sum() > 0
    assert (alone & some == some).all()
    assert (some & few == few).all()


@pytest.mark.parametrize("part", [0, 1, 2])
def test_each_part_of_the_key_matters(part):
    key = [5, 6, 7]
    base = masking.span_masks(SPAN, [500], [tuple(key)])
    key[part] += 1
    assert (masking.span_masks(SPAN, [500], [tuple(key)]) != base).any()
    assert masking.rng(5, 6, 7).random() == masking.rng(5, 6, 7).random()
    assert masking.rng(*key).random() != masking.rng(5, 6, 7).random()


def test_neighbouring_keys_are_not_correlated():
    mask = SPAN.model_copy(update={"equal_counts": False})
    for step in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        one = masking.span_masks(mask, np.full(2000, 99), keys(2000))
        other_keys = np.array(keys(2000)) + step
        other = masking.span_masks(mask, np.full(2000, 99), other_keys)
        middle = np.corrcoef(one[:, 10:80].sum(1), other[:, 10:80].sum(1))[0, 1]
        assert abs(middle) * np.sqrt(2000) < stats.norm.isf(ALPHA / 2)


def test_a_mask_is_the_same_for_ever():
    """A resumed run must meet the masks it had before: these bits may never change."""
    span = masking.span_masks(SPAN, [40, 30], [(1, 2, 3), (1, 2, 4)])
    assert [np.flatnonzero(row).tolist() for row in span] == FROZEN_SPANS
    block = masking.block_masks(BlockMask(kind="block", patches=9, min_block=2), 4, [(1, 2, 3)])
    assert np.flatnonzero(block[0]).tolist() == FROZEN_BLOCK
    _, kind = masking.token_masks(BERT, [30], [(1, 2, 3)])
    assert {int(i): int(kind[0, i]) for i in np.flatnonzero(kind[0])} == FROZEN_KINDS


# --- edges ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", range(1, 26))
def test_short_rows(length):
    """Every row hides something and, if it has two frames, shows something."""
    mask = SPAN.model_copy(update={"equal_counts": False})
    masks = masking.span_masks(mask, np.full(200, length), keys(200))
    assert (masks.sum(1) >= 1).all()
    assert (masks.sum(1) <= max(length - 1, 1)).all()
    masking.token_masks(TOKEN, np.full(200, length), keys(200))


def test_one_short_row_thins_its_batch_to_its_count():
    masks = masking.span_masks(SPAN, [500, 1], keys(2))
    assert masks.shape == (2, 500)
    assert masks.sum(1).tolist() == [1, 1]


def test_min_spans():
    mask = SpanMask(kind="span", prob=0.0, length=5, min_spans=2)
    counts = masking.span_masks(mask, [100] * 50, keys(50)).sum(1)
    assert (counts >= 6).all()
    assert (counts <= 10).all()
    none = SpanMask(kind="span", prob=0.0, length=5, min_spans=0)
    assert not masking.span_masks(none, [100] * 3, keys(3)).any()


def test_tokens_can_all_be_chosen():
    mask = TokenMask(kind="token", prob=1.0)
    chosen, kind = masking.token_masks(mask, [7, 3], keys(2))
    assert chosen.sum(1).tolist() == [7, 3]
    assert (kind[chosen] == masking.MASKED).all()


def test_blocks_that_never_fit_are_refused():
    with pytest.raises(UserError, match="min_block 16"):
        masking.block_masks(BlockMask(kind="block", patches=10, min_block=16, max_block=16), 3, [])


def test_the_largest_seed_that_parameters_allow():
    first, second = masking.span_masks(SPAN, [99, 99], [*keys(1, 2**63 - 1), *keys(1, 2**63 - 2)])
    assert 0 < first.sum() < 99
    assert (first != second).any()


def test_an_empty_batch():
    assert masking.block_masks(BLOCK, 14, []).shape == (0, 196)
    assert masking.span_masks(SPAN, [], []).shape == (0, 0)


# --- speed ------------------------------------------------------------------------------------


def _rows_per_second(make):
    make(0)
    best, count = 0.0, 64
    for turn in range(40):  # the best of many: other work on the machine only slows down
        start = time.process_time()
        for i in range(4):
            make(4 * turn + i)
        best = max(best, 4 * count / (time.process_time() - start))
    return best


@pytest.mark.slow
def test_speed():
    """Bar: 20,000 speech rows of 500 frames a second on one core, blocks in the same order."""
    lengths = np.full(64, 500)
    span = _rows_per_second(lambda i: masking.span_masks(SPAN, lengths, keys(64, epoch=i)))
    block = _rows_per_second(lambda i: masking.block_masks(BLOCK, 14, keys(64, epoch=i)))
    assert span >= 20_000
    assert block >= 5_000
