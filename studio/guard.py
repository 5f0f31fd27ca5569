"""The guard in front of everything the server answers: nothing passes that isn't this page or its user.

A page elsewhere can't reach the studio through somebody's browser: by DNS rebinding its Host isn't ours, by a
cross-site request its Origin isn't our host, and what browsers say of a request's site is believed. Where
there are accounts, everything but the login itself wants one of them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from studio.login import Login

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[..., Awaitable[Any]], Callable[..., Awaitable[None]]], Awaitable[None]]

MAX_BODY = 64 << 20  # bytes of a request that is no upload
MAX_ADDRESS = 16 << 10  # bytes of path and query
UPLOAD = "/gradio_api/upload"
ENTRANCES = ("/", "/login")  # what a link on another page may open
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    # The page is made by inline scripts; but nothing is fetched from or sent to another machine.
    (
        b"content-security-policy",
        b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; base-uri 'self'; "
        b"form-action 'self'; frame-ancestors 'self'",
    ),
)
"""On every answer."""
ALONE = ("host", "origin", "x-forwarded-host", "content-length", "sec-fetch-site")
"""Headers that come once: two readers of a request must not see two of them."""


def is_loopback(host: str) -> bool:
    """True for `localhost` and the addresses of this machine alone."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    """True for the addresses that stand for all of a machine's."""
    try:
        return ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def host_name(host: str) -> str:
    """The name in a Host header, without its port, in small letters."""
    return re.sub(r":\d{1,5}$", "", host).casefold().rstrip(".")


@dataclass(frozen=True)
class Hosts:
    """The names that the studio answers to.

    Attributes:
        names: in small letters; IPv6 addresses in brackets.
        addresses: any IP address will do as well. Where the server listens on all of its machine's addresses
            it can't know which of them people use, and rebinding needs a name.
    """

    names: frozenset[str]
    addresses: bool = False

    @classmethod
    def of(cls, host: str, also: tuple[str, ...] = ()) -> Hosts:
        """The names of a server that listens at `host`, and what a proxy calls it.

        Raises:
            ConfigError: one of `also` is no host name.
        """
        for name in also:
            if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\]", name):
                raise ConfigError(
                    f"{name[:80]!r} is no host name; say --allow-host studio.example.org, no port, no path"
                )
        shown = f"[{host}]" if ":" in host else host
        names = {shown.casefold(), *(name.casefold() for name in also)}
        if is_loopback(host) or is_wildcard(host):
            names |= {"localhost", "127.0.0.1", "[::1]"}
        if is_wildcard(host):
            from socket import gethostname

            own = gethostname().casefold()
            names |= {own, f"{own}.local"}
        return cls(frozenset(names), addresses=is_wildcard(host))

    def know(self, host: str) -> bool:
        """Whether a Host header names this studio."""
        name = host_name(host)
        if name in self.names:
            return True
        if not self.addresses:
            return False
        try:
            ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


class Refusal(Exception):
    """A request that doesn't pass: the status, and one line why."""

    def __init__(self, status: int, line: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(line)
        self.status, self.line, self.headers = status, line, headers


@dataclass(frozen=True)
class Guard:
    """ASGI guard around the studio.

    Attributes:
        hosts: what the studio is called.
        login: who may use it; None where there are no accounts.
        root_path: the path below which a proxy shows the studio, such as "/pigment"; the proxy may take it
            off or leave it on. Empty: the root.
    """

    app: App
    hosts: Hosts
    login: Login | None = None
    root_path: str = ""
    max_body: int = MAX_BODY

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Let a request through, or answer it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            headers = _headers(scope)
            _check_address(scope)
            self._check_source(scope, headers)
            scope = self._below_root(scope)
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"x-gradio-server"]
            self._check_site(scope, headers)
            limited = _Limited(receive, _with_headers(send), self._limit(scope, headers))
            try:
                if self.login is None or await self.login.let_in(
                    scope, limited.receive, limited.send, self.root_path
                ):
                    await self.app(scope, limited.receive, limited.send)
            except Exception as error:
                # The request was cut off, or whoever sent it has left: what became of it is no news.
                if not (limited.over or (limited.left and type(error).__name__ == "ClientDisconnect")):
                    raise
        except Refusal as refusal:
            await _refuse(scope, refusal, send)

    def _check_source(self, scope: Scope, headers: dict[str, str]) -> None:
        """Host, and what a proxy says was asked for, are ours; Origin, where there is one, is the same."""
        host = headers.get("host", "")
        forwarded = headers.get("x-forwarded-host", "").partition(",")[0].strip()
        for name in (host, forwarded) if forwarded else (host,):
            if not self.hosts.know(name):
                raise Refusal(
                    403,
                    f"refused: this studio isn't called {host_name(name)[:80]!r}; open it by its own name, "
                    "or start it with --allow-host and that name",
                )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] not in (host, forwarded or host):
            raise Refusal(403, "refused: this request comes from another page; open the studio by itself")

    def _check_site(self, scope: Scope, headers: dict[str, str]) -> None:
        """What a browser sends for another site's page is refused, but for links that open the studio."""
        if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            return
        opened = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if not (opened and scope.get("method") in ("GET", "HEAD") and scope["path"] in ENTRANCES):
            raise Refusal(403, "refused: this request comes from another page; open the studio by itself")

    def _below_root(self, scope: Scope) -> Scope:
        """The request with its path below the root path."""
        root, path = self.root_path, scope["path"]
        if root and path == root:
            raise Refusal(308, f"the studio is at {root}/", ((b"location", f"{root}/".encode()),))
        if not root or not path.startswith(f"{root}/"):
            return {**scope}
        raw = scope.get("raw_path")
        if raw is not None and raw.startswith(root.encode()):
            raw = raw[len(root.encode()) :]
        return {**scope, "path": path[len(root) :], "raw_path": raw}

    def _limit(self, scope: Scope, headers: dict[str, str]) -> int | None:
        """How many bytes of a body are taken; None: as many as an upload has, which Gradio limits itself."""
        if scope["type"] != "http" or scope["path"].rstrip("/") == UPLOAD:
            return None
        stated = headers.get("content-length", "0")
        if not stated.isdecimal() or int(stated) > self.max_body:
            raise _too_long(self.max_body)
        return self.max_body


def _too_long(limit: int) -> Refusal:
    return Refusal(413, f"refused: the request is longer than {limit / (1 << 20):.3g} MB")


class _Limited:
    """A request's `receive` and `send`; ends the request where its body gets longer than it may.

    over: that has happened. left: whoever sent the request is gone.
    """

    def __init__(self, receive: Any, send: Any, limit: int | None) -> None:
        self._receive, self._send, self._limit = receive, send, limit
        self._seen, self._begun, self.over, self.left = 0, False, False, False

    async def receive(self) -> Any:
        message = await self._receive()
        self.left |= message["type"] == "http.disconnect"
        self._seen += len(message.get("body", b""))
        if self._limit is None or self._seen <= self._limit:
            return message
        if not self.over and not self._begun:
            await _refuse({"type": "http"}, _too_long(self._limit), self._send)
        self.over = True
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if not self.over:
            self._begun = True
            await self._send(message)


def _check_address(scope: Scope) -> None:
    """Refuse addresses that nothing of ours has, and over which what reads them stumbles."""
    if len(scope["path"].encode("utf-8", "replace")) + len(scope.get("query_string", b"")) > MAX_ADDRESS:
        raise Refusal(414, f"refused: the address is longer than {MAX_ADDRESS >> 10} KB")
    if any(sign < " " or sign == "\x7f" for sign in scope["path"]):
        raise Refusal(400, "refused: the address has a control character in it")


def _headers(scope: Scope) -> dict[str, str]:
    found: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1").lower()
        if name in found and name in ALONE:
            raise Refusal(400, f"refused: the header {name} comes twice")
        found[name] = value.decode("latin-1")
    return found


def _with_headers(send: Any) -> Any:
    async def guarded(message: Any) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message.get("headers", ())}
            more = [pair for pair in HEADERS if pair[0] not in there]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return guarded


async def _refuse(scope: Scope, refusal: Refusal, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    head = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"cache-control", b"no-store"),
        *refusal.headers,
    ]
    await _with_headers(send)({"type": "http.response.start", "status": refusal.status, "headers": head})
    await send({"type": "http.response.body", "body": f"{refusal.line}\n".encode()})
