"""Downloads from a server that breaks off, changes and lies; archives that want to go elsewhere."""

import errno
import hashlib
import io
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import public_sets
import pytest

from d2v.data.documents import find_parts
from d2v.data.fetch import downloads, official
from d2v.data.fetch.archives import unpack
from d2v.data.fetch.downloads import Remote, download
from d2v.data.fetch.official import BY_HAND, SETS, Part, fetch_parts
from d2v.data.readers.cifar10 import prepare_cifar10
from d2v.data.readers.official import OFFICIAL
from d2v.util.errors import UserError
from d2v.util.files import write_json

CONTENT = bytes(range(256)) * 4000


class Server(ThreadingHTTPServer):
    """Serves `files`; breaks off after `patience` bytes of a request, and then for good."""

    files: dict[str, bytes]
    patience = 10**9
    version: str | None = '"one"'  # ETag
    changed: str | None = None  # Last-Modified
    honest = True  # else sends another part than was asked for
    failures = 0  # answers of 503 first
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.headers["User-Agent"].lower().startswith("python"):
            self.send_error(403)  # as wikitext.smerity.com
            return
        content = self.server.files.get(self.path.strip("/"))
        if content is None:
            self.send_error(404)
            return
        start = 0
        if self.server.failures:
            self.server.failures -= 1
            self.send_error(503)
            return
        same = self.headers.get("If-Range") in (self.server.version, self.server.changed)
        if wanted and same:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(content) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if self.server.version:
            self.send_header("ETag", self.server.version)
        if self.server.changed:
            self.send_header("Last-Modified", self.server.changed)
        if start:
            start = start if self.server.honest else start // 2
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + self.server.patience])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE_S", 0.0)
    found = Server(("127.0.0.1", 0), Handler)
    found.files, found.asked = {"file.bin": CONTENT}, []
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()


def remote(server, name="file.bin", digest=""):
    return Remote(f"http://127.0.0.1:{server.server_address[1]}/{name}", digest)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.patience = 300_000
    path = download(remote(server), tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert names(tmp_path) == {"file.bin", "checksums.json"}


def test_it_goes_on_as_long_as_something_comes(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "RETRIES", 1)
    server.patience, server.failures = 120_000, 1
    assert download(remote(server), tmp_path).read_bytes() == CONTENT
    assert len(server.asked) > 8  # breaks, more of them than retries
    server.failures = 2
    with pytest.raises(UserError, match="the server answered 503; 0 bytes are kept"):
        download(remote(server, "file.bin"), tmp_path / "other")


def test_a_weak_etag_does_not_say_that_a_file_is_the_same(server, tmp_path):
    server.patience, server.version = 600_000, 'W/"one"'
    server.changed = "Tue, 24 Nov 2026 00:00:00 GMT"
    assert download(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=600000-"]  # by the date
    server.asked.clear()
    server.changed, server.version = None, None
    server.patience = 10**9
    assert download(remote(server), tmp_path / "b").read_bytes() == CONTENT


def test_an_answer_with_another_part_is_not_taken(server, tmp_path):
    server.patience, server.honest = 600_000, False
    with pytest.raises(UserError, match="a different part than requested"):
        download(remote(server), tmp_path)
    server.patience = 10**9
    assert download(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_partial_file_that_is_whole_or_too_long_is_known(server, tmp_path, monkeypatch):
    for had in (CONTENT, CONTENT + b"more"):
        (tmp_path / "file.bin.part").write_bytes(had)
        write_json(tmp_path / "file.bin.part.json", {"version": server.version})
        assert download(remote(server), tmp_path).read_bytes() == CONTENT
        (tmp_path / "file.bin").unlink()
    # all was there; too much was there: all of it again
    assert server.asked == [f"bytes={len(CONTENT)}-", f"bytes={len(CONTENT) + 4}-", None]


def test_a_full_disk_is_told_at_once(server, tmp_path, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloads, "_keep", full)
    with pytest.raises(UserError, match="No space left on device; 0 bytes"):
        download(remote(server), tmp_path)
    assert len(server.asked) == 1


def test_progress_is_lines_in_a_log(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(downloads, "LOG_S", 0.0)
    download(remote(server), tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("file.bin:   0% 0.00/1.02M")
    assert lines[-1].startswith("file.bin: 100% 1.02M/1.02M")
    assert "B/s" in lines[-1]


def test_after_all_retries_what_came_is_kept_for_the_next_call(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "RETRIES", 0)
    server.patience = 500_000
    with pytest.raises(UserError, match="500,000 bytes are kept; the next `d2v fetch` resumes"):
        download(remote(server), tmp_path)
    assert not (tmp_path / "file.bin").exists()
    server.patience = 10**9
    assert download(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=500000-"


def test_a_file_that_changed_on_the_server_starts_afresh(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "RETRIES", 0)
    server.patience = 500_000
    with pytest.raises(UserError):
        download(remote(server), tmp_path)
    server.patience, server.version = 10**9, '"two"'
    server.files["file.bin"] = CONTENT[::-1]
    assert download(remote(server), tmp_path).read_bytes() == CONTENT[::-1]


def test_checksums_are_verified_and_noted(server, tmp_path):
    right = "md5:" + hashlib.md5(CONTENT).hexdigest()
    with pytest.raises(UserError, match=r"the checksum is md5:.*, not md5:0; nothing was kept"):
        download(remote(server, digest="md5:0"), tmp_path)
    assert names(tmp_path) == set()
    path = download(remote(server, digest=right), tmp_path)
    before = len(server.asked)
    download(remote(server, digest=right), tmp_path)
    download(remote(server), tmp_path)  # by the noted sha256
    assert len(server.asked) == before
    path.write_bytes(b"damaged")
    assert download(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_missing_file_is_told_at_once(server, tmp_path):
    with pytest.raises(UserError, match=r"none\.zip: the server answered 404"):
        download(remote(server, "none.zip"), tmp_path)
    assert len(server.asked) == 1


def test_no_connection_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE_S", 0.0)
    with pytest.raises(UserError, match="no connection; 0 bytes are kept"):
        download(Remote("http://127.0.0.1:9/file.bin"), tmp_path)


# --- archives -----------------------------------------------------------------------------------


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (member("../outside"), "would be outside"),
        (member("/etc/outside"), "would be outside"),
        (member("a/../../outside"), "would be outside"),
        (member("link", tarfile.SYMTYPE, "/etc"), "neither a file nor a folder"),
        (member("hard", tarfile.LNKTYPE, "/etc/passwd"), "neither a file nor a folder"),
        (member("device", tarfile.CHRTYPE), "neither a file nor a folder"),
    ],
)
def test_a_tar_that_reaches_elsewhere_is_refused_before_anything_is_written(
    tmp_path, info, message
):
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(tar_of((member("good"), b"good"), (info, b"")))
    with pytest.raises(UserError, match=message):
        unpack(archive, tmp_path / "out")
    assert names(tmp_path) == {"a.tar.gz"}


def test_a_zip_that_reaches_elsewhere_is_refused(tmp_path):
    archive = tmp_path / "a.zip"
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    for name in ("../outside", "/outside", "..\\outside", link):
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr(name, "x")
        with pytest.raises(UserError, match="refused"):
            unpack(archive, tmp_path / "out")
        assert names(tmp_path) == {"a.zip"}


def damaged(archive: bytes) -> bytes:
    middle = len(archive) // 2
    return archive[:middle] + bytes(50) + archive[middle + 50 :]


@pytest.mark.parametrize("kind", ["tar", "zip", "page"])
def test_a_damaged_archive_is_told_in_one_line(tmp_path, kind):
    content = np.random.default_rng(0).integers(0, 9, 300_000, np.uint8).tobytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("file", content)
    archive = tmp_path / "a.archive"
    found = {"tar": damaged(tar_of((member("file"), content))), "page": b"<html>"}
    archive.write_bytes(found.get(kind, damaged(buffer.getvalue())))
    with pytest.raises(UserError, match=r"a\.archive: incomplete or damaged archive") as caught:
        unpack(archive, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == {"a.archive"}


def test_a_truncated_archive_is_told(tmp_path):
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(tar_of((member("file"), bytes(100_000)))[:60])
    with pytest.raises(UserError, match="incomplete or damaged archive"):
        unpack(archive, tmp_path / "out")
    assert names(tmp_path) == {"a.tar.gz"}


def test_parts_are_unpacked_side_by_side_and_only_once(server, tmp_path):
    for subset in ("dev", "test"):
        server.files[f"{subset}.tar.gz"] = tar_of(
            (member(f"LibriSpeech/{subset}/1/a.flac"), subset.encode()),
            (member("LibriSpeech/README.TXT"), b"both have it"),
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr("CoLA/train.tsv", "row\n")
    server.files["CoLA.zip"] = buffer.getvalue()
    parts = [
        Part(remote(server, "dev.tar.gz"), "LibriSpeech/dev"),
        Part(remote(server, "test.tar.gz"), "LibriSpeech/test"),
        Part(remote(server, "CoLA.zip"), "glue_data/CoLA"),  # its top folder is CoLA
        Part(remote(server), "", "lm"),
    ]
    assert len(fetch_parts(parts, tmp_path)) == 4
    assert (tmp_path / "LibriSpeech" / "test" / "1" / "a.flac").read_text() == "test"
    assert names(tmp_path / "LibriSpeech") == {"dev", "test", "README.TXT"}
    assert (tmp_path / "glue_data" / "CoLA" / "train.tsv").read_text() == "row\n"
    assert (tmp_path / "lm" / "file.bin").read_bytes() == CONTENT
    before = len(server.asked)
    assert fetch_parts(parts, tmp_path) == []
    assert len(server.asked) == before


def test_public_sets_are_fetched_resumed_checked_and_prepared(server, tmp_path, monkeypatch):
    """CIFAR-10 and WikiText-103 in their own archives, from a server that breaks off."""
    batches = public_sets.cifar10(tmp_path / "made" / "cifar-10-batches-bin", 20)
    text = public_sets.wikitext(tmp_path / "made" / "wikitext-103-raw")
    served = {
        "cifar10": tar_of(
            *((member(f"{batches.name}/{p.name}"), p.read_bytes()) for p in batches.iterdir())
        ),
        "wikitext103": zip_of({f"{text.name}/{p.name}": p.read_bytes() for p in text.iterdir()}),
    }
    for name, content in served.items():
        ((part, (old,)),) = SETS[name].items()
        file = old.remote.name
        server.files[file] = content
        kind = old.remote.digest.partition(":")[0]
        digest = f"{kind}:{hashlib.new(kind, content).hexdigest()}"
        monkeypatch.setitem(SETS, name, {part: [Part(remote(server, file, digest), old.gives)]})
    server.patience = 5_000
    assert official.fetch_official("cifar10", tmp_path / "sets") == ["cifar-10-batches-bin"]
    assert len(server.asked) > 1  # resumed
    server.patience = 10**9
    prepare_cifar10(tmp_path / "sets" / batches.name, tmp_path / "out", 1, images=20, dev=10)
    assert official.fetch_official("cifar10", tmp_path / "sets") == []
    server.files["wikitext-103-raw-v1.zip"] = served["wikitext103"][:-1]
    with pytest.raises(UserError, match=r"the checksum is sha256:.* nothing was kept"):
        official.fetch_official("wikitext103", tmp_path / "sets")
    assert not (tmp_path / "sets" / text.name).exists()
    server.files["wikitext-103-raw-v1.zip"] = served["wikitext103"]
    assert official.fetch_official("wikitext103", tmp_path / "sets") == ["wikitext-103-raw"]
    assert len(find_parts(tmp_path / "sets" / text.name / "wiki.train.raw", 10**9)) == 1


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_two_fetches_at_once_download_once(server, tmp_path, monkeypatch):
    server.files["dev.tar.gz"] = tar_of((member("LibriSpeech/dev/1/a.flac"), b"dev"))
    parts = [Part(remote(server, "dev.tar.gz"), "LibriSpeech/dev")]
    monkeypatch.setitem(SETS, "librispeech", {"dev": parts})
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: official.fetch_official("librispeech", tmp_path), "ab"))
    assert sorted(both) == [[], ["LibriSpeech/dev"]]
    assert len(server.asked) == 1


def test_every_address_is_secure_and_its_checksum_well_formed():
    parts = [part for of_set in SETS.values() for many in of_set.values() for part in many]
    assert all(part.remote.url.startswith("https://") for part in parts)
    for part in parts:
        kind, _, value = part.remote.digest.partition(":")
        assert len(bytes.fromhex(value)) == {"md5": 16, "sha256": 32, "": 0}[kind]
        unpublished = ("resources/11", "gpt2_bpe")
        assert bool(kind) == (not any(name in part.remote.url for name in unpublished))
    assert set(SETS["librispeech"]) == set(OFFICIAL["librispeech"])
    assert set(SETS["glue"]) <= set(OFFICIAL)
    assert SETS.keys().isdisjoint(BY_HAND)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imagenet", "imagenet cannot be fetched; its licence .* register at image-net.org"),
        ("audioset", "audioset cannot be fetched"),
        ("librispech", "no such data set; known sets: librispeech, "),
        ("librispeech:dev", "librispeech has no part dev; it has dev-clean, "),
    ],
)
def test_what_cannot_be_fetched_is_said(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        official.fetch_official(name, tmp_path)
    assert names(tmp_path) == set()
