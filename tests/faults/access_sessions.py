"""Sessions: another's can't be planted, taken over or forged, and they end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.faults.access_client import Ask, asked, formed, logged_in
from tests.faults.access_logins import Door
from tests.faults.access_world import PASSWORDS
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch


async def _fixation(door: Door, chance: random.Random) -> str | None:
    """A cookie that somebody else has put into the browser isn't the session that the login begins."""
    planted = f"pigment={chance.randbytes(32).hex()}"
    answer = await asked(
        door.app, formed("/login", {"username": "ana", "password": PASSWORDS["ana"]}, ("cookie", planted))
    )
    cookie = answer.header("set-cookie").partition(";")[0]
    if cookie == planted or await door.user(planted):
        return "the planted cookie is logged in"
    return None if await door.user(cookie) == "ana" else "the login didn't work"


async def _taken_over(door: Door, chance: random.Random) -> str | None:
    """Somebody's own session isn't the one of who logs in after them in the same browser."""
    first = await logged_in(door.app, "ben", PASSWORDS["ben"])
    answer = await asked(
        door.app, formed("/login", {"username": "ana", "password": PASSWORDS["ana"]}, ("cookie", first))
    )
    second = answer.header("set-cookie").partition(";")[0]
    if second == first or await door.user(first):
        return "the session before the login goes on"
    return None if await door.user(second) == "ana" else "the login didn't work"


async def _flags(door: Door, chance: random.Random) -> str | None:
    """No script reads the cookie, no other site's page sends it; over HTTPS alone where it began there."""
    ask = formed("/login", {"username": "ana", "password": PASSWORDS["ana"]})
    plain = (await asked(door.app, ask)).header("set-cookie").lower()

    async def https(scope: Any, receive: Any, send: Any) -> None:
        await door.app({**scope, "scheme": "https"}, receive, send)

    secure = (await asked(https, ask)).header("set-cookie").lower()
    wanted = {"httponly": plain, "samesite=lax": plain, "path=/": plain, "secure": secure}
    missing = [flag for flag, cookie in wanted.items() if flag not in cookie]
    return f"the cookie lacks {', '.join(missing)}" if missing else None


async def _leaving(door: Door, chance: random.Random) -> str | None:
    """After the logout the cookie is nobody's, and a link on another page can't log out."""
    cookie = await logged_in(door.app, "ana", PASSWORDS["ana"])
    await asked(door.app, Ask("GET", "/logout", (("cookie", cookie),)))
    if not await door.user(cookie):
        return "a link logs out"
    await asked(door.app, Ask("POST", "/logout", (("cookie", cookie),)))
    return "the session goes on after the logout" if await door.user(cookie) else None


async def _forged(door: Door, chance: random.Random) -> str | None:
    """A token that is nearly a session's is nobody's."""
    cookie = await logged_in(door.app, "ana", PASSWORDS["ana"])
    name, _, token = cookie.partition("=")
    place = chance.randrange(len(token))
    letter = "A" if token[place] != "A" else "B"
    others = [
        token[:-1], token + "A", token.swapcase(), token[:place] + letter + token[place + 1 :],
        "", "ana", "None", "0" * len(token), chance.randbytes(32).hex(), f"ana:{token}", token[::-1],
    ]  # fmt: skip
    for other in others:
        if found := await door.user(f"{name}={other}"):
            return f"the token {other[:12]!r}… is {found}'s"
    return None


async def _ending(door: Door, chance: random.Random) -> str | None:
    """A session that isn't used for weeks has ended."""
    cookie = await logged_in(door.app, "ana", PASSWORDS["ana"])
    door.clock.now += 15 * 86400
    return "a session that was forgotten goes on" if await door.user(cookie) else None


async def _told(door: Door, chance: random.Random) -> str | None:
    """A wrong name is answered as a wrong password is, and a right password as a wrong one while waiting."""
    name = chance.randbytes(4).hex()
    for html in ((), (("accept", "text/html"),)):
        said = [
            await asked(
                door.app, formed("/login", {"username": one, "password": "wrong"}, *html), f"10.9.{number}.1"
            )
            for number, one in enumerate(("ana", name))
        ]
        bodies = {answer.body.replace(b"ana", b"").replace(name.encode(), b"") for answer in said}
        if len({answer.status for answer in said}) > 1 or len(bodies) > 1:
            return "a name that is nobody's is told from one that is somebody's"
    for _ in range(8):
        await door.try_("ana", "wrong", "10.8.0.1", basic=True)
    waiting = [await door.try_("ana", word, "10.8.0.1") for word in ("wrong", PASSWORDS["ana"])]
    return (
        None if [one.status for one in waiting] == [429, 429] else "who waits learns which password is right"
    )


KINDS: dict[str, Callable[[Door, random.Random], Any]] = {
    "fixation": _fixation, "taken over": _taken_over, "flags": _flags, "leaving": _leaving, "forged": _forged,
    "ending": _ending, "told": _told,
}  # fmt: skip


def sessions_run(task: Task, tally: Tally) -> None:
    """Each way to have another's session, again and again."""
    chance = random.Random(task.seed)
    for number in range(task.count):
        kind = list(KINDS)[number % len(KINDS)]
        tally.happened(kind, asyncio.run(KINDS[kind](Door(), chance)))


# ── Safeguards taken away


def adopting(patch: MonkeyPatch) -> None:
    """Sessions don't end where a new one begins, nor at the logout."""
    from studio.accounts import Sessions

    patch.setattr(Sessions, "end", lambda self, token: None)


def open_cookie(patch: MonkeyPatch) -> None:
    """Scripts may read the cookie."""
    from starlette.responses import Response

    set_cookie = Response.set_cookie

    def bare(self: Any, *args: Any, **options: Any) -> None:
        set_cookie(self, *args, **{**options, "httponly": False})

    patch.setattr(Response, "set_cookie", bare)


def endless(patch: MonkeyPatch) -> None:
    """Sessions last for good."""
    from studio import accounts

    patch.setattr(accounts, "IDLE", 1e9)
    patch.setattr(accounts, "LIFE", 1e9)


PLANTS = {"adopting": adopting, "open cookie": open_cookie, "endless": endless}
