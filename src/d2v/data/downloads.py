"""Downloads that go on where they stopped and are checked; archives unpacked below a folder."""

import hashlib
import os
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import requests
import urllib3
from tqdm import tqdm

from d2v.data.shards import written_whole
from d2v.errors import UserError
from d2v.files import read_json, write_json

RETRIES = 5
PAUSE_S = 2.0  # before the first retry; doubled each time
RECORD = "checksums.json"  # beside the files: what was found
BLOCK = 2**20


@dataclass(frozen=True)
class Remote:
    """A file on a server; `digest` is md5:... or sha256:..., empty where nobody published one."""

    url: str
    digest: str = ""

    @property
    def name(self) -> str:
        """File name."""
        return self.url.rpartition("/")[2]


def download(remote: Remote, folder: Path) -> Path:
    """The file in `folder`: there already and intact, or downloaded, going on from NAME.part.

    A known checksum is verified; the found sha256 is noted in checksums.json and verified the next
    time. Raises UserError: no answer after some retries, another checksum.
    """
    target = folder / remote.name
    if target.exists() and intact(remote, target):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{remote.name}.part"
    _receive(remote, part)
    known = remote.digest
    if known and (found := digest(part, known.partition(":")[0])) != known:
        part.unlink()
        _stamp(part).unlink(missing_ok=True)
        raise UserError(
            f"{remote.url}: the checksum is {found}, not {known}; nothing was kept: try again"
        )
    record = read_json(folder / RECORD) or {}
    record[remote.name] = {"url": remote.url, "sha256": digest(part, "sha256")}
    write_json(folder / RECORD, record)
    os.replace(part, target)
    _stamp(part).unlink(missing_ok=True)
    return target


def digest(path: Path, kind: str) -> str:
    """`kind:hex` of a file."""
    with open(path, "rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"


def intact(remote: Remote, path: Path) -> bool:
    """Whether a finished file has the published checksum, or the one noted when it came."""
    noted = (read_json(path.parent / RECORD) or {}).get(remote.name, {}).get("sha256")
    expected = remote.digest or noted
    return expected is None or digest(path, expected.partition(":")[0]) == expected


def _receive(remote: Remote, part: Path) -> None:
    """Bring the partial file to its full length."""
    pause = PAUSE_S
    for attempt in range(RETRIES + 1):
        try:
            _request(remote, part)
            return
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            final = status is not None and 400 <= status < 500 and status != 429
            if final or attempt == RETRIES:
                had = part.stat().st_size if part.exists() else 0
                raise UserError(
                    f"{remote.url}: {_words(error)}; {had:,} bytes are kept, the next"
                    " `d2v fetch` goes on from there"
                ) from None
            time.sleep(pause)
            pause *= 2


def _request(remote: Remote, part: Path) -> None:
    """One request, for what is missing: only if the file on the server is still the same."""
    have, stamp = part.stat().st_size if part.exists() else 0, _stamp(part)
    headers = {"Accept-Encoding": "identity"}
    known = read_json(stamp)
    if have and known and known["version"]:
        headers |= {"Range": f"bytes={have}-", "If-Range": known["version"]}
    else:
        have = 0
    with requests.get(remote.url, headers=headers, stream=True, timeout=30) as answer:
        if answer.status_code == 416:  # all of it was here
            return
        answer.raise_for_status()
        if answer.status_code != 206:
            have = 0
        total = have + int(answer.headers.get("Content-Length", 0))
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        write_json(stamp, {"version": version})
        _keep(remote, part, answer, have, total)
    if total and part.stat().st_size < total:
        raise OSError("the connection ended early")


def _keep(remote: Remote, part: Path, answer: requests.Response, have: int, total: int) -> None:
    bar = tqdm(
        desc=remote.name,
        total=total or None,
        initial=have,
        unit="B",
        unit_scale=True,
        disable=not sys.stderr.isatty(),
    )
    with bar, open(part, "r+b" if have else "wb") as file:
        file.seek(have)
        # in small portions, so that what came before a break is kept; read1 gives what is there
        while block := answer.raw.read1(BLOCK):
            file.write(block)
            bar.update(len(block))


def _stamp(part: Path) -> Path:
    """What says which version of the file the partial one is of."""
    return part.with_name(f"{part.name}.json")


def _words(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"the server answers {status}"
    return "no connection" if isinstance(error, requests.ConnectionError) else str(error)


# --- archives ---------------------------------------------------------------------------------


def unpack(archive: Path, target: Path) -> None:
    """Unpack a tar or zip file as the folder `target`, which appears whole or not at all.

    Raises UserError for a broken archive, and before anything is written for a member that would
    lie outside of the target, or is neither a file nor a folder.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened, written_whole(target) as folder:
                _check(archive, _zip_members(opened))
                opened.extractall(folder)
            return
        with tarfile.open(archive) as tar, written_whole(target) as folder:
            _check(archive, ((m.name, m.isfile() or m.isdir()) for m in tar))
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise UserError(
            f"{archive}: not a whole archive ({error}); remove it, fetch again"
        ) from None


def _zip_members(archive: zipfile.ZipFile) -> Iterator[tuple[str, bool]]:
    for info in archive.infolist():
        kind = info.external_attr >> 28  # upper bits of st_mode; 0 where unknown
        yield info.filename, kind in (0, 0o10, 0o4)


def _check(archive: Path, members: Iterator[tuple[str, bool]]) -> None:
    for name, plain in members:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0:1]:
            raise UserError(f"{archive}: {name!r} would lie outside of the target; refused")
        if not plain:
            raise UserError(f"{archive}: {name!r} is neither a file nor a folder; refused")


def merge(folder: Path, into: Path) -> None:
    """Move a folder's files into another one, below the same names, and remove it."""
    into.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        target = into / path.name
        if path.is_dir() and target.is_dir():
            merge(path, target)
        else:
            os.replace(path, target)
    folder.rmdir()
