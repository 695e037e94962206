"""The examples of each optimiser step: a function of seed and step, for any process count."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from d2v.params import Sized, Train
from d2v.util.errors import UserError, counted

Ints = npt.NDArray[np.int64]


class Sizes(Protocol):
    """Interface of a data set that batching by length needs (d2v.data.examples.Examples)."""

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def sizes(self) -> Ints: ...
    def __len__(self) -> int: ...


class GlobalBatches(Sampler[list[tuple[int, int]]]):
    """Endless micro-batches of (epoch, index) for one process.

    Every epoch is a permutation of the n examples that depends only on (seed, epoch). Epochs follow
    one another without a gap, so no example is dropped, and a batch may contain the end of one
    epoch and the start of the next. Step s takes `batch` examples, starting at position s * batch.
    Its micro-batch a * world + rank is the a-th micro-batch of process `rank`. The step alone gives
    the position in the data, so a resumed run passes `start_step` and needs no other state.
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
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the micro-batches of this process, step by step, without end."""
        for step in itertools.count(self.start_step):
            for a in range(self.accumulation):
                first = step * self.batch + (a * self.world + self.rank) * self.micro_batch
                yield [self._example(first + k) for k in range(self.micro_batch)]

    def keys(self, step: int) -> list[tuple[int, int]]:
        """Return (epoch, index) of the examples of all processes in a step."""
        return [self._example(step * self.batch + k) for k in range(self.batch)]

    def examples(self, step: int) -> int:
        """Return the number of examples of all processes in a step."""
        return self.batch

    @property
    def mean(self) -> float:
        """Average number of examples per step."""
        return self.batch

    def _example(self, position: int) -> tuple[int, int]:
        epoch, offset = divmod(position, self.n)
        if epoch not in self._orders:
            # one order is enough: positions only advance, except in a batch that spans two epochs
            order = np.random.default_rng([self.seed, epoch]).permutation(self.n)
            self._orders = {epoch: order}
        return epoch, int(self._orders[epoch][offset])


class SizedBatches(Sampler[list[tuple[int, int]]]):
    """Endless micro-batches of (epoch, index) of examples of similar length, for one process.

    The examples of an epoch are sorted by size, with ties in random order, and cut into
    micro-batches. A micro-batch holds as many examples as fit: their number times the length of the
    longest is at most `size` (fairseq's max_tokens). Micro-batches are used in random order. Both
    orders depend only on (seed, epoch). The sorted sizes are the same in every epoch, so every
    epoch has the same number of micro-batches. Step s takes the micro-batches that start at
    position s * micro_batches, across the ends of epochs. Of these, a * world + rank is the a-th
    micro-batch of process `rank`. A resumed run needs no state except `start_step`.
    """

    def __init__(
        self,
        sizes: npt.ArrayLike,
        p: Sized,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        start_step: int = 0,
    ) -> None:
        self.sizes, self.p = np.asarray(sizes, np.int64), p
        self.rank, self.world, self.seed, self.start_step = rank, world, seed, start_step
        self.accumulation = shares(p, world)
        self.ends = cut(np.sort(self.sizes)[::-1], p.size)  # (micro-batches per epoch,)
        self._orders: dict[int, tuple[Ints, Ints]] = {}

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the micro-batches of this process, step by step, without end."""
        for step in itertools.count(self.start_step):
            for a in range(self.accumulation):
                yield self._micro_batch(step * self.p.micro_batches + a * self.world + self.rank)

    def keys(self, step: int) -> list[tuple[int, int]]:
        """Return (epoch, index) of the examples of all processes in a step."""
        first = step * self.p.micro_batches
        return [key for i in range(self.p.micro_batches) for key in self._micro_batch(first + i)]

    def examples(self, step: int) -> int:
        """Return the number of examples of all processes in the step after `step` finished ones."""
        first = step * self.p.micro_batches
        places = (self._place(first + i) for i in range(self.p.micro_batches))
        return sum(end - start for _, start, end in places)

    @property
    def mean(self) -> float:
        """Average number of examples per step."""
        return len(self.sizes) / len(self.ends) * self.p.micro_batches

    def _micro_batch(self, position: int) -> list[tuple[int, int]]:
        epoch, start, end = self._place(position)
        return [(epoch, index) for index in self._epoch(epoch)[0][start:end].tolist()]

    def _place(self, position: int) -> tuple[int, int, int]:
        """Return the epoch of a micro-batch, and its start and end in the sorted examples."""
        epoch, place = divmod(position, len(self.ends))
        number = int(self._epoch(epoch)[1][place])
        return epoch, int(self.ends[number - 1]) if number else 0, int(self.ends[number])

    def _epoch(self, epoch: int) -> tuple[Ints, Ints]:
        """Return the examples, longest first, and the micro-batches in the order of their use."""
        if epoch not in self._orders:
            random = np.random.default_rng([self.seed, epoch])
            ties = random.permutation(len(self.sizes))
            order = ties[np.argsort(-self.sizes[ties], kind="stable")]
            # keep two epochs, since a step may span both; only very small sets need more
            self._orders = dict([*self._orders.items()][-1:])
            self._orders[epoch] = (order, random.permutation(len(self.ends)))
        return self._orders[epoch]


def cut(sizes: Ints, most: int) -> Ints:
    """Return the ends of micro-batches of descending sizes (N,): as many as fit into `most`."""
    ends, start = [], 0
    while start < len(sizes):
        start = min(start + max(most // max(int(sizes[start]), 1), 1), len(sizes))
        ends.append(start)
    return np.array(ends, np.int64)


def shares(p: Sized, world: int) -> int:
    """Micro-batches per process and optimiser step; raises UserError unless they divide evenly."""
    if p.micro_batches % world:
        raise UserError(
            f"train.sized.micro_batches {p.micro_batches} is not a multiple of"
            f" {counted(world, 'process')}: change the number of processes, so that the"
            " global batch stays the same"
        )
    return p.micro_batches // world


def check_sizes(dataset: Sizes, p: Sized) -> None:
    """Raise UserError if there are no examples, or one alone is larger than a micro-batch."""
    if not len(dataset):
        raise UserError("the training split has no examples")
    longest = int(dataset.sizes.argmax())
    if dataset.sizes[longest] > p.size:
        raise UserError(
            f"example {dataset.ids[longest]} alone has {dataset.sizes[longest]} samples or tokens,"
            f" more than train.sized.size {p.size}: raise it, or crop or leave out long examples"
        )


def build(
    dataset: Sizes, train: Train, *, rank: int, world: int, seed: int, start_step: int
) -> GlobalBatches | SizedBatches:
    """Build the sampler that `train` describes; raises UserError if it does not fit the data."""
    if train.sized is not None:
        check_sizes(dataset, train.sized)
        return SizedBatches(dataset.sizes, train.sized, rank, world, seed, start_step)
    assert train.batch is not None
    assert isinstance(train.micro_batch, int)  # auto has been settled
    return GlobalBatches(
        len(dataset), train.batch, train.micro_batch, rank, world, seed, start_step
    )


def portions(train: Train, world: int) -> int:
    """Micro-batches per process and optimiser step; raises UserError unless they divide evenly."""
    if train.sized is not None:
        return shares(train.sized, world)
    assert train.batch is not None
    assert isinstance(train.micro_batch, int)  # auto has been settled
    return accumulation(train.batch, train.micro_batch, world)


def describe(train: Train, mean: float) -> str:
    """Describe the batch of a step, on average `mean` examples, and its micro-batch, as text."""
    if train.sized is None:
        return f"batch {train.batch} = {train.micro_batch} (micro)"
    size = train.sized.size
    return f"batch of {mean:.1f} examples on average = at most {size} samples or tokens (micro)"


def accumulation(batch: int, micro_batch: int, world: int) -> int:
    """Micro-batches per process and optimiser step; raises UserError unless they divide evenly."""
    if batch % (micro_batch * world):
        raise UserError(
            f"train.batch {batch} is not a multiple of train.micro_batch {micro_batch} x"
            f" {counted(world, 'process')}: change the micro-batch or the number of processes, so"
            " that the batch of a step stays the same"
        )
    return batch // (micro_batch * world)
