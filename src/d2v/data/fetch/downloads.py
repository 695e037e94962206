"""Downloads that go on where they stopped, and are checked."""

import errno
import hashlib
import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import requests
import urllib3
from tqdm import tqdm

from d2v.data.writing import LOG_S
from d2v.util.errors import UserError
from d2v.util.files import read_json, remove_file, rename, write_json

RETRIES = 5  # one after another that bring nothing new
PAUSE_S = 2.0  # before the first retry; doubled each time
MENDABLE = (408, 429)  # of the answers from 400 to 499: worth another try
NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
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
    time. Raises UserError: no answer after some retries, another checksum, or a file of that name
    that did not come from here.
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
    """Raise UserError for a file that would be replaced, although no download left it."""
    noted = remote.name in (read_json(target.parent / RECORD) or {})
    if target.exists() and not noted:
        raise UserError(
            f"{target}: not the file that {remote.url} gives (it should have {remote.digest});"
            " move it away"
        )
    if part.exists() and not _stamp(part).exists():
        raise UserError(f"{part}: not of a download of d2v; move it away")


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
    attempt, most = 0, _size(part)
    while True:
        try:
            _request(remote, part)
            return
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if _size(part) > most:  # a long file through a poor line: as long as it moves
                attempt, most = 0, _size(part)
            if _final(error) or attempt >= RETRIES:
                raise UserError(
                    f"{remote.url}: {_words(error)}; {_size(part):,} bytes are kept, the next"
                    " `d2v fetch` goes on from there"
                ) from None
            time.sleep(PAUSE_S * 2**attempt)
            attempt += 1


def _request(remote: Remote, part: Path) -> None:
    """One request, for what is missing: only if the file on the server is still the same."""
    have, stamp = _size(part), _stamp(part)
    headers = {"Accept-Encoding": "identity"}
    known = read_json(stamp)
    if have and known and known["version"]:
        headers |= {"Range": f"bytes={have}-", "If-Range": known["version"]}
    else:
        have = 0
    with requests.get(remote.url, headers=headers, stream=True, timeout=30) as answer:
        found = answer.headers.get("Content-Range", "")
        if answer.status_code == 416:
            if found == f"bytes */{have}":  # all of it was here
                return
            remove_file(part)
            raise OSError("the server has another file now")
        answer.raise_for_status()
        if answer.status_code != 206:
            have = 0
        elif not found.startswith(f"bytes {have}-"):
            remove_file(part)
            raise OSError("the server sent another part than was asked for")
        length = int(answer.headers.get("Content-Length", 0))
        total = have + length if length else 0
        write_json(stamp, {"version": _version(answer)})
        _keep(remote, part, answer, have, total)
    if _size(part) < total:
        raise OSError("the connection ended early")


def _version(answer: requests.Response) -> str | None:
    """What says that the file is the same later, to the byte; a weak ETag does not."""
    tag = answer.headers.get("ETag", "W/")
    return answer.headers.get("Last-Modified") if tag.startswith("W/") else tag


def _keep(remote: Remote, part: Path, answer: requests.Response, have: int, total: int) -> None:
    with _progress(remote.name, have, total) as bar, open(part, "r+b" if have else "wb") as file:
        file.seek(have)
        # in small portions, so that what came before a break is kept; read1 gives what is there
        while block := answer.raw.read1(BLOCK):
            file.write(block)
            bar.update(len(block))


def _progress(name: str, have: int, total: int) -> "tqdm[NoReturn]":
    """A bar on a terminal, else a line now and then, with rate and time left."""
    options: dict[str, Any] = {}
    if not sys.stderr.isatty():
        options = {"file": _Lines(), "ncols": 0, "mininterval": LOG_S, "maxinterval": LOG_S}
    return tqdm(desc=name, total=total or None, initial=have, unit="B", unit_scale=True, **options)


class _Lines(io.StringIO):
    """What tqdm writes over and over on one line, as lines of standard error."""

    def write(self, text: str) -> int:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)
        return len(text)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _final(error: Exception) -> bool:
    """Whether another try would bring the same."""
    status = _status(error)
    refused = status is not None and 400 <= status < 500 and status not in MENDABLE
    untrusted = isinstance(error, requests.exceptions.SSLError)
    return refused or untrusted or getattr(error, "errno", None) in NO_PLACE


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _stamp(part: Path) -> Path:
    """What says which version of the file the partial one is of."""
    return part.with_name(f"{part.name}.json")


def _words(error: Exception) -> str:
    status = _status(error)
    if status is not None:
        return f"the server answers {status}"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted here (REQUESTS_CA_BUNDLE names others)"
    return "no connection" if isinstance(error, requests.ConnectionError) else str(error)
