"""Downloads that resume after an interruption and are verified."""

import errno
import hashlib
import io
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import requests
import urllib3

from d2v.data.writing import LOG_S
from d2v.util.errors import UserError
from d2v.util.files import read_json, remove_file, rename, write_json

if TYPE_CHECKING:
    from tqdm import tqdm

RETRIES = 5  # consecutive attempts that bring no new data
PAUSE_S = 2.0  # seconds before the first retry; doubled each time
MENDABLE = (408, 429)  # status codes from 400 to 499 that are worth a retry
NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
RECORD = "checksums.json"  # next to the files: the checksums found
BLOCK = 2**20


@dataclass(frozen=True)
class Remote:
    """A file on a server; `digest` is md5:... or sha256:..., empty if none is published."""

    url: str
    digest: str = ""

    @property
    def name(self) -> str:
        """File name."""
        return self.url.rpartition("/")[2]


def download(remote: Remote, folder: Path) -> Path:
    """Return the file in `folder`, downloading it, or resuming NAME.part, unless it is intact.

    A published checksum is verified. The SHA-256 found is recorded in checksums.json and verified
    the next time. Raises UserError if the server does not answer after several retries, if the
    checksum differs, or if there is a file of that name that d2v did not download.
    """
    target = folder / remote.name
    if target.exists() and intact(remote, target):
        return target
    part = folder / f"{remote.name}.part"
    _refuse_foreign(remote, target, part)
    folder.mkdir(parents=True, exist_ok=True)
    _receive(remote, part)
    known = remote.digest
    if known and (found := digest(part, known.partition(":")[0])) != known:
        remove_file(part)
        remove_file(_stamp(part))
        raise UserError(
            f"{remote.url}: the checksum is {found}, not {known}; nothing was kept: try again"
        )
    record = read_json(folder / RECORD) or {}
    record[remote.name] = {"url": remote.url, "sha256": digest(part, "sha256")}
    write_json(folder / RECORD, record)
    rename(part, target)
    remove_file(_stamp(part))
    return target


def _refuse_foreign(remote: Remote, target: Path, part: Path) -> None:
    """Raise UserError for a file that would be overwritten but is not from a download of d2v."""
    noted = remote.name in (read_json(target.parent / RECORD) or {})
    if target.exists() and not noted:
        raise UserError(
            f"{target}: not the file that {remote.url} serves (expected {remote.digest});"
            " move it away"
        )
    if part.exists() and not _stamp(part).exists():
        raise UserError(f"{part}: not from a download by d2v; move it away")


def digest(path: Path, kind: str) -> str:
    """Return the checksum of a file as `kind:hex`."""
    with open(path, "rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"


def intact(remote: Remote, path: Path) -> bool:
    """Whether a file has the published checksum or, without one, that recorded on download."""
    noted = (read_json(path.parent / RECORD) or {}).get(remote.name, {}).get("sha256")
    expected = remote.digest or noted
    return expected is None or digest(path, expected.partition(":")[0]) == expected


def _receive(remote: Remote, part: Path) -> None:
    """Complete the partial file, retrying after errors."""
    attempt, most = 0, _size(part)
    while True:
        try:
            _request(remote, part)
            return
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if _size(part) > most:  # keep retrying a download while it advances
                attempt, most = 0, _size(part)
            if _final(error) or attempt >= RETRIES:
                raise UserError(
                    f"{remote.url}: {_words(error)}; {_size(part):,} bytes are kept; the next"
                    " `d2v fetch` resumes from there"
                ) from None
            time.sleep(PAUSE_S * 2**attempt)
            attempt += 1


def _request(remote: Remote, part: Path) -> None:
    """Request the missing part, or the whole file if the server's copy may have changed."""
    have, stamp = _size(part), _stamp(part)
    # a name of our own: wikitext.smerity.com, for one, refuses those of Python's libraries
    headers = {"Accept-Encoding": "identity", "User-Agent": f"d2v/{version('d2v')}"}
    known = read_json(stamp)
    if have and known and known["version"]:
        headers |= {"Range": f"bytes={have}-", "If-Range": known["version"]}
    else:
        have = 0
    with requests.get(remote.url, headers=headers, stream=True, timeout=30) as answer:
        found = answer.headers.get("Content-Range", "")
        if answer.status_code == 416:
            if found == f"bytes */{have}":  # the partial file is already complete
                return
            remove_file(part)
            raise OSError("the file on the server has changed")
        answer.raise_for_status()
        if answer.status_code != 206:
            have = 0
        elif not found.startswith(f"bytes {have}-"):
            remove_file(part)
            raise OSError("the server sent a different part than requested")
        length = int(answer.headers.get("Content-Length", 0))
        total = have + length if length else 0
        write_json(stamp, {"version": _version(answer)})
        _keep(remote, part, answer, have, total)
    if _size(part) < total:
        raise OSError("the connection ended early")


def _version(answer: requests.Response) -> str | None:
    """Return the header that identifies the exact bytes of a file, which a weak ETag does not."""
    tag = answer.headers.get("ETag", "W/")
    return answer.headers.get("Last-Modified") if tag.startswith("W/") else tag


def _keep(remote: Remote, part: Path, answer: requests.Response, have: int, total: int) -> None:
    with _progress(remote.name, have, total) as bar, open(part, "r+b" if have else "wb") as file:
        file.seek(have)
        # read1 returns what has arrived, so that everything before an interruption is kept
        while block := answer.raw.read1(BLOCK):
            file.write(block)
            bar.update(len(block))


def _progress(name: str, have: int, total: int) -> "tqdm[NoReturn]":
    """Show rate and time left: a bar on a terminal, otherwise a line at regular intervals."""
    from tqdm import tqdm

    options: dict[str, Any] = {}
    if not sys.stderr.isatty():
        options = {"file": _Lines(), "ncols": 0, "mininterval": LOG_S, "maxinterval": LOG_S}
    return tqdm(desc=name, total=total or None, initial=have, unit="B", unit_scale=True, **options)


class _Lines(io.StringIO):
    """Prints every update of a tqdm bar as a separate line on standard error."""

    def write(self, text: str) -> int:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)
        return len(text)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _final(error: Exception) -> bool:
    """Whether a retry would fail with the same error."""
    status = _status(error)
    refused = status is not None and 400 <= status < 500 and status not in MENDABLE
    untrusted = isinstance(error, requests.exceptions.SSLError)
    return refused or untrusted or getattr(error, "errno", None) in NO_PLACE


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _stamp(part: Path) -> Path:
    """Path of the file that records which version of the file the partial one belongs to."""
    return part.with_name(f"{part.name}.json")


def _words(error: Exception) -> str:
    status = _status(error)
    if status is not None:
        return f"the server answered {status}"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted here (set REQUESTS_CA_BUNDLE to trust others)"
    return "no connection" if isinstance(error, requests.ConnectionError) else str(error)
