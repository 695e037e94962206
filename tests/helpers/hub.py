"""A stand-in for the Hugging Face hub: the part of its HTTP interface that push and pull need."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

SHA = "0123456789abcdef0123456789abcdef01234567"  # of every commit


@dataclass
class Hub:
    """Repositories by name: their files, and whether they are private."""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)  # files that were downloaded
    torn: str = ""  # a file of which only a half is sent
    refuses: bool = False  # all writing


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a port of this machine, for as long as the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        if "/resolve/" in self.path:
            self._file(body=True)
            return
        path = self.path.partition("?")[0]
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        name, what, revision = found.groups() if found else ("", "", "")
        if name not in self.hub.files:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif revision not in (None, "main", SHA):
            self._answer(404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
        elif what == "tree":
            self._answer(200, [_entry(*pair) for pair in self.hub.files[name].items()])
        else:
            siblings = [{"rfilename": file} for file in self.hub.files[name]]
            self._answer(200, {"id": name, "sha": SHA, "siblings": siblings})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.hub.refuses:
            self._answer(403, {"error": "you may not"})
        elif self.path == "/api/repos/create":
            given = json.loads(content)
            name = "/".join(filter(None, (given.get("organization"), given["name"])))
            self.hub.files.setdefault(name, {})
            private = given.get("visibility") == "private" or bool(given.get("private"))
            self.hub.private.setdefault(name, private)
            self._answer(200, {"url": f"{self.hub.url}/{name}"})
        elif self.path == "/api/validate-yaml":  # the head of README.md
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(content)["files"]
            ]
            self._answer(200, {"files": files})
        else:
            name = "/".join(self.path.split("/")[3:5])
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.hub.files[name][value["path"]] = base64.b64decode(value["content"])
            url = f"{self.hub.url}/{name}/commit/{SHA}"
            self._answer(200, {"commitUrl": url, "commitOid": SHA, "success": True})

    def _file(self, body: bool) -> None:
        name, _, rest = self.path.partition("/resolve/")
        file = rest.partition("/")[2].partition("?")[0]
        content = self.hub.files.get(name[1:], {}).get(file)
        if content is None:
            self._answer(404, {"error": "no file"}, {"X-Error-Code": "EntryNotFound"})
            return
        sent = content[: len(content) // 2] if body and file == self.hub.torn else content
        self.send_response(200)
        self.send_header("ETag", f'"{_id(content)}"')
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        if body:
            self.hub.fetched.append(file)
            self.wfile.write(sent)

    def _answer(self, code: int, content: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def _id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": path, "size": len(content), "oid": _id(content)}
