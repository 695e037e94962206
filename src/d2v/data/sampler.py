"""Which examples make up optimiser step n: a function of (seed, n), whatever the processes."""

import itertools
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from d2v.errors import UserError


class GlobalBatches(Sampler[list[tuple[int, int]]]):
    """Endless micro-batches of (epoch, index) for one process.

    Every epoch is a permutation of the n examples that depends on (seed, epoch) alone; epochs
    follow one another without a gap, so nothing is dropped and a batch may hold the end of one
    and the start of the next. Step s takes the `batch` examples from position s * batch on;
    its micro-batch a * world + rank goes to process `rank` as the a-th. The position in the data
    is the step, so a resumed run gives `start_step` and needs no other state.
    """

    def __init__(
        self,
        n: int,
        batch: int,
        micro_batch: int,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        start_step: int = 0,
    ) -> None:
        if n < 1:
            raise UserError("the training split has no examples")
        self.n, self.batch, self.micro_batch = n, batch, micro_batch
        self.rank, self.world, self.seed, self.start_step = rank, world, seed, start_step
        self.accumulation = accumulation(batch, micro_batch, world)
        self._orders: dict[int, list[int]] = {}

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Micro-batches of this process, step by step, without end."""
        for step in itertools.count(self.start_step):
            for a in range(self.accumulation):
                first = step * self.batch + (a * self.world + self.rank) * self.micro_batch
                yield [self._example(first + k) for k in range(self.micro_batch)]

    def _example(self, position: int) -> tuple[int, int]:
        epoch, offset = divmod(position, self.n)
        if epoch not in self._orders:
            # one order is kept: a batch moves forward only, except where it spans two epochs
            order = np.random.default_rng([self.seed, epoch]).permutation(self.n)
            self._orders = {epoch: order.tolist()}
        return epoch, self._orders[epoch][offset]


def accumulation(batch: int, micro_batch: int, world: int) -> int:
    """Micro-batches of each process in an optimiser step; raises UserError unless it divides."""
    if batch % (micro_batch * world):
        raise UserError(
            f"train.batch {batch} is no multiple of train.micro_batch {micro_batch} x {world}"
            " process(es): change the micro-batch or the number of processes, so that the batch"
            " of a step stays the same"
        )
    return batch // (micro_batch * world)
