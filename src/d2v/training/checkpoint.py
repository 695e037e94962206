"""Checkpoints: complete or absent, verified by SHA-256, readable without this code (no pickle).

    <root>/step-<n>/  model.safetensors     the task's weights, student and teacher
                      training.safetensors  optimiser moments and states of the random generators
                      checkpoint.json       schema version, step, parameters, provenance, hashes

A folder is written under a temporary name and renamed when it is complete. Nothing is flushed to
disk, because fsync takes longer than writing a small checkpoint. If a power cut damages a file, the
hashes reveal it and the previous checkpoint is used.

What a user has put among the checkpoints stays: `layout.clear` and `layout.own` check a folder
before it is removed.
"""

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from d2v.training import layout
from d2v.training.layout import META, MODEL, OTHERS, REMOVED, TRAINING, folders
from d2v.util.errors import UserError
from d2v.util.files import open_to_others, remove_folder, rename, sha256

SCHEMA_VERSION = 2


class Damaged(UserError):
    """A checkpoint whose files are missing, invalid or not as they were written."""


class Unreadable(UserError):
    """A checkpoint that cannot be read now but may be intact (a stale file handle, for example)."""


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint folder: tensors on the CPU, and `meta` as in checkpoint.json."""

    folder: Path
    step: int
    model: dict[str, Tensor]
    training: dict[str, Tensor]
    meta: dict[str, Any]


def save(
    root: Path,
    step: int,
    model: Mapping[str, Tensor],
    training: Mapping[str, Tensor],
    meta: Mapping[str, Any],
) -> Path:
    """Write the tensors and `meta` (JSON-able) to `<root>/step-<step>`; return this folder.

    An existing checkpoint of that name is replaced. Raises OSError if the checkpoint cannot be
    written; no partial files are left then. Raises UserError if something that d2v did not write
    is in the way.
    """
    part, final = root / f"step-{step}.part", root / f"step-{step}"
    layout.check(final)  # before anything is written
    layout.clear(part)
    try:
        return _write(part, final, step, model, training, meta)
    except SafetensorError as error:  # raised for a full disk, too
        raise OSError(str(error)) from None
    finally:
        if part.is_dir() and layout.foreign(part) is None:
            remove_folder(part)


def _write(
    part: Path,
    final: Path,
    step: int,
    model: Mapping[str, Tensor],
    training: Mapping[str, Tensor],
    meta: Mapping[str, Any],
) -> Path:
    part.mkdir(parents=True)
    hashes = {}
    for name, tensors in ((MODEL, model), (TRAINING, training)):
        save_file(_unshared(tensors), part / name)
        open_to_others(part / name)
        hashes[name] = sha256(part / name)
    head = {
        "schema_version": SCHEMA_VERSION,
        "kind": "training",
        "step": step,
        "sha256": hashes,
    }
    (part / META).write_text(json.dumps({**head, **meta}, indent=1))
    layout.clear(final)
    rename(part, final)
    return final


def read_meta(folder: Path) -> dict[str, Any]:
    """The content of checkpoint.json, converted to the current schema version.

    Raises Damaged, Unreadable, or UserError if a newer version of d2v wrote the folder.
    """
    try:
        with _reading(folder / META):
            meta: dict[str, Any] = json.loads((folder / META).read_text())
        version = meta["schema_version"]
        if not isinstance(version, int):
            raise ValueError(f"schema_version {version!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        # the repr of a UnicodeDecodeError contains all bytes of the file
        reason = str(error) if isinstance(error, UnicodeDecodeError) else repr(error)
        raise Damaged(f"{folder}/{META}: not a checkpoint ({reason[:200]})") from None
    while version in MIGRATIONS:
        meta = MIGRATIONS[version](meta)
        version = meta["schema_version"]
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{folder}: checkpoint of schema version {version}, but this d2v reads versions up to"
            f" {SCHEMA_VERSION}; use the version of d2v that wrote it"
        )
    return meta


def _from_1(meta: dict[str, Any]) -> dict[str, Any]:
    """Convert version 1, which has no `kind` because only the trainer wrote checkpoints."""
    return {**meta, "schema_version": 2, "kind": "training"}


# each converts from its version to the next; applied one after another
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}


def verify(folder: Path, names: Sequence[str] = (MODEL, TRAINING)) -> dict[str, Any]:
    """Compare the hashes and return the content of checkpoint.json; raises as `read_meta`."""
    meta = read_meta(folder)
    for name in names:
        if name in meta.get(REMOVED, ()) and not (folder / name).exists():
            raise Damaged(f"{folder}/{name}: was removed by `d2v clean`; run this run again")
        try:
            with _reading(folder / name):
                intact = sha256(folder / name) == meta["sha256"][name]
        except KeyError:
            raise Damaged(f"{folder}/{META}: has no hash of {name}") from None
        if not intact:
            raise Damaged(f"{folder}/{name}: does not match its SHA-256; the file is damaged")
    return meta


def load(folder: Path) -> Checkpoint:
    """Verify a checkpoint and read all of it; raises as `verify`."""
    meta = verify(folder)
    model, training = load_file(folder / MODEL), load_file(folder / TRAINING)
    return Checkpoint(folder, meta["step"], model, training, meta)


def load_weights(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """Weights whose names start with `prefix`, which is removed; raises as `verify`.

    The training state is not needed.
    """
    verify(folder, (MODEL,))
    with safe_open(folder / MODEL, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}


def latest(root: Path, say: Callable[[str], None] = print) -> Path | None:
    """The newest intact checkpoint, if any; others are reported, and damaged ones set aside.

    Raises UserError for a damaged one that holds what d2v did not write.
    """
    for folder in reversed(folders(root)):
        try:
            _check(folder)
        except Damaged as error:
            aside = folder.with_name(folder.name + ".damaged")
            if (name := layout.added(folder)) is not None:
                raise layout.refusal(folder, name) from None
            layout.clear(aside)
            rename(folder, aside)
            say(f"{error}; it is set aside, and the previous checkpoint is used")
            continue
        except Unreadable as error:
            say(f"{error}; it is left in place, and the previous checkpoint is used")
            continue
        return folder
    return None


def kept(folder: Path, meta: Mapping[str, Any]) -> Path:
    """Folder of the best weights that a checkpoint names, or its own."""
    best = meta.get("best")
    return folder if best is None else folder.with_name(f"step-{best['step']}")


def _check(folder: Path) -> None:
    """Raise as `verify` unless a run can be resumed from a checkpoint.

    The last checkpoint of a finished run only has to lead to the kept weights.
    """
    meta = read_meta(folder)
    best = kept(folder, meta)
    if meta.get("outcome") is None:
        verify(folder)
    if meta.get("outcome") is not None or best != folder:
        verify(best, (MODEL,))


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and the best ones they name (`best` in meta).

    Folders that d2v did not write, or not alone, stay.
    """
    newest = [folder for folder in folders(root) if (folder / META).exists()][-keep:]
    kept = {folder.name for folder in newest}
    for folder in newest:
        try:
            best = read_meta(folder).get("best")
        except UserError:  # damaged since it was written; `latest` handles it
            continue
        if best is not None:
            kept.add(f"step-{best['step']}")
    for folder in layout.own(root):
        if folder.name not in kept:
            layout.remove(folder)


def set_aside(root: Path, say: Callable[[str], None] = print) -> Path:
    """Move the checkpoints in `root` to the folder `OTHERS` beside it, and return that folder.

    They replace those of the same kind that were moved earlier. What d2v did not write stays where
    it is. Raises UserError if it is in the way.
    """
    aside = root.with_name(OTHERS)
    for folder in (root, aside):
        if folder.is_symlink():
            raise UserError(
                f"{folder}: is a symbolic link, through which d2v moves no checkpoints of other"
                " parameters; move it away and run the same command again"
            )
    # whatever has a checkpoint's content would be resumed from, even with a note beside it
    moved = [f for f in layout.steps(root) if (f / META).exists() or layout.foreign(f) is None]
    earlier = layout.own(aside)
    for folder in moved:
        if (path := aside / folder.name) not in earlier:
            layout.check(path)
    for folder in earlier:
        layout.remove(folder)
    aside.mkdir(exist_ok=True)
    if (left := next(aside.iterdir(), None)) is not None:
        say(f"{aside}: contains {left.name}, which d2v did not write; it stays there")
    for folder in moved:
        rename(folder, aside / folder.name)  # free: removed or checked above
    return aside


# --- optimiser --------------------------------------------------------------------------------


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments by parameter name: `optimiser.<name>/<moment>`.

    The moments of a sharded optimiser must have been gathered in this process.
    """
    names, states = _names(optimiser), optimiser.state_dict()["state"]
    return {
        f"optimiser.{names[place]}/{key}": value
        for place, state in states.items()
        for key, value in state.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, training: Mapping[str, Tensor]) -> None:
    """Restore the moments, even if the parameter groups come in another order."""
    states: dict[int, dict[str, Tensor]] = {}
    places = {name: place for place, name in enumerate(_names(optimiser))}
    for full, value in training.items():
        if full.startswith("optimiser."):
            name, key = full.removeprefix("optimiser.").rsplit("/", 1)
            states.setdefault(places[name], {})[key] = value
    count = itertools.count()
    groups = [
        {**group, "params": [next(count) for _ in group["params"]]}
        for group in optimiser.param_groups
    ]
    optimiser.load_state_dict({"state": states, "param_groups": groups})


def _names(optimiser: torch.optim.Optimizer) -> list[str]:
    return [name for group in optimiser.param_groups for name in group["names"]]


# --- random generators ------------------------------------------------------------------------


def random_state() -> dict[str, Tensor]:
    """States of Python's, NumPy's and PyTorch's global generators, as tensors."""
    version, words, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one is meant
    tensors = {
        "rng.python": torch.tensor([version, *words]),
        "rng.python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "rng.numpy": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
        "rng.numpy_place": torch.tensor([numpy["state"]["pos"], numpy["has_gauss"]]),
        "rng.numpy_gauss": torch.tensor([numpy["gauss"]], dtype=torch.float64),
        "rng.torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    return tensors


def restore_random(tensors: Mapping[str, Tensor]) -> None:
    """Restore the states that `random_state` returned."""
    version, *words = tensors["rng.python"].tolist()
    gauss = tensors["rng.python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    keys = tensors["rng.numpy"].numpy().astype(np.uint32)
    place, has_gauss = tensors["rng.numpy_place"].tolist()
    cached = tensors["rng.numpy_gauss"].item()
    np.random.set_state(("MT19937", keys, place, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(tensors["rng.torch"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])


# --- files ------------------------------------------------------------------------------------


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors requires them: contiguous, none sharing memory with another."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if storage in seen and tensor.numel() else tensor
        seen.add(storage)
    return own


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise Damaged for a missing file, Unreadable for other failures, which may be temporary."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Damaged(f"{path}: {error.strerror}") from None
    except OSError as error:
        raise Unreadable(f"{path}: cannot be read at the moment ({error.strerror})") from None
