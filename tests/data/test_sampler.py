"""The order of examples is a function of (seed, step), whoever asks."""

import itertools

import numpy as np
import pytest

from d2v.data.sampler import GlobalBatches, SizedBatches, build, cut, portions
from d2v.params import Sized, Train
from d2v.util.errors import UserError


def take(count: int, *args: int, **kwargs: int) -> list[list[tuple[int, int]]]:
    return list(itertools.islice(GlobalBatches(*args, **kwargs), count))


def test_every_epoch_holds_every_example_once_and_epochs_differ() -> None:
    stream = list(itertools.chain.from_iterable(take(30, 10, 4, 2)))
    assert len(stream) == 60
    epochs = [[index for epoch, index in stream if epoch == e] for e in range(6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert [epoch for epoch, _ in stream] == sorted(epoch for epoch, _ in stream)


def test_seeds_give_different_orders() -> None:
    assert take(5, 100, 8, 8, seed=1) == take(5, 100, 8, 8, seed=1)
    assert take(5, 100, 8, 8, seed=1) != take(5, 100, 8, 8, seed=2)


@pytest.mark.parametrize(("world", "micro_batch"), [(1, 12), (1, 3), (2, 3), (4, 3), (3, 4)])
def test_a_global_batch_is_the_same_for_any_processes_and_portions(
    world: int, micro_batch: int
) -> None:
    whole = take(7, 29, 12, 12)
    portions = 12 // (world * micro_batch)
    ranks = [take(7 * portions, 29, 12, micro_batch, rank=r, world=world) for r in range(world)]
    for step in range(7):
        joined = []
        for a in range(portions):
            for rank in range(world):
                joined += ranks[rank][step * portions + a]
        assert joined == whole[step]


def test_start_step_skips_exactly_the_steps_before() -> None:
    assert take(3, 29, 12, 6, start_step=4) == take(11, 29, 12, 6)[8:]


def test_a_batch_may_be_larger_than_the_data() -> None:
    (batch,) = take(1, 3, 8, 8)
    assert [epoch for epoch, _ in batch] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.batch 12 is not a multiple .* 4 x 2 process"):
        GlobalBatches(10, 12, 4, world=2)
    with pytest.raises(UserError, match="no examples"):
        GlobalBatches(0, 4, 4)


# --- by length --------------------------------------------------------------------------------

SIZES = np.random.default_rng(0).integers(2, 40, 101)
P = Sized(size=80, micro_batches=4)


def sized(count: int, p: Sized = P, **where: int) -> list[list[tuple[int, int]]]:
    return list(itertools.islice(SizedBatches(SIZES, p, **where), count))


def in_epoch() -> int:
    """Micro-batches of an epoch."""
    return len(SizedBatches(SIZES, P).ends)


def test_batches_by_length_are_full_and_never_more() -> None:
    n = in_epoch()
    for epoch in range(3):
        found = sized((epoch + 1) * n)[epoch * n :]
        assert {e for batch in found for e, _ in batch} == {epoch}
        assert sorted(i for batch in found for _, i in batch) == list(range(101))
        lengths = [SIZES[[i for _, i in batch]] for batch in found]
        assert all(len(x) * x.max() <= 80 for x in lengths)
        # sorted again, the next one never fits: nothing is wasted
        lengths.sort(key=lambda x: (-x.max(), -x.min()))
        for one, following in itertools.pairwise(lengths):
            assert (len(one) + 1) * one.max() > 80
            assert one.min() >= following.max()


def test_the_number_of_batches_is_that_of_every_epoch_but_their_order_and_company_change() -> None:
    n = in_epoch()
    epochs = [[{i for _, i in b} for b in sized(3 * n)[k * n : (k + 1) * n]] for k in range(3)]
    assert [len(e) for e in epochs] == [n] * 3
    sizes = [[len(b) for b in e] for e in epochs]
    assert sizes[0] != sizes[1] != sizes[2]
    assert len({frozenset(map(frozenset, e)) for e in epochs}) == 3
    other = [{i for _, i in b} for b in sized(n, seed=1)]
    assert other != epochs[0]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_batches_by_length_are_the_same_for_any_processes(world: int) -> None:
    whole, share = sized(6 * 4), 4 // world
    ranks = [sized(6 * share, rank=r, world=world) for r in range(world)]
    joined = [ranks[r][s * share + a] for s in range(6) for a in range(share) for r in range(world)]
    assert joined == whole


def test_batches_by_length_resume_at_any_step() -> None:
    assert sized(8, start_step=11) == sized(13 * 4)[44:]
    steps = SizedBatches(SIZES, P)
    counted = [sum(map(len, sized(40 * 4)[s * 4 : s * 4 + 4])) for s in range(40)]
    assert [steps.examples(s) for s in range(40)] == counted
    assert steps.mean == pytest.approx(101 / in_epoch() * 4)


def test_a_step_may_be_larger_than_several_epochs() -> None:
    few = SizedBatches([3, 5, 4], Sized(size=10, micro_batches=7))
    assert len(few.ends) == 2
    stream = list(itertools.islice(few, 14))
    assert sorted(e for b in stream[:7] for e, _ in b) == [
        0,
        0,
        0,
        1,
        1,
        1,
        2,
        2,
        2,
        *[3] * len(stream[6]),
    ]
    assert [few.examples(s) for s in (0, 1)] == [sum(map(len, stream[i : i + 7])) for i in (0, 7)]


def test_cutting_is_greedy() -> None:
    assert cut(np.array([9, 5, 4, 4, 3, 1, 1]), 9).tolist() == [1, 2, 4, 7]
    assert cut(np.array([20, 5, 5]), 9).tolist() == [1, 2, 3]  # too long: alone
    assert cut(np.array([], int), 9).tolist() == []


class Some:
    def __init__(self, *sizes: int) -> None:
        self.sizes, self.ids = np.array(sizes, int), [f"example {i}" for i in range(len(sizes))]

    def __len__(self) -> int:
        return len(self.sizes)


def test_lengths_and_processes_that_do_not_fit_are_refused() -> None:
    train = Train(steps=1, sized=Sized(size=10, micro_batches=6))
    where = {"rank": 0, "world": 1, "seed": 0, "start_step": 0}
    with pytest.raises(UserError, match=r"example 1 alone has 11 .* train\.sized\.size 10"):
        build(Some(3, 11, 4), train, **where)
    with pytest.raises(UserError, match="no examples"):
        build(Some(), train, **where)
    with pytest.raises(UserError, match=r"6 is not a multiple of 4 .* global batch stays the same"):
        portions(train, 4)
    assert portions(train, 3) == 2
