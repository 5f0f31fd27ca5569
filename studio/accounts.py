"""Accounts, sessions and how long to wait after a wrong password; nothing of the web in here."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path

from pipelines.errors import ConfigError

SHORTEST = 8  # characters of a password
LONGEST = 1000  # characters of a name or password, so that nothing long is looked at
IDLE, LIFE = (
    14 * 86400.0,
    90 * 86400.0,
)  # seconds: since it was used, and since it began, that a session lasts
SESSIONS = 1000  # kept at once
FREE_TRIES = 5  # wrong passwords from one address before it has to wait
FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0  # seconds; doubled at each further one
FORGET = 3600.0  # seconds without a wrong one after which an address begins anew
SIEGE, SPAN = 60, 60.0  # wrong passwords from all addresses within seconds, after which a new one has one try
MOST = 300  # wrong ones within these seconds after which only who was here before has any
ADDRESSES = 4096  # remembered


@dataclass(frozen=True)
class Accounts:
    """Names and passwords; only hashes of them are kept, under a key that ends with the process."""

    _known: Mapping[str, bytes]
    _key: bytes

    @classmethod
    def of(cls, pairs: Mapping[str, str]) -> Accounts:
        """Accounts by name and password."""
        key = secrets.token_bytes(32)
        return cls({name: _digest(key, password) for name, password in pairs.items()}, key)

    @classmethod
    def read(cls, auth: str) -> Accounts:
        """From `user:password`, or a file with one such line for each account; `#` begins a remark.

        Raises:
            ConfigError: it is neither, or a password is too short.
        """
        path = Path(auth).expanduser()
        if len(auth) < 4096 and path.is_file():
            _warn_if_open(path)
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            lines = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
            if not lines:
                raise ConfigError(f"{path} names nobody; write a line user:password for each account")
            return cls.of(
                dict(_pair(line, f"line {number} of {path}") for number, line in enumerate(lines, 1))
            )
        if ":" not in auth:
            raise ConfigError(f"--auth is neither user:password nor a file that is there ({auth[:80]!r})")
        return cls.of(dict([_pair(auth, "--auth")]))

    @property
    def names(self) -> tuple[str, ...]:
        """Whose they are, in the order in which they were named."""
        return tuple(self._known)

    def know(self, name: str, password: str) -> bool:
        """Whether that is somebody's password; takes as long for a name that nobody has."""
        given = _digest(self._key, password)
        return hmac.compare_digest(self._known.get(name, b"\0" * len(given)), given)


def _digest(key: bytes, password: str) -> bytes:
    return hmac.digest(key, password.encode("utf-8", "replace"), "sha256")


def _pair(line: str, where: str) -> tuple[str, str]:
    name, colon, password = line.partition(":")
    if not colon or not name.strip() or len(line) > LONGEST:
        raise ConfigError(f"{where} isn't of the form user:password")
    if len(password) < SHORTEST:
        raise ConfigError(
            f"the password of {name.strip()[:40]!r} has {len(password)} characters; "
            f"choose one of {SHORTEST} at least"
        )
    return name.strip(), password


def _warn_if_open(path: Path) -> None:
    if os.name == "posix" and path.stat().st_mode & 0o077:
        print(f"warning: others can read the passwords in {path}: chmod 600 {path}", file=sys.stderr)


LEVELS = ((32, 64, FREE_TRIES), (24, 48, 20))
"""Networks that an address belongs to: bits of an IPv4 and of an IPv6 one, and free tries. The narrow one is
one person's; the wider one is what anybody gets many addresses of."""


@dataclass(frozen=True)
class _Wrong:
    """Wrong passwords of a network: how many, when the last was, and whose they were; None: of several."""

    count: int
    last: float
    name: str | None


@dataclass
class Throttle:
    """How long who gives a name has to wait after wrong passwords from the same address or network.

    Nobody can lock others out from elsewhere: after many wrong ones from everywhere an address that is new
    has one try instead of five, and after very many none; but where a name has logged in before it still can.

    Attributes:
        clock: seconds, only ever growing.
    """

    clock: Callable[[], float] = time.monotonic
    _wrong: OrderedDict[str, _Wrong] = field(default_factory=OrderedDict)
    _known: OrderedDict[tuple[str, str], None] = field(default_factory=OrderedDict)
    _all: deque[float] = field(default_factory=lambda: deque(maxlen=MOST))

    def wait(self, address: str, name: str) -> float:
        """Seconds until `name` may be tried again from an address; 0 when it may be now."""
        now, (own, wide) = self.clock(), _networks(address)
        if (own, name) in self._known:
            return max(0.0, self._pause(own, LEVELS[0][2], now))
        siege = len(self._all) >= SIEGE and now - self._all[-SIEGE] < SPAN
        waits = [self._pause(own, 1 if siege else LEVELS[0][2], now), self._pause(wide, LEVELS[1][2], now)]
        if len(self._all) == MOST:
            waits.append(self._all[0] + SPAN - now)
        return max(0.0, *waits)

    def _pause(self, network: str, free: int, now: float) -> float:
        found = self._wrong.get(network)
        if found is None or found.count < free or now - found.last >= FORGET:
            return 0.0
        pause = FIRST_WAIT * 2.0 ** min(found.count - free, 30)
        if free == 1:
            pause = LONGEST_WAIT
        return found.last + min(LONGEST_WAIT, pause) - now

    def wrong(self, address: str, name: str) -> None:
        """Count a wrong password."""
        now = self.clock()
        for network in _networks(address):
            before = self._wrong.pop(network, None)
            if before is None or now - before.last >= FORGET:
                self._wrong[network] = _Wrong(1, now, name)
            else:
                whose = name if before.name == name else None
                self._wrong[network] = _Wrong(before.count + 1, now, whose)
        while len(self._wrong) > ADDRESSES:
            self._wrong.popitem(last=False)
        self._all.append(now)

    def right(self, address: str, name: str) -> None:
        """Forget an address's wrong ones, where they were all for this name: with an account of their own
        nobody gets more tries at another's."""
        own = _networks(address)[0]
        if own in self._wrong and self._wrong[own].name == name:
            del self._wrong[own]
        self._known[own, name] = None
        self._known.move_to_end((own, name))
        while len(self._known) > ADDRESSES:
            self._known.popitem(last=False)


def _networks(address: str) -> tuple[str, str]:
    """The narrow and the wide network of an address (see LEVELS)."""
    try:
        known = ip_address(address)
    except ValueError:
        return address[:64], f"{address[:64]}/"
    if isinstance(known, IPv6Address):
        known = known.ipv4_mapped or known  # how a socket of both kinds says an IPv4 one
    bits = [level[isinstance(known, IPv6Address)] for level in LEVELS]
    own, wide = (str(ip_network(f"{known}/{one}", strict=False)) for one in bits)
    return own, wide


@dataclass
class Sessions:
    """Who is logged in, by hashes of the cookies; they end with the process."""

    clock: Callable[[], float] = time.monotonic
    _open: OrderedDict[bytes, tuple[str, float, float]] = field(default_factory=OrderedDict)

    def begin(self, name: str) -> str:
        """Open a session; returns its token."""
        token, now = secrets.token_urlsafe(32), self.clock()
        self._open[_hashed(token)] = (name, now, now)
        while len(self._open) > SESSIONS:
            self._open.popitem(last=False)
        return token

    def user(self, token: str) -> str | None:
        """Whose session it is; None when it is nobody's or has ended."""
        key, now = _hashed(token), self.clock()
        found = self._open.get(key)
        if found is None:
            return None
        name, began, used = found
        if now - used > IDLE or now - began > LIFE:
            del self._open[key]
            return None
        self._open[key] = (name, began, now)
        self._open.move_to_end(key)
        return name

    def end(self, token: str) -> None:
        """Close a session."""
        self._open.pop(_hashed(token), None)


def _hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
