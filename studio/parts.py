"""Parts: what the page shows of jobs, pictures and adapters, as pieces of HTML read from the workspace.

A browser asks for a part with the hash of what it has and is answered when there is something else: all tabs
and browsers share one look at the workspace, and nothing is computed while nothing changes.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.errors import StudioError
from studio.context import Context
from studio.markup import text

log = logging.getLogger("pigment")

Wanted = tuple[str, str, str]
"""(part, key, hash of what the browser has of it)."""
Answer = dict[str, Any]
"""`{"seen": hash, "pieces": Pieces or None}`."""
Pieces = dict[str, str]
Part = Callable[[Context, str], Pieces]
"""(studio, key) → HTML by name, in the order of the page; an empty piece isn't shown. The key is what the
part is about, such as a job's id; it comes from the browser, so a part checks it."""

PARTS = {
    "run": "studio.tabs.run_card:pieces",
    "run_log": "studio.tabs.run_log:pieces",
    "dataset": "studio.tabs.dataset:pieces",
    "hint": "studio.tabs.hint:pieces",
    "drawn": "studio.tabs.drawn:pieces",
    "adapters": "studio.tabs.shelf:pieces",
    "adapter": "studio.tabs.opened:pieces",
    "bases": "studio.tabs.bases:pieces",
    "jobs": "studio.tabs.jobs_pieces:pieces",
    "job-log": "studio.tabs.jobs_pieces:log",
    "gallery": "studio.tabs.gallery_pieces:pieces",
    "gallery-picture": "studio.tabs.gallery_pieces:picture",
    "gallery-pair": "studio.tabs.gallery_pieces:pair",
    "gallery-cover": "studio.tabs.gallery_pieces:covers",
}
"""By name: the module and the function."""

LOOK = 0.4  # seconds between two looks at the workspace while somebody waits
LOGS = 1.0  # seconds between two changes of running jobs' logs that are told: each goes to every window
PATIENCE = 20.0  # seconds after which a waiting browser is answered with what it has
KEPT = 64  # computed parts


def part(name: str) -> Part:
    """The function of a part. Raises: KeyError for an unknown name."""
    module, _, function = PARTS[name].partition(":")
    found: Part = getattr(importlib.import_module(module), function)
    return found


def stamp(context: Context, db: sqlite3.Connection) -> tuple[str, str]:
    """What differs after something in the workspace has changed: its index; and a running job's log."""
    version = db.execute("PRAGMA data_version").fetchone()[0]
    running = [row[0] for row in db.execute("SELECT id FROM jobs WHERE state = 'running'")]
    sizes = []
    for job_id in running:
        try:
            sizes.append(os.stat(context.workspace.folder("runs", job_id, "events.jsonl")).st_size)
        except OSError:
            sizes.append(0)
    return json.dumps([version, running]), json.dumps(sizes)


@dataclass
class Watch:
    """One look at the workspace for all browsers that wait; rests while none does."""

    context: Context
    _db: sqlite3.Connection | None = None
    _looking: asyncio.Task[None] | None = None
    _stamp: str = ""
    _index: str = ""
    _logs: str = ""
    _told: float = 0.0
    _waiters: set[asyncio.Future[None]] = field(default_factory=set)
    _kept: OrderedDict[tuple[str, str, str], tuple[str, Pieces]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _computing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def changed(self, wanted: Sequence[Wanted], patience: float = PATIENCE) -> list[Answer]:
        """What each wanted part is, as soon as one differs from what was seen, at the latest after `patience`
        seconds, or when the server ends. Pieces are None where nothing differs."""
        loop = asyncio.get_running_loop()
        end = loop.time() + patience
        while True:
            self._look()
            stamped = self._stamp
            found = self._ready(wanted, stamped)
            if found is None:  # one computes; the others, who woke with it, find it computed
                async with self._computing:
                    found = self._ready(wanted, stamped)
                    if found is None:
                        found = await asyncio.to_thread(self._answers, wanted, stamped)
            left = end - loop.time()
            over = left <= 0 or self.context.closing.is_set()
            if over or any(answer["pieces"] is not None for answer in found):
                return found
            if self._stamp != stamped:
                continue
            waiter = loop.create_future()
            self._waiters.add(waiter)
            try:
                await asyncio.wait_for(waiter, left)
            except TimeoutError:
                pass
            finally:
                self._waiters.discard(waiter)

    def _ready(self, wanted: Sequence[Wanted], stamped: str) -> list[Answer] | None:
        """The answers, where all parts have been computed; without waiting, and so without the lock."""
        answers: list[Answer] = []
        for name, key, seen in wanted:
            kept = self._kept.get((name, key, stamped))
            if kept is None:
                return None
            answers.append({"seen": kept[0], "pieces": None if kept[0] == seen else kept[1]})
        return answers

    def _answers(self, wanted: Sequence[Wanted], stamped: str) -> list[Answer]:
        answers: list[Answer] = []
        for name, key, seen in wanted:
            try:
                found, pieces = self._computed(name, key, stamped)
            except Exception as error:
                if not isinstance(error, StudioError):
                    log.exception("part %s failed", name)
                    error = StudioError("this couldn't be shown; the server's output says why")
                pieces = {"error": f'<div class="pg-note">{text(error)}</div>'}
                found = _hash(pieces)
            answers.append({"seen": found, "pieces": None if found == seen else pieces})
        return answers

    def _look(self) -> None:
        """Read the stamp now, and keep reading it while somebody waits."""
        if self._looking is None or self._looking.done():
            self._read()
            self._looking = asyncio.create_task(self._keep_looking())

    async def _keep_looking(self) -> None:
        idle = 0
        while idle < 3:
            await asyncio.sleep(LOOK)
            idle = 0 if self._waiters else idle + 1
            before = self._stamp
            self._read()
            if self._stamp != before or self.context.closing.is_set():
                for waiter in self._waiters:
                    if not waiter.done():
                        waiter.set_result(None)

    def _read(self) -> None:
        if self._db is None:  # one connection for good: `data_version` counts what others changed since
            self._db = sqlite3.connect(self.context.workspace.index_path, timeout=10, isolation_level=None)
        try:
            index, logs = stamp(self.context, self._db)
        except sqlite3.Error:
            self._db = None
            return
        now = time.monotonic()
        if index != self._index or (logs != self._logs and now - self._told >= LOGS):
            self._index, self._logs, self._told = index, logs, now
            self._stamp = f"{index} {logs}"

    def _computed(self, name: str, key: str, stamped: str) -> tuple[str, Pieces]:
        kept = (name, key, stamped)
        with self._lock:
            if kept in self._kept:
                self._kept.move_to_end(kept)
                return self._kept[kept]
            pieces = part(name)(self.context, key)
            found = _hash(pieces), pieces
            self._kept[kept] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found


def _hash(pieces: Pieces) -> str:
    return hashlib.blake2b(json.dumps(pieces).encode(), digest_size=9).hexdigest()


def values(key: str) -> dict[str, Any]:
    """A key that holds several things, as JSON; empty where it isn't understood."""
    try:
        found = json.loads(key)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
