"""Many examples in few files: concatenated payloads, and an index with their columns.

    <split>/00000.bin, 00001.bin, ...   payloads: JPEG or FLAC files, token ids
    <split>/index.npz                   position of each payload, and one array per column

The same input always gives byte-identical files, on any machine: nothing is compressed, because
zlib versions differ, and no time or path is stored.
"""

import json
import mmap
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, overload
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from d2v.data.repeats import leaks, repeated
from d2v.util.errors import UserError
from d2v.util.files import MARK, remove_file, remove_folder, sha256
from d2v.util.outputs import PARTS, filled, hash_of

SCHEMA = 1  # version of meta.json and of the index
SHARD_BYTES = 256 * 2**20
WORTH_KEEPING = SHARD_BYTES  # bytes finished by a preparation before it failed
COUNTS = "counts.npz"  # in .parts/<split>: sums over the examples of a finished split
HASHES = "hashes"  # in COUNTS: the hash of each example's content, in order
_PLACE = ("shard", "offset", "length")


class Shards:
    """Random access to a split that `write_split` wrote; payloads are views of mapped files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            with np.load(folder / "index.npz", allow_pickle=False) as index:
                self._arrays = {name: index[name] for name in index.files}
        except FileNotFoundError:
            raise UserError(f"{folder}: no index.npz; prepare this data set first") from None
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise UserError(f"{folder}/index.npz: unreadable ({error}); prepare again") from None
        self._maps: dict[int, memoryview] = {}

    def __len__(self) -> int:
        return len(self._arrays["offset"])

    def __getstate__(self) -> dict[str, Any]:
        # memory maps cannot be pickled for spawned loader processes, which map the files again
        return self.__dict__ | {"_maps": {}}

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns that the examples were written with."""
        names = {name.partition(".")[0] for name in self._arrays}
        return sorted(names - set(_PLACE))

    def payload(self, index: int) -> memoryview:
        """Return the bytes of example `index`, without copying them."""
        shard, offset, length = (int(self._arrays[name][index]) for name in _PLACE)
        if shard not in self._maps:
            self._maps[shard] = _map(self.folder / f"{shard:05d}.bin")
        view = self._maps[shard][offset : offset + length]
        if len(view) < length:
            raise UserError(f"{self.folder}/{shard:05d}.bin: too short; prepare again")
        return view

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """Return a column of numbers as an array (N,)."""
        return self._arrays[name]

    def texts(self, name: str) -> "Texts":
        """Return a column of texts."""
        return Texts(self._arrays[f"{name}.utf8"], self._arrays[f"{name}.ends"])


class Texts(Sequence[str]):
    """Texts stored as one array of UTF-8 bytes and decoded one at a time."""

    def __init__(self, utf8: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> None:
        self.utf8, self.ends = utf8, ends

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = self.ends[index - 1] if index else 0
        return self.utf8[start : self.ends[index]].tobytes().decode()


def as_arrays(name: str, values: list[Any]) -> dict[str, npt.NDArray[Any]]:
    """Return a column as stored: an array of numbers, or the UTF-8 of all texts and their ends."""
    if not values or not isinstance(values[0], str):
        return {name: np.asarray(values, np.float64 if _floats(values) else np.int64)}
    try:
        encoded = [value.encode() for value in values]
    except UnicodeEncodeError as error:
        raise UserError(f"{error.object!r}: this {name} is not UTF-8; rename the file") from None
    return {
        f"{name}.utf8": np.frombuffer(b"".join(encoded), np.uint8),
        f"{name}.ends": np.cumsum([len(e) for e in encoded], dtype=np.int64),
    }


def join_arrays(parts: Sequence[dict[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    """Concatenate the columns of several shards; shards without examples have no columns."""
    filled = [part for part in parts if len(part["offset"])] or list(parts[:1])
    if any(part.keys() != filled[0].keys() for part in filled):
        raise ValueError("the columns of two shards differ")
    joined: dict[str, npt.NDArray[Any]] = {}
    for name in filled[0]:
        arrays = [part[name] for part in filled]
        if name.endswith(".ends"):
            texts = [len(part[name.removesuffix(".ends") + ".utf8"]) for part in filled]
            before = np.cumsum([0, *texts[:-1]])
            arrays = [array + start for array, start in zip(arrays, before, strict=True)]
        joined[name] = np.concatenate(arrays)
    return joined


def _floats(values: list[Any]) -> bool:
    return any(isinstance(value, float) for value in values)


def _map(path: Path) -> memoryview:
    with open(path, "rb") as file:
        if path.stat().st_size == 0:
            return memoryview(b"")  # an empty file cannot be mapped
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


# --- whole folders ----------------------------------------------------------------------------


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """Give a temporary folder, which replaces `out` when the block ends without an error.

    Until then, `out` is unchanged. After a kill, or after an error late in a long preparation, the
    shards that `write_split` finished stay in OUT.tmp, and the next call resumes from them;
    everything else is removed. Other processes that write the same folder wait.

    Raises UserError if OUT, OUT.old or OUT.tmp contains anything that d2v did not write.
    """
    with filled(Path(out), _clear, _worth_keeping) as temporary:
        yield temporary
        remove_folder(temporary / PARTS)


def _worth_keeping(temporary: Path) -> bool:
    # safe: only looks
    return sum(path.stat().st_size for path in temporary.rglob("*.bin")) >= WORTH_KEEPING


def _clear(temporary: Path) -> None:
    """Remove everything except the finished shards and splits of `write_split`."""
    parts = temporary / PARTS
    splits = [key.parent for key in parts.glob("*/key") if any(key.parent.glob("*.npz"))]
    kept = {MARK, *([PARTS, *(split.name for split in splits)] if splits else [])}
    for path in temporary.iterdir():
        if path.name not in kept:
            remove_folder(path) if path.is_dir() else remove_file(path)
    for path in parts.glob("*"):
        if path not in splits:
            remove_folder(path)
    for draft in parts.glob("*/.*"):
        remove_file(draft)


def write_meta(folder: Path, **entries: Any) -> None:
    """Write meta.json: the entries, the schema, and the SHA-256 of all other files in `folder`.

    Label lists have hashes of their own, so that a run notices an edited one. For each of the
    `splits`, examples with the same content as another example of the split are counted, and those
    with the same content as one of another split, of which it also warns.
    """
    meta = {"schema": SCHEMA, "sha256": hash_of(folder)} | entries
    if repeats := _repeats(folder, entries.get("splits", ()), str(entries.get("source", ""))):
        meta["repeats"] = repeats
    if lists := sorted((folder / "lists").glob("*.txt")):
        meta["lists"] = {path.name: sha256(path) for path in lists}
    text = json.dumps(meta, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / "meta.json").write_text(text, encoding="utf-8")


def _repeats(folder: Path, splits: Iterable[str], source: str) -> dict[str, dict[str, Any]]:
    """`duplicates` and `also_in` of the splits with repeated contents; warns of the second."""
    hashes = {}
    for name in splits:
        path = folder / PARTS / name / COUNTS
        if path.exists():
            with np.load(path) as found:
                hashes[name] = found[HASHES]
    added: dict[str, dict[str, Any]] = {
        name: {"duplicates": count} for name in hashes if (count := repeated(hashes[name]))
    }
    for leak in leaks(hashes):
        added.setdefault(leak.split, {}).setdefault("also_in", {})[leak.other] = leak.shared
        example = Shards(folder / leak.split).texts("id")[leak.example]
        print(
            f"warning: {source}: a leak: {leak.shared:,} of {len(hashes[leak.split]):,} examples of"
            f" {leak.split} are also in {leak.other}, such as {example}",
            file=sys.stderr,
        )
    return added


def read_meta(folder: Path) -> dict[str, Any]:
    """Read the meta.json of a prepared data set.

    Raises UserError if it is missing, invalid, or has another schema.
    """
    path = Path(folder) / "meta.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; run `dvc repro` to prepare the data") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); prepare again") from None
    if meta.get("schema") != SCHEMA:
        raise UserError(f"{path}: schema {meta.get('schema')}, not {SCHEMA}; prepare again")
    return dict(meta)
