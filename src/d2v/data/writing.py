"""Writing a split: many examples into few shards, in parallel, going on where a kill left it.

Items are cut into shards by their sizes, so the bytes depend on the input only, never on the number
of workers. Each shard is made as a whole by one process; finished ones of an interrupted
preparation are kept if the input is still the same.

    OUT.tmp/.parts/<split>/key          what the parts were made from
    OUT.tmp/.parts/<split>/00007.bin    payloads of a finished shard
    OUT.tmp/.parts/<split>/00007.npz    its columns, written last
"""

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from d2v.data.parallel import Advance, cores, run_all
from d2v.data.shards import PARTS, SHARD_BYTES, Shards, as_arrays, join_arrays
from d2v.files import remove_file, remove_folder, rename, whole

Item = TypeVar("Item")
Columns = dict[str, int | float | str]
LOG_S = 30.0  # between two lines of progress where there is no terminal


class Example(NamedTuple):
    """What is kept of an example; all examples of a split have the same columns."""

    payload: bytes
    columns: Columns
    counts: npt.NDArray[np.int64] | None = None  # added up over the split (histograms of pixels)


class Written(NamedTuple):
    """A finished split, and the sum of its examples' counts."""

    shards: Shards
    counts: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class _Part:
    """One shard to be made: `examples` of each item."""

    folder: Path
    number: int
    items: Sequence[Any]
    examples: Callable[[Any], Iterable[Example]]

    @property
    def done(self) -> Path:
        return self.folder / f"{self.number:05d}.npz"


def write_split(
    folder: Path,
    items: Sequence[Item],
    examples: Callable[[Item], Iterable[Example]],
    *,
    sizes: Sequence[int],
    label: str,
    workers: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Written:
    """Write the examples of all items, in their order, into shards and an index.

    `folder` lies in a folder of `written_whole`. `examples` runs in `workers` processes (None: one
    for each core) and must be picklable; an item gives any number of examples. `sizes` are about
    the bytes each item takes. Items are paths, texts, numbers or tuples of them: a path counts as
    changed when its time of modification does.

    Raises what `examples` raises, and ValueError if the columns of two examples differ.
    """
    key = _key(items, sizes, examples, shard_bytes)
    parts_folder = folder.parent / PARTS / folder.name
    if _read(parts_folder / "key") != key:
        remove_file(parts_folder / "key")  # before what it vouches for
        remove_folder(folder)
        remove_folder(parts_folder)
        parts_folder.mkdir(parents=True)
        (parts_folder / "key").write_text(key)
    if not (folder / "index.npz").exists():
        parts = [
            _Part(parts_folder, number, items[first:end], examples)
            for number, (first, end) in enumerate(cut(sizes, shard_bytes))
        ]
        _make(parts, label, len(items), workers or cores())
        _join(folder, parts)
    with np.load(parts_folder / "counts.npz") as found:
        return Written(Shards(folder), found["counts"] if "counts" in found.files else None)


def cut(sizes: Sequence[int], shard_bytes: int) -> list[tuple[int, int]]:
    """First and last-but-one item of each shard: as many as fit, at least one."""
    ends, filled = [], 0
    for place, size in enumerate(sizes):
        if filled and filled + size > shard_bytes:
            ends.append(place)
            filled = 0
        filled += size
    bounds = [0, *ends, len(sizes)]
    return list(itertools.pairwise(bounds))


def _make(parts: list[_Part], label: str, total: int, workers: int) -> None:
    """Make the parts that are not there yet."""
    left = [part for part in parts if not part.done.exists()]
    done = total - sum(len(part.items) for part in left)
    with progress_of(label, total, done) as advance:
        run_all(_write_part, left, workers, advance)


def _write_part(part: _Part, advance: Advance) -> None:
    """Write one shard: payloads, then columns; each gets its name only when it is whole."""
    columns: dict[str, list[Any]] = {"offset": [], "length": []}
    counts: npt.NDArray[np.int64] | None = None
    payloads = part.done.with_suffix(".bin")
    with _whole(payloads, part.folder) as file:
        for item in part.items:
            for example in part.examples(item):
                if not columns["offset"]:
                    columns |= {name: [] for name in example.columns}
                if columns.keys() != {"offset", "length"} | example.columns.keys():
                    raise ValueError(
                        f"columns {sorted(example.columns)} differ from the first example's"
                    )
                place = {"offset": file.tell(), "length": len(example.payload)}
                file.write(example.payload)
                for name, value in (place | example.columns).items():
                    columns[name].append(value)
                if example.counts is not None:
                    counts = example.counts if counts is None else counts + example.counts
            advance(1)
    arrays = {k: v for name, values in columns.items() for k, v in as_arrays(name, values).items()}
    kept = arrays if counts is None else arrays | {"+counts": counts}
    _save(part.done, kept, part.folder)


def _join(folder: Path, parts: list[_Part]) -> None:
    """The finished shards under their names, and the index of all."""
    found, counts = [], None
    for part in parts:
        with np.load(part.done) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        added = arrays.pop("+counts", None)
        counts = added if counts is None else counts if added is None else counts + added
        length = len(arrays["offset"])
        found.append({"shard": np.full(length, part.number, np.int64), **arrays})
    index = join_arrays(found)
    folder.mkdir(exist_ok=True)
    for part in parts:
        payloads = part.done.with_suffix(".bin")
        if payloads.exists():  # else a kill came after it was moved
            rename(payloads, folder / payloads.name)
    kept = {} if counts is None else {"counts": counts}
    drafts = parts[0].folder
    _save(drafts / "counts.npz", kept, drafts)
    _save(folder / "index.npz", index, drafts)


def _save(path: Path, arrays: dict[str, npt.NDArray[Any]], drafts: Path) -> None:
    with _whole(path, drafts) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


@contextmanager
def _whole(path: Path, drafts: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when it is whole and on the disk.

    Until then it is called after this process: a worker that outlives a killed parent for a moment
    and the one that does its work again write two files of equal content.
    """
    with whole(path, drafts) as draft, open(draft, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _key(items: Sequence[Any], sizes: Sequence[int], examples: Any, shard_bytes: int) -> str:
    """SHA-256 of what the parts depend on: items, sizes, parameters and the readers' code."""
    made_by = (
        getattr(examples, "func", examples),
        getattr(examples, "args", ()),
        getattr(examples, "keywords", {}),
    )
    digest = sha256(f"{made_by[0].__qualname__} {made_by[1:]} {shard_bytes}\n".encode())
    for module in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    for item, size in zip(items, sizes, strict=True):
        digest.update(f"{item!r} {size} {_changed(item)}\n".encode())
    return digest.hexdigest()


def _changed(item: Any) -> list[int]:
    """Times of modification of the paths in an item."""
    if isinstance(item, Path):
        return [item.stat().st_mtime_ns]
    return [t for part in item for t in _changed(part)] if isinstance(item, tuple) else []


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


@contextmanager
def progress_of(label: str, total: int, done: int) -> Iterator[Advance]:
    """A function that is told how many more of `total` items are done.

    A bar with rate and ETA on a terminal, else a line now and then on standard error.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=label, unit=" items") as bar:

            def move(count: int) -> None:
                bar.update(count)

            yield move
        return
    started = said = time.monotonic()
    new = 0

    def advance(count: int) -> None:
        nonlocal said, new
        new += count
        now = time.monotonic()
        if new and now - said >= LOG_S:
            said, rate = now, new / max(now - started, 1e-9)
            left = timedelta(seconds=round((total - done - new) / rate))
            line = f"{label}: {done + new:,}/{total:,} items, {rate:,.1f} items/s, {left} left"
            print(line, file=sys.stderr, flush=True)

    yield advance
