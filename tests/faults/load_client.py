"""What browsers and programs ask of a studio over HTTP, without a browser."""

from __future__ import annotations

import http.client
import json
import secrets
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PATIENCE = 120.0  # seconds for an answer


@dataclass
class Client:
    """One who asks; each request has a connection of its own, as it comes.

    Attributes:
        address: the studio's.
        failed: requests that were answered with a 5xx, as "status path".
    """

    address: str
    failed: list[str] = field(default_factory=list)

    def connect(self, timeout: float = PATIENCE) -> http.client.HTTPConnection:
        """A connection to the studio."""
        return http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=timeout)

    def ask(self, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes]:
        """(status, body) of a GET, or of a POST where there is a body."""
        with closing(self.connect()) as connection:
            headers = {"Content-Type": kind} if body is not None else {}
            connection.request("GET" if body is None else "POST", path, body, headers)
            answer = connection.getresponse()
            found = answer.read()
        if answer.status >= 500:
            self.failed.append(f"{answer.status} {path}")
        return answer.status, found

    def json(self, path: str, body: Any = None) -> Any:
        """The JSON that is answered. Raises: RuntimeError: another status than 200."""
        status, found = self.ask(path, None if body is None else json.dumps(body).encode())
        if status != 200:
            raise RuntimeError(f"{path} was answered with {status}: {found[:300]!r}")
        return json.loads(found)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Gradio's config of the page."""
        found: dict[str, Any] = self.json("/config")
        return found

    def upload(self, files: Sequence[Path]) -> list[dict[str, Any]]:
        """Upload files; returns them as Gradio's endpoints take them."""
        edge = secrets.token_hex(16)
        parts = [
            b"--%b\r\nContent-Disposition: form-data; name=\"files\"; filename=\"%b\"\r\n"
            b"Content-Type: application/octet-stream\r\n\r\n%b\r\n"
            % (edge.encode(), path.name.encode(), path.read_bytes())
            for path in files
        ]  # fmt: skip
        body = b"".join(parts) + b"--%b--\r\n" % edge.encode()
        status, found = self.ask("/gradio_api/upload", body, f"multipart/form-data; boundary={edge}")
        if status != 200:
            raise RuntimeError(f"the upload was answered with {status}: {found[:300]!r}")
        return [
            {"path": path, "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}
            for path, file in zip(json.loads(found), files, strict=True)
        ]

    def break_off(self) -> None:
        """Begin an upload and leave in the middle of it."""
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="left.png"\r\n\r\n'
        with closing(self.connect()) as connection:
            connection.putrequest("POST", "/gradio_api/upload")
            connection.putheader("Content-Type", "multipart/form-data; boundary=x")
            connection.putheader("Content-Length", str(1 << 20))
            connection.endheaders(head + b"0" * (1 << 16))
            time.sleep(0.3)  # it is being written by then

    def call(self, verb: str, **arguments: Any) -> Any:
        """Call one of the API's verbs, as Gradio's documentation says; returns its answer.

        Raises: RuntimeError: what the endpoint said instead.
        """
        begun = self.json(f"/gradio_api/call/v2/{verb}", arguments)
        status, found = self.ask(f"/gradio_api/call/{verb}/{begun['event_id']}")
        event = ""
        for line in found.decode().splitlines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: ") and event == "complete":
                return json.loads(line.removeprefix("data: "))[0]
            elif line.startswith("data: ") and event == "error":
                break
        raise RuntimeError(f"{verb} was answered with {status}: {found[-300:]!r}")

    def press(self, elem_id: str, event: str, data: dict[str, Any]) -> dict[str, Any]:
        """Do what a piece of the page does at an event: join the queue, and wait in its stream.

        data: what the event carries. Returns: the message that ends it.

        Raises: RuntimeError: the page has no such listener, or the stream ended without an end.
        """
        places = {one["id"]: one for one in self.config["components"]}
        for one in self.config["dependencies"]:
            for place, name in one["targets"]:
                if name == event and places.get(place, {}).get("props", {}).get("elem_id") == elem_id:
                    return self._press(one, place, data)
        raise RuntimeError(f"nothing on the page listens to {event} of {elem_id}")

    def _press(self, listener: dict[str, Any], place: int, data: dict[str, Any]) -> dict[str, Any]:
        window = secrets.token_hex(6)
        ask = {
            "data": [None] * len(listener["inputs"]), "event_data": data, "fn_index": listener["id"],
            "session_hash": window, "trigger_id": place,
        }  # fmt: skip
        self.json("/gradio_api/queue/join", ask)
        end = time.monotonic() + PATIENCE
        with closing(self.connect()) as connection:
            connection.request("GET", f"/gradio_api/queue/data?session_hash={window}")
            answer = connection.getresponse()
            while time.monotonic() < end and (line := answer.readline()):
                if line.startswith(b"data: "):
                    said: dict[str, Any] = json.loads(line[6:])
                    if said.get("msg") == "process_completed":
                        return said
        raise RuntimeError(f"the event of {listener['id']} had no end")

    def look(self, *parts: str) -> None:
        """Load the page as a browser does that has seen nothing: the page, its theme, some parts of it."""
        for path in ("/", "/theme.css", "/gradio_api/startup-events"):
            self.ask(path)
        self.ask("/parts?wait=0", json.dumps([{"part": name} for name in parts]).encode())


def status_of(client: Client, job: str = "") -> dict[str, Any]:
    """What /api says of a job, or of the studio."""
    found: dict[str, Any] = client.json(f"/api/jobs/{job}" if job else "/api/status")
    return found
