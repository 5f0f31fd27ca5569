"""The door: how many passwords can be tried in an hour, and whom that keeps out."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.faults.access_client import Answer, Ask, asked, formed
from tests.faults.access_world import PASSWORDS
from tests.faults.suites import Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

HOUR = 3600.0
ALONE = 30  # passwords an hour that one address may try
EVERYWHERE = 20_000  # and all addresses together, however many
Addresses = Callable[[int], str]


@dataclass
class Clock:
    """Seconds, as a test lets them pass."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Door:
    """The real guard and login with nothing behind them, and the clock of both."""

    clock: Clock = field(default_factory=Clock)
    root: str = ""

    def __post_init__(self) -> None:
        from studio.accounts import Accounts, Sessions, Throttle
        from studio.guard import Guard, Hosts
        from studio.login import Login

        self.login = Login(Accounts.of(PASSWORDS), "pigment", Sessions(self.clock), Throttle(self.clock))
        self.app = Guard(inside, Hosts.of("127.0.0.1"), self.login, self.root)

    async def try_(
        self, name: str, password: str, address: str = "10.0.0.1", *, basic: bool = False
    ) -> Answer:
        """Try a password, by the login page's form or as a command does."""
        if not basic:
            return await asked(self.app, formed("/login", {"username": name, "password": password}), address)
        pair = base64.b64encode(f"{name}:{password}".encode()).decode()
        return await asked(self.app, Ask("GET", "/x", (("authorization", f"Basic {pair}"),)), address)

    async def user(self, cookie: str) -> str:
        """Who somebody with a cookie is; empty: nobody."""
        answer = await asked(self.app, Ask("GET", "/x", (("cookie", cookie),)))
        return answer.body.decode() if answer.status == 200 else ""


async def inside(scope: Any, receive: Any, send: Any) -> None:
    """Says who has come in."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["pigment.user"].encode()})


@dataclass(frozen=True)
class Guesser:
    """Somebody who guesses for an hour.

    Attributes:
        address: where the try of a number comes from. tries: how many there are.
        most: guesses that may be looked at.
        own: has an account too, and logs in with it after each guess.
        out: of twenty times that ana comes from an address where she never was, how often she may be kept
            out; where she was before she never is.
    """

    address: Addresses
    tries: int
    most: int
    own: bool = False
    out: int = 0


FROM: dict[str, Guesser] = {
    "one address": Guesser(lambda number: "10.0.0.1", 2000, ALONE),
    "one address, and an account": Guesser(lambda number: "10.0.0.1", 2000, ALONE, own=True),
    "one network of IPv6": Guesser(lambda number: f"2001:db8::{number:x}", 2000, ALONE),
    "one address, at a socket for both kinds": Guesser(lambda number: "::ffff:10.0.0.1", 2000, ALONE),
    "a /48 of IPv6": Guesser(lambda number: f"2001:db8:0:{number:x}::1", 2000, 2 * ALONE),
    "a /24": Guesser(lambda number: f"10.0.0.{number % 256}", 2000, 2 * ALONE),
    "a hundred places": Guesser(lambda number: f"{number % 100 + 11}.1.9.9", 2000, EVERYWHERE),
    "a hundred places, and an account": Guesser(
        lambda number: f"{number % 100 + 11}.1.9.9", 2000, EVERYWHERE, own=True
    ),
    "ever new places": Guesser(
        lambda number: f"{number // 250 + 11}.{number % 250}.9.9", 25_000, EVERYWHERE, out=20
    ),
}


def guessed(guesser: Guesser) -> tuple[int, int, int]:
    """Guess for an hour; (guesses looked at, times that ana was kept out of an old place, of a new one)."""
    from studio.guard import Refusal

    door = Door()
    looked, old, new = 0, 0, 0

    def check(name: str, password: str, address: str) -> bool | None:
        try:
            return bool(door.login.check(name, password, address))
        except Refusal:
            return None

    assert check("ana", PASSWORDS["ana"], "192.0.2.7")
    for number in range(guesser.tries):
        door.clock.now += HOUR / guesser.tries
        looked += check("ana", f"guess {number}", guesser.address(number)) is not None
        if guesser.own:
            check("ben", PASSWORDS["ben"], guesser.address(number))
        if number % (guesser.tries // 20) == guesser.tries // 40:  # every three minutes
            old += check("ana", PASSWORDS["ana"], "192.0.2.7") is not True
            new += check("ana", PASSWORDS["ana"], f"198.51.{number % 100}.7") is not True
    return looked, old, new


def guessing_run(task: Task, tally: Tally) -> None:
    """Guess from everywhere; each way is one fault."""
    for number in range(task.count):
        where, guesser = list(FROM.items())[number % len(FROM)]
        looked, old, new = guessed(guesser)
        problem = f"{looked} guesses an hour were looked at" if looked > guesser.most else None
        if old or new > guesser.out:
            problem = f"ana was kept out {old} times of a place that she uses, {new} times of a new one"
        tally.happened(f"guessing from {where}", problem)
        tally.measured(f"guesses an hour from {where}", looked)


# ── Safeguards taken away


def no_waiting(patch: MonkeyPatch) -> None:
    """Wrong passwords cost nothing."""
    from studio.accounts import Throttle

    patch.setattr(Throttle, "wait", lambda self, address, name: 0.0)


def all_wait(patch: MonkeyPatch) -> None:
    """After sixty wrong passwords within a minute everybody waits, as it was."""
    from studio import accounts

    def wait(self: Any, address: str, name: str) -> float:
        full = len(self._all) >= accounts.SIEGE
        return max(0.0, self._all[-accounts.SIEGE] + accounts.SPAN - self.clock()) if full else 0.0

    patch.setattr(accounts.Throttle, "wait", wait)


def forgetful(patch: MonkeyPatch) -> None:
    """A right password takes all wrong ones back, whosever they were."""
    from studio.accounts import Throttle, _networks

    patch.setattr(Throttle, "right", lambda self, address, name: self._wrong.pop(_networks(address)[0], None))


PLANTS = {"all wait": all_wait, "no waiting": no_waiting, "forgetful": forgetful}
