"""What a command may write, and whole folders: nothing that others wrote is replaced or removed.

A folder that d2v writes as a whole holds a mark, `.d2v`: a JSON file with the names of all that was
written into it. Such a folder is replaced only as long as it holds nothing else.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from d2v.util.errors import UserError
from d2v.util.files import (
    MARK,
    naming,
    read_json,
    remove_empty,
    remove_file,
    remove_folder,
    rename,
    replace_folder,
    sha256,
    write_json,
)
from d2v.util.locks import alone_in

OURS = {"written_by": "d2v"}
PARTS = ".parts"  # of an interrupted preparation: what is finished (d2v.data.writing)
LONGEST = 240  # bytes of a name; drafts beside it are called a little longer, 255 at most


# --- whose a folder is ------------------------------------------------------------------------


def mark(folder: Path) -> None:
    """Say that d2v is writing this folder: all in it is d2v's."""
    write_json(folder / MARK, OURS)


def seal(folder: Path) -> None:
    """Say that the folder is finished: what is in it now is d2v's, and nothing else."""
    write_json(folder / MARK, OURS | {"holds": sorted(set(_names(folder)) - {MARK})})


def foreign(folder: Path) -> str | None:
    """Name of something in a folder that d2v did not write; None if all is d2v's, or it is empty.

    A prepared set of an earlier version has no mark: it is d2v's as long as its content has the
    SHA-256 of its meta.json.
    """
    found = read_json(folder / MARK)
    told = found if isinstance(found, dict) and found.get("written_by") == "d2v" else None
    if told == OURS:
        return None
    known = {MARK, *told.get("holds", ())} if told else set()
    others = (name for name in _names(folder) if name not in known)
    first = next(others, None)
    return None if first is None or (told is None and _is_prepared_set(folder)) else first


def _names(folder: Path) -> Iterator[str]:
    """All files, links and folders below a folder, relative to it; links are not followed."""
    for place, folders, files in os.walk(folder, onerror=_refuse):
        for name in sorted(folders + files):
            yield os.path.relpath(os.path.join(place, name), folder)


def _refuse(error: OSError) -> None:
    raise error


def _is_prepared_set(folder: Path) -> bool:
    meta = read_json(folder / "meta.json")
    if not isinstance(meta, dict) or not {"schema", "sha256"} <= meta.keys():
        return False
    return bool(hash_of(folder) == meta["sha256"])


def hash_of(folder: Path) -> str:
    """SHA-256 over names and contents of all files but meta.json, in the order of their names.

    The mark of d2v (d2v.util.outputs) does not count.
    """
    # safe: only reads
    paths = {p: p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()}
    named = {
        path: name
        for path, name in paths.items()
        if name not in ("meta.json", MARK) and not name.startswith(f"{PARTS}/")
    }
    total = hashlib.sha256()
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        for name, digest in zip(named.values(), pool.map(sha256, named), strict=True):
            total.update(f"{digest}  {name}\n".encode())
    return total.hexdigest()


# --- what may be written ----------------------------------------------------------------------


def beside(out: Path) -> tuple[Path, Path]:
    """OUT.tmp, in which a folder is written, and OUT.old, as the one before is called meanwhile."""
    return out.with_name(f"{out.name}.tmp"), out.with_name(f"{out.name}.old")


def check_folder(out: Path, sources: Iterable[Path | None] = ()) -> None:
    """Raise UserError unless d2v may write the folder `out`, and replace the one that is there.

    OUT, OUT.tmp and OUT.old must be missing, empty or all d2v's own, not behind a symbolic link,
    and neither one of the sources nor in one nor around one.
    """
    _check_way(out)
    for path in (out, *beside(out)):
        _check_apart(path, sources)
        _check_ours(path)


def check_new(
    out: Path,
    sources: Iterable[Path | None] = (),
    ours: Callable[[Path], bool] = lambda path: False,
) -> None:
    """Raise UserError unless d2v may write `out`: a file or folder that is not there, or `ours`."""
    _check_way(out)
    _check_apart(out, sources)
    if out.exists() and not ours(out):
        raise UserError(f"{out}: exists; name another one with -o, or remove it yourself")


def check_into(folder: Path) -> None:
    """Raise UserError unless d2v may add files to a folder, which may be there."""
    _check_way(folder / "file")


def _check_ours(path: Path) -> None:
    """Raise UserError for a file or link, or a folder that holds anything of another's."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        what = "a symbolic link" if path.is_symlink() else "a file"
        raise UserError(f"{path}: {what} is in the way; name another folder with -o")
    if path.exists() and (name := foreign(path)) is not None:
        raise UserError(
            f"{path}: exists, and d2v did not write {name} in it; name another folder with -o, or"
            " remove it yourself"
        )


def _check_way(out: Path) -> None:
    """Raise UserError for what is no name, and for links and files on the way to `out`."""
    _check_text(out)
    if out.name in ("", ".."):
        raise UserError(f"{out}: not the name of a file or folder to write; name one with -o")
    if len(os.fsencode(out.name)) > LONGEST:
        raise UserError(f"{out}: the name is longer than {LONGEST} bytes; choose a shorter one")
    for part in (*reversed(out.parents), out):
        if part.is_symlink():
            raise UserError(
                f"{out}: {part} is a symbolic link, and d2v writes through none; give"
                f" {os.path.realpath(out)}"
            )
        if part.name == ".." and not part.exists():
            raise UserError(f"{out}: there is no {part}")
        if part != out and part.exists() and not part.is_dir():
            raise UserError(f"{out}: {part} is a file; name another place with -o")
    nearest = next(part for part in out.parents if part.exists())
    if not os.access(nearest, os.W_OK):
        raise UserError(f"{out}: {nearest} cannot be written (read-only, or not yours)")


def _check_text(path: Path) -> None:
    """Raise UserError for a name that cannot stand in a file, or in a line of one."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{os.fsencode(path)!r}: this name is not UTF-8; rename it") from None
    if any(ord(letter) < 32 for letter in str(path)):
        raise UserError(f"{str(path)!r}: this name has control characters; rename it")


def _check_apart(out: Path, sources: Iterable[Path | None]) -> None:
    real = Path(os.path.realpath(out))  # resolve() fails where links go in circles
    for source in sources:
        if source is None:
            continue
        _check_text(source)
        read = Path(os.path.realpath(source))
        if real == read or real in read.parents or read in real.parents:
            what = "is" if real == read else "holds" if real in read.parents else "lies in"
            raise UserError(f"{out}: {what} the source {source}, which is only read; name another")


# --- writing ----------------------------------------------------------------------------------


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A new folder that is filled under another name, and renamed when all went well.

    Raises UserError if `out` exists, or something of another's has the other name.
    """
    check_new(out)
    part = out.with_name(f".{out.name}.part")
    _check_ours(part)
    with _no_empty_folders(out):
        remove_folder(part)  # of a call that was killed
        part.mkdir(parents=True)
        try:
            mark(part)
            with naming(out), _naming_tensors(out):
                yield part
            check_new(out)
            rename(part, out)
            remove_file(out / MARK)
        finally:
            remove_folder(part)


@contextmanager
def _no_empty_folders(path: Path) -> Iterator[None]:
    """After an error, remove the folders that were made on the way to `path` and are empty."""
    new = [folder for folder in path.parents if not folder.exists()]
    try:
        yield
    except BaseException:
        remove_empty(new)
        raise


@contextmanager
def _naming_tensors(out: Path) -> Iterator[None]:
    """An OSError for what safetensors says of a full disk."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise OSError(errno.EIO, str(error), str(out)) from None


@contextmanager
def filled(
    out: Path, clear: Callable[[Path], None], keep: Callable[[Path], bool]
) -> Iterator[Path]:
    """OUT.tmp to write to, which takes the name `out` when the block ends without error.

    Until then `out` is as it was; a folder that d2v wrote is replaced. `clear` is called first, to
    remove from OUT.tmp what a killed call left and is of no use; after an error OUT.tmp stays only
    if `keep` says so. Others that write the same folder wait. Raises UserError as `check_folder`.
    """
    check_folder(out)
    temporary, old = beside(out)
    # alone, since a writer whose parent was killed may still be at it
    with _no_empty_folders(temporary / "file"), alone_in(temporary):
        check_folder(out)  # whoever was waited for may have left something else
        remove_folder(old)
        clear(temporary)
        mark(temporary)
        try:
            with naming(out):
                yield temporary
        except BaseException:
            if not keep(temporary):
                remove_folder(temporary)
            raise
        seal(temporary)
        if out.exists() and any(out.iterdir()):
            print(f"{out}: replaces what d2v wrote there before", flush=True)
        replace_folder(out, temporary, old)
