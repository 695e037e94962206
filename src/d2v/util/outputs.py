"""Checks of output paths, and atomic folders: d2v replaces and removes only what it wrote.

A folder that d2v writes as a whole contains a mark, `.d2v`: a JSON file with the names of
everything that was written into the folder. Such a folder is replaced only as long as it contains
nothing else.
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
    empty_folder,
    naming,
    no_empty_folders,
    read_json,
    remove_file,
    remove_folder,
    rename,
    replace_folder,
    sha256,
    write_json,
)
from d2v.util.locks import alone_in

OURS = {"written_by": "d2v"}
PARTS = ".parts"  # folder of the finished parts of an interrupted preparation (d2v.data.writing)
LONGEST = 240  # longest name in bytes; the names of drafts are a little longer, 255 at most


# --- who owns a folder ------------------------------------------------------------------------


def mark(folder: Path) -> None:
    """Mark a folder as being written by d2v: everything in it belongs to d2v."""
    write_json(folder / MARK, OURS)


def seal(folder: Path) -> None:
    """Mark a folder as finished: only what it contains now belongs to d2v."""
    write_json(folder / MARK, OURS | {"holds": sorted(set(_names(folder)) - {MARK})})


def foreign(folder: Path) -> str | None:
    """Name of a file or folder in `folder` that d2v did not write; None if there is none.

    A prepared set of an earlier version has no mark. It belongs to d2v as long as its content
    matches the SHA-256 in its meta.json.
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
    """Paths of all files, links and subfolders, relative to `folder`; links are not followed."""
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
    """SHA-256 over names and contents of all files except meta.json, sorted by name.

    The mark `.d2v` and the parts of an interrupted preparation do not count.
    """
    # safe: only reads
    paths = {p: p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()}
    named = {
        path: name
        for path, name in paths.items()
        if name not in ("meta.json", MARK) and not name.startswith(f"{PARTS}/")
    }
    total = hashlib.sha256()
    with ThreadPoolExecutor() as pool:  # hashing releases the GIL
        for name, digest in zip(named.values(), pool.map(sha256, named), strict=True):
            total.update(f"{digest}  {name}\n".encode())
    return total.hexdigest()


# --- where d2v may write ----------------------------------------------------------------------


def beside(out: Path) -> tuple[Path, Path]:
    """OUT.tmp, where a new folder is written, and OUT.old, the previous one's temporary name."""
    return out.with_name(f"{out.name}.tmp"), out.with_name(f"{out.name}.old")


def check_folder(out: Path, sources: Iterable[Path | None] = ()) -> None:
    """Raise UserError unless d2v may write the folder `out` and replace an existing one.

    OUT, OUT.tmp and OUT.old must be missing, empty or written entirely by d2v. They must not be
    reached through a symbolic link, and must not be a source, lie in one or contain one.
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
    """Raise UserError unless d2v may write the file or folder `out`: it is missing, or `ours`."""
    _check_way(out)
    _check_apart(out, sources)
    if out.exists() and not ours(out):
        raise UserError(f"{out}: already exists; give another name with -o, or remove it yourself")


def check_into(folder: Path) -> None:
    """Raise UserError unless d2v may add files to a folder, which may exist already."""
    _check_way(folder / "file")


def _check_ours(path: Path) -> None:
    """Raise UserError if `path` is a file, a link, or a folder with anything not written by d2v."""
    _check_real(path)
    if path.exists() and (name := foreign(path)) is not None:
        raise UserError(
            f"{path}: contains {name}, which d2v did not write; give another folder with -o, or"
            " remove the folder yourself"
        )


def _check_real(path: Path) -> None:
    """Raise UserError if `path` is a file or a link."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        what = "a symbolic link" if path.is_symlink() else "a file"
        raise UserError(f"{path}: {what} is in the way; give another folder with -o")


def _check_way(out: Path) -> None:
    """Raise UserError if `out` has no valid name, or if a link or file is in its path."""
    _check_text(out)
    if out.name in ("", ".."):
        raise UserError(f"{out}: not a valid name for a new file or folder; give one with -o")
    if len(os.fsencode(out.name)) > LONGEST:
        raise UserError(f"{out}: the name is longer than {LONGEST} bytes; choose a shorter one")
    for part in (*reversed(out.parents), out):
        if part.is_symlink():
            raise UserError(
                f"{out}: {part} is a symbolic link, and d2v does not write through links; give"
                f" {os.path.realpath(out)}"
            )
        if part.name == ".." and not part.exists():
            raise UserError(f"{out}: {part} does not exist")
        if part != out and part.exists() and not part.is_dir():
            raise UserError(f"{out}: {part} is a file, not a folder; give another path with -o")
    nearest = next(part for part in out.parents if part.exists())
    if not os.access(nearest, os.W_OK):
        raise UserError(
            f"{out}: {nearest} is not writable (read-only, or not yours); give another path"
        )


def _check_text(path: Path) -> None:
    """Raise UserError for a name that a text file, or a line of one, cannot represent."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{os.fsencode(path)!r}: this name is not UTF-8; rename it") from None
    if any(ord(letter) < 32 for letter in str(path)):
        raise UserError(f"{str(path)!r}: this name contains control characters; rename it")


def _check_apart(out: Path, sources: Iterable[Path | None]) -> None:
    real = Path(os.path.realpath(out))  # resolve() fails for circular links
    for source in sources:
        if source is None:
            continue
        _check_text(source)
        read = Path(os.path.realpath(source))
        if real == read or real in read.parents or read in real.parents:
            what = "is" if real == read else "contains" if real in read.parents else "lies in"
            raise UserError(
                f"{out}: {what} the source {source}, which must not change; give another path"
            )


# --- writing ----------------------------------------------------------------------------------


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """New folder that is filled under a temporary name, and renamed to `out` on success.

    Other processes that write the same folder wait, and then find that it exists. Raises UserError
    if `out` exists, or if the temporary name is taken by something else.
    """
    check_new(out)
    part = out.with_name(f".{out.name}.part")
    _check_real(part)
    with no_empty_folders(out), alone_in(part):
        _check_ours(part)  # only now: another process may have been writing
        try:
            check_new(out)
            empty_folder(part)  # left over from a killed call; the lock is that of the folder
            mark(part)
            with naming(out), _naming_tensors(out):
                yield part
            check_new(out)
            rename(part, out)
        except BaseException:
            remove_folder(part)
            raise
        remove_file(out / MARK)


@contextmanager
def _naming_tensors(out: Path) -> Iterator[None]:
    """Convert safetensors' error, such as that of a full disk, to an OSError."""
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
    """OUT.tmp to write to, which is renamed to `out` if the block ends without error.

    Until then, `out` stays unchanged; then it is replaced if d2v wrote it. `clear` is called first,
    to remove from OUT.tmp what a killed call left and cannot be reused. After an error, OUT.tmp
    stays only if `keep` returns True. Other processes that write the same folder wait. Raises
    UserError as `check_folder`.
    """
    check_folder(out)
    temporary, old = beside(out)
    # locked, since a writer whose parent was killed may still be at work
    with no_empty_folders(temporary / "file"), alone_in(temporary):
        check_folder(out)  # again: a process that held the lock may have changed the folder
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
            print(f"{out}: replacing what d2v wrote there earlier", flush=True)
        replace_folder(out, temporary, old)
