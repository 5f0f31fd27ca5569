"""Work that SIGKILL ends somewhere: at a call that makes something last, shortly after it, or whenever.

The work runs in a fork of this process: what it needs is imported once, and a dead fork is as dead as a
process after `kill -9`. Nothing here may have started a GPU or threads that compute before.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

CALLS = ("fsync", "rename", "replace", "unlink", "remove", "rmdir", "link")
"""Functions of `os` after which something lasts; SQLite's statements that write are the others."""
HUNG = 1800.0  # seconds, after which a fork counts as one that hangs
_READING = ("SELECT", "PRAGMA")


@dataclass(frozen=True)
class Kill:
    """When to kill.

    Attributes:
        at: at the n-th (from 1) call that makes something last; 0: not by calls. late: seconds after it
            began; 0: before it does anything.
        after: seconds after the work began; None: not by time.
    """

    at: int = 0
    late: float = 0.0
    after: float | None = None

    def __str__(self) -> str:
        if self.after is not None:
            return f"killed after {self.after:.3f} s"
        return f"killed {f'{self.late * 1000:.2f} ms after' if self.late else 'before'} call {self.at}"


@dataclass(frozen=True)
class Call:
    """A call that made something last. window: within one of the functions asked for. at: seconds."""

    name: str
    window: bool
    at: float


@dataclass
class Ended:
    """What became of a fork.

    Attributes:
        killed: SIGKILL has ended it. failed: the exception it ended with, or what else went wrong.
        told: what it told while it worked. answer: what it returned; None where it didn't end by itself.
        calls: where it ended by itself. seconds: of the work.
    """

    killed: bool = False
    failed: str = ""
    told: list[Any] = field(default_factory=list)
    answer: Any = None
    calls: list[Call] = field(default_factory=list)
    seconds: float = 0.0


Tell = Callable[[Any], None]
"""Tells a JSON value to the process outside: from then on the work has said that something is done."""


def unfit() -> str | None:
    """Why nothing can be forked off here, or None."""
    if not hasattr(os, "fork"):
        return "needs fork and SIGKILL"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "a GPU is in use by this process, which can't be forked then"
    return None


@dataclass
class _Armed:
    """Counts the calls of this process, and has it killed at one."""

    kill: Kill
    say: Callable[[dict[str, Any]], None]
    within: Sequence[CodeType]
    calls: list[Call] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def count(self, name: str) -> None:
        """Take note of a call that is about to happen."""
        frame, window = sys._getframe(2), False
        while frame is not None and self.within and not window:
            window = frame.f_code in self.within
            frame = frame.f_back  # type: ignore[assignment]
        self.calls.append(Call(name, window, time.monotonic() - self.began))
        if len(self.calls) == self.kill.at:
            if not self.kill.late:
                os.kill(os.getpid(), signal.SIGKILL)
            self.say({"at": True})

    def arm(self) -> None:
        """Count from now on."""
        for name in CALLS:
            setattr(os, name, self._counted(getattr(os, name), name))
        armed, connect = self, sqlite3.connect

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
                if not sql.lstrip().upper().startswith(_READING):
                    armed.count(f"sqlite {sql.split(maxsplit=1)[0] if sql.strip() else ''}")
                return super().execute(sql, *more)

            def executemany(self, sql: str, *more: Any) -> sqlite3.Cursor:
                armed.count(f"sqlite {sql.split(maxsplit=1)[0]} many")
                return super().executemany(sql, *more)

        def connected(*arguments: Any, **more: Any) -> sqlite3.Connection:
            return connect(*arguments, **{"factory": Connection, **more})

        sqlite3.connect = connected  # type: ignore[assignment]

    def _counted(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            what = arguments[0] if arguments else ""
            shown = Path(os.fsdecode(what)).name if isinstance(what, str | bytes | os.PathLike) else ""
            self.count(f"{name} {shown}".strip())
            return real(*arguments, **more)

        return counted


def forked(work: Callable[[Tell], Any], kill: Kill | None = None, within: Sequence[CodeType] = ()) -> Ended:
    """Do work in a fork, killed as asked, and say what became of it.

    within: functions' code; a call below one of them is in the window. The work's answer is a JSON value.
    """
    kill = kill or Kill()
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(readable)
            _child(work, kill, writable, within)
        finally:
            os._exit(0)
    os.close(writable)
    try:
        return _watched(pid, readable, kill)
    finally:
        os.close(readable)


def _child(work: Callable[[Tell], Any], kill: Kill, pipe: int, within: Sequence[CodeType]) -> None:
    """What the fork does: work, and tell."""
    silent = os.open(os.devnull, os.O_RDWR)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)

    def say(said: dict[str, Any]) -> None:
        os.write(pipe, json.dumps(said).encode() + b"\n")

    armed = _Armed(kill, say, within)
    armed.arm()
    say({"begun": True})
    armed.began = time.monotonic()
    try:
        answer = work(lambda value: say({"told": value}))
        seconds = time.monotonic() - armed.began
        calls = [[one.name, one.window, one.at] for one in armed.calls]
        say({"answer": answer, "seconds": seconds, "calls": calls})
    except BaseException:
        say({"failed": traceback.format_exc()[-2000:]})


def _watched(pid: int, pipe: int, kill: Kill) -> Ended:
    """Read what a fork says until it is gone, and kill it when its time has come."""
    ended, left, hung = Ended(), b"", time.monotonic() + HUNG
    deadline = hung
    while True:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            if deadline == hung:
                ended.failed = f"hangs: nothing after {HUNG:.0f} s"
            os.kill(pid, signal.SIGKILL)
            deadline = hung = time.monotonic() + HUNG
            continue
        piece = os.read(pipe, 1 << 16)
        if not piece:
            break
        *lines, left = (left + piece).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "begun" in said and kill.after is not None:
                deadline = time.monotonic() + kill.after
            elif "at" in said:
                deadline = time.monotonic() + kill.late
            _take_in(ended, said)
    _, status = os.waitpid(pid, 0)
    ended.killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not ended.killed and not ended.failed and not ended.seconds:
        ended.failed = f"ended without a word (status {status})"
    return ended


def _take_in(ended: Ended, said: dict[str, Any]) -> None:
    if "told" in said:
        ended.told.append(said["told"])
    ended.failed = said.get("failed", ended.failed)
    if "calls" in said:
        ended.answer, ended.seconds = said["answer"], said["seconds"]
        ended.calls = [Call(*one) for one in said["calls"]]


def moments(whole: Ended, count: int, chance: random.Random) -> Iterator[Kill]:
    """Random moments of a work that was once done whole: every second one within its window.

    There it comes at a call or anywhere until the next one; else at any time. Without a window all calls
    are one. More come than were asked for, since a kill may miss.
    """
    numbers = [number for number, call in enumerate(whole.calls, 1) if call.window]
    numbers = numbers or list(range(1, len(whole.calls) + 1))
    for index in range(3 * count):
        if index % 2 or not numbers:
            yield Kill(after=chance.uniform(0.0, 0.95) * whole.seconds)
            continue
        number = chance.choice(numbers)
        begin = whole.calls[number - 1]
        next_one = whole.calls[number] if number < len(whole.calls) else begin
        gap = next_one.at - begin.at if next_one.window == begin.window else 0.005
        yield Kill(at=number, late=chance.choice((0.0, chance.uniform(0.0, max(gap, 1e-4)))))


def each_call(whole: Ended, count: int, chance: random.Random) -> Iterator[Kill]:
    """So many of the calls of a work that was once done whole, evenly; all of them, then random moments."""
    total = len(whole.calls)
    if count < total:
        # Halves of equal parts of the row, so that a few kills lie far apart.
        yield from (Kill(at=1 + (2 * index + 1) * total // (2 * count)) for index in range(count))
    else:
        yield from (Kill(at=number) for number in range(1, total + 1))
    yield from moments(whole, max(count, 1), chance)
