"""A hub on the loopback: answers what huggingface_hub asks for one model, and can break off or refuse."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMIT = hashlib.sha1(b"the only commit").hexdigest()
LARGE = 4096  # bytes; larger files are named by their SHA-256, as the hub does with LFS files


@dataclass
class Hub:
    """One repository that is served, and what was asked of it.

    break_at: by file, after how many bytes the connection is cut, once each. gone: cut every time from
    then on. refusal: (status, X-Error-Code) instead of every answer. spoiled: files whose bytes come wrong.
    asked: (method, path, Range header or "", Authorization header or "") of every request.
    """

    folder: Path
    repo: str = "org/tiny"
    address: str = ""
    break_at: dict[str, int] = field(default_factory=dict)
    gone: bool = False
    refusal: tuple[int, str] | None = None
    spoiled: set[str] = field(default_factory=set)
    ranges: bool = True
    asked: list[tuple[str, str, str, str]] = field(default_factory=list)

    def files(self) -> dict[str, Path]:
        """The files by their path in the repository."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in found}

    def fetched(self) -> list[str]:
        """Paths of the files whose bytes were asked for, in order."""
        return [path.split(f"/resolve/{COMMIT}/")[1] for method, path, _, _ in self.asked
                if method == "GET" and "/resolve/" in path]  # fmt: skip


def digest_of(data: bytes) -> str:
    """What the hub names these bytes: SHA-256 of a large file, git's blob id of a small one."""
    if len(data) > LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve a repository while the block runs; sets its address."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub, path = self.hub, unquote(self.path.split("?")[0])
        hub.asked.append(
            (self.command, path, self.headers.get("Range", ""), self.headers.get("Authorization", ""))
        )
        if hub.refusal is not None:
            return self._error(*hub.refusal)
        api, resolve = f"/api/models/{hub.repo}", f"/{hub.repo}/resolve/{COMMIT}/"
        if path.startswith(f"{api}/tree/"):
            return self._json(self._tree(), body)
        if path in (api, f"{api}/revision/main", f"{api}/revision/v1", f"{api}/revision/{COMMIT}"):
            return self._json({"id": hub.repo, "sha": COMMIT, "siblings": []}, body)
        if path.startswith(f"{api}/revision/"):
            return self._error(404, "RevisionNotFound")
        if path.startswith(resolve):
            return self._file(path.removeprefix(resolve), body)
        return self._error(404, "RepoNotFound")

    def _tree(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for name, path in self.hub.files().items():
            data = path.read_bytes()
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": digest_of(data)}
            if len(data) > LARGE:
                entry["oid"] = hashlib.sha1(name.encode()).hexdigest()
                entry["lfs"] = {"oid": digest_of(data), "size": len(data), "pointerSize": 130}
            found.append(entry)
        return found

    def _file(self, name: str, body: bool) -> None:
        hub, path = self.hub, self.hub.files().get(name)
        if path is None:
            return self._error(404, "EntryNotFound")
        data = path.read_bytes()
        etag = digest_of(data)
        if name in hub.spoiled:
            data = data[:-1] + bytes([data[-1] ^ 1])
        asked, start = self.headers.get("Range", ""), 0
        if asked and hub.ranges:
            start = int(asked.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if asked and hub.ranges else 200)
        if asked and hub.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if not body:
            return None
        cut = hub.break_at.pop(name, None) if start == 0 or not hub.ranges else None
        if hub.gone and (cut is not None or start):
            cut = start if cut is None else cut
        self.wfile.write(data[start:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
        return None

    def _json(self, value: Any, body: bool) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
