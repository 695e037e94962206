"""Base of the data sets of all modalities: choice of rows, their ids, caching in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from d2v.data.layout import LISTS, lines
from d2v.data.letters import letters_of
from d2v.data.shards import Shards, Texts, read_meta
from d2v.model.exact_masks import Removed
from d2v.model.masking import Key
from d2v.util.errors import UserError

IN_MEMORY = 256 * 2**20  # bytes; a set that is larger when decoded is decoded at every access
Item = TypeVar("Item")
Example = dict[str, Any]
Batch = dict[str, Any]
Place = tuple[int, int]  # epoch, index


@dataclass(frozen=True)
class Source:
    """Which examples to read, and the seed of their random numbers."""

    prepared: Path
    split: str  # or several, joined as a+b
    seed: int
    train: bool  # enables augmentation
    labels: str | None = None  # name of a label list


class Examples(Dataset[Example]):
    """One or several splits (a+b) of prepared data, or the rows of them that a label list names.

    A map-style data set over (epoch, index): augmentation and masks are functions of (seed, epoch,
    index).
    """

    kinds: tuple[str, ...]  # kinds of prepared data that it reads

    def __init__(self, source: Source) -> None:
        prepared, split = source.prepared, source.split
        self.meta = read_meta(prepared)
        self.folder, self.seed, self.train = prepared / split, source.seed, source.train
        if self.meta["kind"] not in self.kinds:
            wanted = " or ".join(self.kinds)
            raise UserError(f"{prepared}: prepared as {self.meta['kind']}, not as {wanted}")
        self.splits = split.split("+")
        for name in self.splits:
            if name not in self.meta["splits"]:
                known = ", ".join(self.meta["splits"])
                raise UserError(f"{prepared}: has no split {name!r}, only {known}")
        parts = [Shards(prepared / name) for name in self.splits]
        self.shards = parts[0] if len(parts) == 1 else Joined(parts)
        self.rows = np.arange(len(self.shards))
        if source.labels is not None:
            names = {name: row for row, name in enumerate(self.shards.texts("id"))}
            self.rows = _listed(source, source.labels, names)

    @cached_property
    def ids(self) -> Sequence[str]:
        """Name of each example."""
        return Picked(self.shards.texts("id"), self.rows)

    @cached_property
    def references(self) -> Sequence[Any]:
        """Reference for each prediction: class id, number or transcript."""
        return Picked(self.shards.numbers("label").tolist(), self.rows)

    @cached_property
    def letters(self) -> Sequence[str]:
        """Letters of the set's transcripts, in the order of a CTC model's outputs."""
        return letters_of(self.meta)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Samples or tokens per example (N,), after cropping, for batching by length.

        Raises UserError for data whose examples all have the same size.
        """
        raise UserError(
            f"{self.folder}: train.sized is for sequences, and these examples have one size;"
            " give train.batch and train.micro_batch"
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Place) -> Example:
        raise NotImplementedError

    def __getitems__(self, places: list[Place]) -> list[Example]:
        """Return the examples of a batch; the loader calls this once per batch."""
        return [self[place] for place in places]

    def collate(self, examples: list[Example]) -> Batch:
        """Collate examples into one batch of tensors."""
        raise NotImplementedError

    def finish(self, batch: Batch, device: torch.device) -> Batch:
        """Do the rest of the work for a batch on the model's device, where its tensors now are."""
        return batch

    def keys(self, examples: list[Example]) -> list[Key]:
        """(seed, epoch, index) of each example, on which its random numbers depend."""
        return [(self.seed, *example["place"]) for example in examples]

    def keep(self, chosen: npt.NDArray[np.bool_], why: str) -> None:
        """Keep only the chosen rows; raises UserError if none is left."""
        self.rows = self.rows[chosen]
        if not len(self.rows):
            raise UserError(f"{self.folder}: no examples left: {why}")


class Joined:
    """Several concatenated splits, read like one (d2v.data.shards.Shards)."""

    def __init__(self, parts: Sequence[Shards]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *map(len, parts)])
        self._texts: dict[str, Texts] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def columns(self) -> list[str]:
        """Names of the columns that all parts have."""
        return sorted(set.intersection(*(set(part.columns) for part in self.parts)))

    def payload(self, index: int) -> memoryview:
        """Return the bytes of example `index`, without copying them."""
        part = int(np.searchsorted(self.starts, index, "right")) - 1
        return self.parts[part].payload(index - int(self.starts[part]))

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """Return a column of numbers as an array (N,)."""
        return np.concatenate([part.numbers(name) for part in self.parts])

    def texts(self, name: str) -> Texts:
        """Return a column of texts."""
        if name not in self._texts:
            columns = [part.texts(name) for part in self.parts]
            before = np.cumsum([0, *(len(c.utf8) for c in columns)])
            ends = [c.ends + start for c, start in zip(columns, before, strict=False)]
            utf8 = np.concatenate([c.utf8 for c in columns])
            self._texts[name] = Texts(utf8, np.concatenate(ends))
        return self._texts[name]


class Picked(Sequence[Item], Generic[Item]):
    """The items of a sequence at the given rows, looked up lazily."""

    def __init__(self, items: Sequence[Item], rows: npt.NDArray[np.integer]) -> None:
        self.items, self.rows = items, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self.items[int(row)] for row in self.rows[index]]
        return self.items[int(self.rows[index])]


class Decoded:
    """Decoded rows; each is cached after its first use if all of them fit into IN_MEMORY."""

    def __init__(self, decode: Callable[[int], np.ndarray], total_bytes: int) -> None:
        self.decode, self.kept = decode, total_bytes <= IN_MEMORY
        self._items: dict[int, np.ndarray] = {}

    def __getitem__(self, row: int) -> np.ndarray:
        item = self._items.get(row)
        if item is None:
            item = self.decode(row)
            if self.kept:
                self._items[row] = item
        return item


def hiding(mask: npt.NDArray[np.bool_]) -> Batch:
    """`mask` (B, T), and `masked` (M,) int64: the indices at which the flattened mask is True.

    The loader's processes compute the indices, because searching a mask on an accelerator would
    force a synchronisation.
    """
    return {"mask": torch.from_numpy(mask), "masked": torch.from_numpy(np.flatnonzero(mask))}


def removing(masks: Removed) -> Batch:
    """`hiding` of R rows, and `visible` (R, V) int64: the positions that the student sees."""
    return hiding(masks.hidden) | {"visible": torch.from_numpy(masks.visible)}


def _listed(source: Source, labels: str, rows: dict[str, int]) -> np.ndarray:
    """Rows that prepared/lists/<labels>[.txt] names, in the order of the list."""
    path = source.prepared / LISTS / f"{labels.removesuffix('.txt')}.txt"
    if not path.exists():
        raise UserError(f"{path}: no such label list")
    chosen = []
    for number, name in lines(path):
        if name not in rows:
            raise UserError(f"{path}:{number}: no example of {source.split} is named {name!r}")
        chosen.append(rows[name])
    return np.array(chosen)
