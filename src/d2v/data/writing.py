"""Writing a split: many examples into few shards, in parallel, resuming after a kill.

Items are divided into shards by their sizes, so the bytes depend only on the input, never on the
number of workers. One process makes each shard. An interrupted preparation keeps its finished
shards as long as their input is unchanged. A broken item prevents only its own shard from being
finished; all broken items are reported at the end.

    OUT.tmp/.parts/<split>/key          hash of the input of all shards
    OUT.tmp/.parts/<split>/00007.key    hash of the input of this shard
    OUT.tmp/.parts/<split>/00007.bin    payloads of a finished shard
    OUT.tmp/.parts/<split>/00007.npz    its columns and the hashes of its contents, written last
"""

import itertools
import json
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

from d2v.data.parallel import Advance, cores, run_all
from d2v.data.repeats import BYTES, content_hash
from d2v.data.reuse import forget, key_of, made_by, text_of
from d2v.data.shards import COUNTS, HASHES, SHARD_BYTES, Shards, as_arrays, join_arrays
from d2v.util.errors import UserError
from d2v.util.files import rename, whole
from d2v.util.outputs import PARTS

Item = TypeVar("Item")
Columns = dict[str, int | float | str]
MANY = 20  # broken items after which a shard is abandoned
LOG_S = 30.0  # seconds between two progress lines without a terminal


class Example(NamedTuple):
    """What a shard stores of an example; all examples of a split have the same columns."""

    payload: bytes
    columns: Columns
    counts: npt.NDArray[np.int64] | None = None  # summed over the split (histograms of pixels)


class Written(NamedTuple):
    """A finished split and the sum of the counts of its examples."""

    shards: Shards
    counts: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class _Part:
    """One shard to make: `examples` turns each of its items into examples."""

    folder: Path
    number: int
    items: Sequence[Any]
    examples: Callable[[Any], Iterable[Example]]

    @property
    def done(self) -> Path:
        return self.folder / f"{self.number:05d}.npz"

    @property
    def faults(self) -> Path:
        """File with the error messages of its broken items, if there are any."""
        return self.done.with_suffix(".faults")


class _Broken(Exception):
    """Carries the error messages of the broken items of a part."""


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

    `folder` is inside a folder of `written_whole`. `examples` runs in `workers` processes (None:
    one per core) and must be picklable; one item may give any number of examples. `sizes` are the
    approximate bytes that each item takes. Items are paths, texts, numbers or tuples of them. A
    path counts as changed when its modification time changes.

    Raises UserError if items are broken, once all shards without broken items are made: with the
    message that `examples` raised for the first one, while standard error lists all of them.
    Passes on any other exception of `examples`, and raises ValueError if the columns of two
    examples differ.
    """
    parts_folder = folder.parent / PARTS / folder.name
    places = cut(sizes, shard_bytes)
    parts = [_Part(parts_folder, n, items[a:b], examples) for n, (a, b) in enumerate(places)]
    how = made_by(examples, shard_bytes)
    keys = {
        part.done.stem: key_of(how, part.items, sizes[a:b])
        for part, (a, b) in zip(parts, places, strict=True)
    }
    key = sha256("".join(keys.values()).encode()).hexdigest()
    if text_of(parts_folder / "key") != key:
        forget(folder, parts_folder, keys)
        (parts_folder / "key").write_text(key)
    if not (folder / "index.npz").exists():
        _make(parts, label, len(items), workers or cores())
        _refuse_broken(parts)
        _join(folder, parts)
    with np.load(parts_folder / COUNTS) as found:
        return Written(Shards(folder), found["counts"] if "counts" in found.files else None)


def cut(sizes: Sequence[int], shard_bytes: int) -> list[tuple[int, int]]:
    """Return the first item and the end (exclusive) of each shard: as many as fit, at least one."""
    ends, filled = [], 0
    for place, size in enumerate(sizes):
        if filled and filled + size > shard_bytes:
            ends.append(place)
            filled = 0
        filled += size
    bounds = [0, *ends, len(sizes)]
    return list(itertools.pairwise(bounds))


def _refuse_broken(parts: list[_Part]) -> None:
    faults = [t for p in parts if p.faults.exists() for t in json.loads(p.faults.read_text())]
    if faults:
        more = f" ({len(faults) - 1} more broken, named above)" if len(faults) > 1 else ""
        raise UserError(faults[0] + more)


def _make(parts: list[_Part], label: str, total: int, workers: int) -> None:
    """Make the parts that are not finished yet."""
    left = [part for part in parts if not part.done.exists()]
    for part in left:
        part.faults.unlink(missing_ok=True)  # safe: of an earlier try, in OUT.tmp
    done = total - sum(len(part.items) for part in left)
    with progress_of(label, total, done) as advance:
        run_all(_write_part, left, workers, advance)


def _write_part(part: _Part, advance: Advance) -> None:
    """Write one shard: payloads, then columns; a file gets its final name only when complete.

    For a shard with broken items, write only their error messages.
    """
    columns: dict[str, list[Any]] = {"offset": [], "length": []}
    hashes: list[bytes] = []
    counts: npt.NDArray[np.int64] | None = None
    try:
        with _whole(part.done.with_suffix(".bin"), part.folder) as file:
            for example in _examples(part, advance):
                if not columns["offset"]:
                    columns |= {name: [] for name in example.columns}
                if columns.keys() != {"offset", "length"} | example.columns.keys():
                    raise ValueError(
                        f"columns {sorted(example.columns)} differ from the first example's"
                    )
                place = {"offset": file.tell(), "length": len(example.payload)}
                file.write(example.payload)
                hashes.append(content_hash(example.payload))
                for name, value in (place | example.columns).items():
                    columns[name].append(value)
                if example.counts is not None:
                    counts = example.counts if counts is None else counts + example.counts
    except _Broken as broken:
        part.faults.write_text(json.dumps(broken.args[0]))
        return
    arrays = {k: v for name, values in columns.items() for k, v in as_arrays(name, values).items()}
    arrays[f"+{HASHES}"] = np.array(hashes, f"V{BYTES}")
    kept = arrays if counts is None else arrays | {"+counts": counts}
    _save(part.done, kept, part.folder)


def _examples(part: _Part, advance: Advance) -> Iterator[Example]:
    """Yield the examples of all items; raises _Broken after the last, or the MANYth broken one."""
    faults: list[str] = []
    for item in part.items:
        try:
            yield from part.examples(item)
        except UserError as error:
            faults.append(str(error))
            print(f"warning: {error}", file=sys.stderr, flush=True)
            if len(faults) == MANY:
                break
        advance(1)
    if faults:
        raise _Broken(faults)


def _join(folder: Path, parts: list[_Part]) -> None:
    """Move the finished shards to their final names, and write their joint index."""
    found, hashes, counts = [], [], None
    for part in parts:
        with np.load(part.done) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        hashes.append(arrays.pop(f"+{HASHES}"))
        added = arrays.pop("+counts", None)
        counts = added if counts is None else counts if added is None else counts + added
        length = len(arrays["offset"])
        found.append({"shard": np.full(length, part.number, np.int64), **arrays})
    index = join_arrays(found)
    folder.mkdir(exist_ok=True)
    for part in parts:
        payloads = part.done.with_suffix(".bin")
        if payloads.exists():  # otherwise an earlier run moved it and was killed later
            rename(payloads, folder / payloads.name)
    kept = {HASHES: np.concatenate(hashes)} | ({} if counts is None else {"counts": counts})
    drafts = parts[0].folder
    _save(drafts / COUNTS, kept, drafts)
    _save(folder / "index.npz", index, drafts)


def _save(path: Path, arrays: dict[str, npt.NDArray[Any]], drafts: Path) -> None:
    with _whole(path, drafts) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


@contextmanager
def _whole(path: Path, drafts: Path) -> Iterator[IO[bytes]]:
    """Open a file that gets its final name once it is complete and flushed to disk.

    Until then, it is named after this process. A worker that briefly outlives its killed parent and
    the worker that repeats its work therefore write two files, with equal content.
    """
    with whole(path, drafts) as draft, open(draft, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def progress_of(label: str, total: int, done: int) -> Iterator[Advance]:
    """Report progress: gives a function to call with the number of items just finished.

    On a terminal, shows a bar with rate and ETA; otherwise prints a line to standard error at most
    once every LOG_S seconds.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

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
