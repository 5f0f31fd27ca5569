"""A client that speaks ASGI to an app in this process, as uvicorn would for what comes over the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

HOST = "127.0.0.1:7860"
PATIENCE = 60.0  # seconds for an answer to begin
STREAMED = 0.02  # seconds that a stream is listened to after its first bytes


@dataclass(frozen=True)
class Ask:
    """A request as it stands on the wire.

    Attributes:
        target: path and query, percent-encoded.
        headers: beside Host; one named "host" takes its place.
        until: of a stream: listened to until this was said, at most PATIENCE; empty: `STREAMED`.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    kind: str = "http"
    until: bytes = b""

    def but(self, *headers: tuple[str, str]) -> Ask:
        """The same with more headers."""
        return Ask(self.method, self.target, (*self.headers, *headers), self.body, self.kind, self.until)


@dataclass
class Answer:
    """What came back. status: 0 where nothing did; of a web socket 101 or 403. broke: an exception's line."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    broke: str = ""

    def header(self, name: str) -> str:
        """The first of that name; empty where there is none."""
        return next((value for key, value in self.headers if key == name), "")

    def json(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def posted(target: str, value: Any, *headers: tuple[str, str], method: str = "POST") -> Ask:
    """A request with JSON."""
    body = json.dumps(value).encode("utf-8", "surrogatepass")
    return Ask(method, target, (("content-type", "application/json"), *headers), body)


def formed(target: str, fields: Mapping[str, str], *headers: tuple[str, str]) -> Ask:
    """A request with a form."""
    from urllib.parse import urlencode

    body = urlencode(fields).encode()
    return Ask("POST", target, (("content-type", "application/x-www-form-urlencoded"), *headers), body)


def upload(target: str, name: str, content: bytes) -> Ask:
    """A file sent as a form does."""
    bar = "pigmentpigmentpigment"
    said = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    head = f'--{bar}\r\nContent-Disposition: form-data; name="files"; filename="{said}"\r\n\r\n'
    body = head.encode("utf-8", "surrogatepass") + content + f"\r\n--{bar}--\r\n".encode()
    return Ask("POST", target, (("content-type", f"multipart/form-data; boundary={bar}"),), body)


def scope_of(ask: Ask, address: str) -> dict[str, Any]:
    """The request as uvicorn passes it on. address: whom it comes from."""
    raw, _, query = ask.target.encode("utf-8", "surrogatepass").partition(b"?")
    headers = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in ask.headers]
    if not any(name == b"host" for name, _ in headers):
        headers.insert(0, (b"host", HOST.encode()))
    if ask.body:
        headers.append((b"content-length", str(len(ask.body)).encode()))
    scope = {
        "type": ask.kind, "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "scheme": "ws" if ask.kind == "websocket" else "http",
        "path": unquote(raw.decode("ascii", "replace")), "raw_path": raw,
        "query_string": query, "root_path": "", "headers": headers,
        "client": (address, 40000), "server": ("127.0.0.1", 7860), "state": {}, "extensions": {},
    }  # fmt: skip
    return {**scope, "subprotocols": []} if ask.kind == "websocket" else {**scope, "method": ask.method}


class _Wire:
    """The two ends of a request: hands out its body, keeps what is answered, hangs up when it has enough."""

    def __init__(self, ask: Ask) -> None:
        self.ask, self.answer = ask, Answer()
        self._sent = False
        self.begun, self.enough = asyncio.Event(), asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if not self._sent:
            self._sent = True
            if self.ask.kind == "websocket":
                return {"type": "websocket.connect"}
            return {"type": "http.request", "body": self.ask.body, "more_body": False}
        await self.enough.wait()
        return {"type": "websocket.disconnect" if self.ask.kind == "websocket" else "http.disconnect"}

    async def send(self, message: Mapping[str, Any]) -> None:
        kind, answer = message["type"], self.answer
        if kind == "http.response.start":
            answer.status = message["status"]
            answer.headers = [(key.decode("latin-1").lower(), value.decode("latin-1"))
                              for key, value in message.get("headers", ())]  # fmt: skip
        elif kind == "http.response.body":
            answer.body += message.get("body", b"")
            if not message.get("more_body") or (self.ask.until and self.ask.until in answer.body):
                self.enough.set()
            self.begun.set()
        elif kind.startswith("websocket."):
            answer.status = 101 if kind == "websocket.accept" else answer.status or 403
            answer.body += (message.get("text") or "").encode() + (message.get("bytes") or b"")
            self.begun.set()
            self.enough.set()


async def asked(app: Any, ask: Ask, address: str = "127.0.0.1") -> Answer:
    """Ask an app. What it raises is a status of 500 with the exception's line in `broke`."""
    wire = _Wire(ask)
    task = asyncio.ensure_future(app(scope_of(ask, address), wire.receive, wire.send))
    waits: Sequence[Any] = (task, asyncio.ensure_future(wire.begun.wait()))
    await asyncio.wait(waits, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    if not task.done() and not wire.enough.is_set():
        enough = asyncio.ensure_future(wire.enough.wait())
        await asyncio.wait((task, enough), timeout=PATIENCE if ask.until else STREAMED,
                           return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
        enough.cancel()
    waits[1].cancel()
    wire.enough.set()
    if not task.done():
        await asyncio.wait((task,), timeout=1)
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    except Exception as error:
        wire.answer.broke = f"{type(error).__name__}: {error}"[:300]
        wire.answer.status = wire.answer.status or 500
    return wire.answer


async def logged_in(app: Any, name: str, password: str, address: str = "127.0.0.1") -> str:
    """The cookie of a new session, as a Cookie header's value."""
    answer = await asked(app, formed("/login", {"username": name, "password": password}), address)
    assert answer.status == 200, answer
    return answer.header("set-cookie").partition(";")[0]
