"""The order of examples is a function of (seed, step), whoever asks."""

import itertools

import pytest

from d2v.data.sampler import GlobalBatches
from d2v.errors import UserError


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
    with pytest.raises(UserError, match=r"train\.batch 12 is no multiple .* 4 x 2 process"):
        GlobalBatches(10, 12, 4, world=2)
    with pytest.raises(UserError, match="no examples"):
        GlobalBatches(0, 4, 4)
