"""Reuse of an interrupted preparation: shards are kept only if made from the same input."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any


def made_by(examples: Any, shard_bytes: int) -> str:
    """SHA-256 of what all parts depend on: the parameters and the code of d2v.data."""
    parts = (
        getattr(examples, "func", examples),
        getattr(examples, "args", ()),
        getattr(examples, "keywords", {}),
    )
    digest = sha256(f"{parts[0].__qualname__} {parts[1:]} {shard_bytes}\n".encode())
    for module in sorted(Path(__file__).parent.rglob("*.py")):  # safe: only reads
        digest.update(module.read_bytes())
    return digest.hexdigest()


def key_of(how: str, items: Sequence[Any], sizes: Sequence[int]) -> str:
    """SHA-256 of what one part depends on: its items, their sizes, and `how` it is made."""
    digest = sha256(f"{how}\n".encode())
    for item, size in zip(items, sizes, strict=True):
        digest.update(f"{item!r} {size} {_changed(item)}\n".encode())
    return digest.hexdigest()


def _changed(item: Any) -> list[int]:
    """Modification times (ns) of the paths in an item."""
    if isinstance(item, Path):
        return [item.stat().st_mtime_ns]
    return [t for part in item for t in _changed(part)] if isinstance(item, tuple) else []


def text_of(path: Path) -> str | None:
    """Return the text of a file, or None if it does not exist."""
    return path.read_text() if path.exists() else None


def forget(folder: Path, parts_folder: Path, keys: dict[str, str]) -> None:
    """Remove the index and all shards whose input no longer matches `keys`; store the keys."""
    parts_folder.mkdir(parents=True, exist_ok=True)
    # safe, here and below: files of an unfinished preparation in OUT.tmp
    (parts_folder / "key").unlink(missing_ok=True)  # safe: before what it vouches for
    (folder / "index.npz").unlink(missing_ok=True)  # safe: as above
    for done in parts_folder.glob("[0-9]*.npz"):
        if text_of(done.with_suffix(".key")) != keys.get(done.stem, ""):
            done.unlink()  # safe: first, since it says that the others are whole
            for place in (folder, parts_folder):
                (place / f"{done.stem}.bin").unlink(missing_ok=True)  # safe: as above
    for stem, key in keys.items():
        (parts_folder / f"{stem}.key").write_text(key)
