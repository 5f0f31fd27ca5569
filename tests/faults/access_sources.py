"""Host × Origin × Sec-Fetch-Site on all that changes something, and on web sockets: who gets through."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from tests.faults.access_client import Ask, asked
from tests.faults.access_slots import routes
from tests.faults.access_world import World, run, world
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

OWN = {
    "127.0.0.1:7860": "http://127.0.0.1:7860", "localhost:7860": "http://localhost:7860",
    "[::1]:7860": "http://[::1]:7860", "studio.example.org": "https://studio.example.org",
}  # fmt: skip
"""What the studio is called, and the origin of its page there."""
HOSTS = (
    *OWN, "evil.example", "127.0.0.1.evil.example:7860", "studio.example.org.evil.example",
    "192.168.1.5:7860",
    "evil.example:7860@127.0.0.1", "0.0.0.0:7860", "127.0.0.1:7860 evil.example", "",
)  # fmt: skip
ORIGINS = (
    None, *OWN.values(), "http://evil.example", "http://127.0.0.1:9999", "http://127.0.0.1:7860.evil.example",
    "http://127.0.0.1:7860@evil.example", "http://evil.example/127.0.0.1:7860", "null", "",
)  # fmt: skip
PASSING = {(host, origin) for host, own in OWN.items() for origin in (None, own)}
"""The pairs that are allowed, and no others."""
SITES = {None: True, "none": True, "same-origin": True, "same-site": False, "cross-site": False}
"""What a browser says of the page that a request comes from, and whether it may change anything."""


@dataclass(frozen=True)
class Case:
    """A request from somewhere."""

    method: str
    target: str
    host: str
    origin: str | None
    site: str | None

    @property
    def allowed(self) -> bool:
        """Whether it may get through."""
        return (self.host, self.origin) in PASSING and SITES[self.site]

    def ask(self, cookie: str) -> Ask:
        """The request, of somebody who is logged in."""
        headers = [("host", self.host), ("cookie", cookie)]
        headers += [("origin", self.origin)] if self.origin is not None else []
        if self.site is not None:
            headers += [
                ("sec-fetch-site", self.site),
                ("sec-fetch-mode", "cors"),
                ("sec-fetch-dest", "empty"),
            ]
        socket = self.method == "SOCKET"
        return Ask(
            "GET" if socket else self.method,
            self.target,
            tuple(headers),
            kind="websocket" if socket else "http",
        )


def targets(made: World) -> list[tuple[str, str]]:
    """(method, path) of what changes something in the real app, the login's own, and web sockets to each."""
    found = {
        (method, re.sub(r"\{[^}]*\}", "x", path))
        for method, path in routes(made.rooms["A"].routes)
        if method not in ("GET", "HEAD", "OPTIONS")
    }
    sockets = {("SOCKET", path) for _, path in found} | {
        ("SOCKET", "/"),
        ("SOCKET", "/gradio_api/queue/join"),
    }
    return sorted(found | {("POST", "/login"), ("POST", "/logout")} | sockets)


class Reached:
    """Stands behind the real guard in the place of the studio, and notes what gets to it."""

    def __init__(self) -> None:
        self.seen = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen = True
        await receive()
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"reached"})


def cases(made: World, count: int | None, chance: random.Random) -> Iterator[Case]:
    """All of them, or `count`; the login's own are the door's, which answers itself (see access_logins)."""
    own = [
        one for one in targets(made) if one[1].rstrip("/") not in ("/login", "/logout") or one[0] == "SOCKET"
    ]
    full = product(own, HOSTS, ORIGINS, SITES)
    for (method, path), host, origin, site in full if count is None else _some(own, count, chance):
        yield Case(method, path, host, origin, site)


def _some(own: list[tuple[str, str]], count: int, chance: random.Random) -> Iterator[Any]:
    """Each pair of host and origin in turn, at random places."""
    pairs = list(product(HOSTS, ORIGINS))
    for number in range(count):
        host, origin = pairs[number % len(pairs)]
        site = None if number < len(pairs) else chance.choice(list(SITES))
        yield chance.choice(own), host, origin, site


def sources_run(task: Task, tally: Tally) -> None:
    """Ask from everywhere."""
    made = world()
    run(_all(made, cases(made, None if task.whole else task.count, random.Random(task.seed)), tally))


async def _all(made: World, tried: Iterator[Case], tally: Tally) -> None:
    from dataclasses import replace

    from studio.guard import Hosts

    reached = Reached()
    guard = replace(made.app, app=reached, hosts=Hosts.of("127.0.0.1", ("studio.example.org",)))
    for case in tried:
        reached.seen = False
        answer = await asked(guard, case.ask(made.cookies["A"]))
        found = None
        if reached.seen != case.allowed:
            found = f"{'got through' if reached.seen else 'was refused'} with {answer.status}"
        elif not case.allowed and answer.status not in (400, 403):
            found = f"was answered {answer.status}"
        tally.happened(f"{case.method} {case.target} {case.host!r} {case.origin!r} {case.site!r}", found)


def any_host(patch: MonkeyPatch) -> None:
    """Every Host is the studio's."""
    from studio.guard import Hosts

    patch.setattr(Hosts, "know", lambda self, host: True)


def any_origin(patch: MonkeyPatch) -> None:
    """Origin isn't looked at."""
    from studio.guard import Guard

    check = Guard._check_source

    def hosts_alone(self: Guard, scope: Any, headers: dict[str, str]) -> None:
        check(self, scope, {name: value for name, value in headers.items() if name != "origin"})

    patch.setattr(Guard, "_check_source", hosts_alone)


def any_site(patch: MonkeyPatch) -> None:
    """What a browser says of a request's site isn't believed."""
    from studio.guard import Guard

    patch.setattr(Guard, "_check_site", lambda self, scope, headers: None)


def open_sockets(patch: MonkeyPatch) -> None:
    """Web sockets pass the guard unseen, as they do where it is put on as HTTP middleware."""
    from studio.guard import Guard

    call = Guard.__call__

    async def unseen(self: Guard, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return
        await call(self, scope, receive, send)

    patch.setattr(Guard, "__call__", unseen)


PLANTS = {"any origin": any_origin, "any host": any_host, "any site": any_site, "open sockets": open_sockets}
