"""Archives unpacked inside a folder, and nowhere else."""

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from d2v.data.parallel import Advance
from d2v.data.shards import written_whole
from d2v.data.writing import progress_of
from d2v.util.errors import UserError
from d2v.util.files import MARK, remove_folder, rename, sha256

BLOCK = 2**20


def unpack(archive: Path, target: Path) -> None:
    """Unpack a tar or zip file into the folder `target`, which appears complete or not at all.

    Raises UserError for a broken archive. A member that would be outside the target, or is neither
    a file nor a folder, also raises it, before anything is written.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened, written_whole(target) as folder:
                names = opened.namelist()
                _check(archive, _zip_members(opened))
                with progress_of(f"{archive.name}: unpacking", len(names), 0) as advance:
                    for name in names:
                        opened.extract(name, folder)
                        advance(1)
            return
        with tarfile.open(archive) as tar, written_whole(target) as folder:
            members = tar.getmembers()
            while tar.fileobj and tar.fileobj.read(BLOCK):
                pass  # read to the end, where a compressed archive has the checksum of its content
            _check(archive, ((m.name, m.isfile() or m.isdir()) for m in members))
            with progress_of(f"{archive.name}: unpacking", len(members), 0) as advance:
                tar.extractall(folder, _told(members, advance), filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise UserError(_broken(archive, error)) from None
    except OSError as error:
        if error.errno is None:  # raised by gzip itself, not by the system
            raise UserError(_broken(archive, error)) from None
        raise UserError(f"{archive}: cannot be unpacked ({error.strerror})") from None


def merge(folder: Path, into: Path) -> None:
    """Move what d2v unpacked in a folder into another one, under the same names, and remove it.

    Existing files are kept unchanged; those that differ are reported.
    """
    into.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        target = into / path.name
        if path.is_dir() and target.is_dir():
            merge(path, target)
        elif not target.exists() and not target.is_symlink() and path.name != MARK:
            rename(path, target)
        elif path.name != MARK and not (target.is_file() and sha256(path) == sha256(target)):
            print(f"{target}: left unchanged; the archive has a different version", flush=True)
    remove_folder(folder)


def _broken(archive: Path, error: Exception) -> str:
    reason = str(error).partition("\n")[0].rstrip(":")
    return f"{archive}: incomplete or damaged archive ({reason}); remove it and fetch it again"


def _told(members: list[tarfile.TarInfo], advance: Advance) -> Iterator[tarfile.TarInfo]:
    for member in members:
        yield member
        advance(1)


def _zip_members(archive: zipfile.ZipFile) -> Iterator[tuple[str, bool]]:
    for info in archive.infolist():
        kind = info.external_attr >> 28  # upper bits of st_mode; 0 if unknown
        yield info.filename, kind in (0, 0o10, 0o4)


def _check(archive: Path, members: Iterator[tuple[str, bool]]) -> None:
    for name, plain in members:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"{archive}: {name!r} would be outside the target folder; refused")
        if not plain:
            raise UserError(f"{archive}: {name!r} is neither a file nor a folder; refused")
