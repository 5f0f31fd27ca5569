"""Rooms: every account has a workspace, a queue and a page of its own, in one server and on one device.

The machine's own person, which is the account named first, has the workspace itself. Each further account has
`accounts/<id>/` in it, a whole workspace; `accounts/<id>.txt` says whose it is. An account that has a room
keeps it, whoever is named first later.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.errors import StudioError
from studio.bases import BaseOptions, Bases
from studio.context import Context
from studio.guard import Refusal
from studio.runner import Runner
from studio.turns import Turns
from studio.workspace import ROOMS, Workspace

log = logging.getLogger("pigment")

OWNER = "owner"
"""The setting of the machine's workspace: the name of the account that has it."""


def room_id(name: str) -> str:
    """The folder of an account, by its name."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def owner_of(machine: Workspace, names: Sequence[str]) -> str:
    """Which account has the machine's workspace; empty: none of these.

    The one that had it last; else the one named first, if it has no room of its own. It is remembered. Nobody
    else gets it, for what lies in it may be somebody's who isn't named any more.
    """
    last = str(machine.setting(OWNER, ""))
    if last in names:
        return last
    if (machine.root / ROOMS / room_id(names[0])).exists():
        log.warning("the workspace itself was %r’s, who isn’t among the accounts; nobody sees it now", last)
        return ""
    machine.remember(OWNER, names[0])
    return names[0]


def open_room(machine: Workspace, name: str, note: str = "") -> Workspace:
    """The workspace of a further account, made where it is missing, and owned by this process.

    Raises: see `Workspace.open`.
    """
    rooms = machine.root / ROOMS
    rooms.mkdir(mode=0o700, exist_ok=True)
    opened = Workspace.open(rooms / room_id(name), note=note)
    told = rooms / f"{room_id(name)}.txt"
    if not told.exists():
        told.write_text(f"{name}\n", encoding="utf-8")
    return opened


@dataclass(eq=False)
class Room:
    """An account's part of the server. Its queue begins when it is first needed.

    Attributes:
        make: builds the web application; see `studio.server.make_app`.
        app: None until it is built.
    """

    context: Context
    make: Callable[[Context], Any]
    app: Any = None
    _begun: bool = False
    _serving: asyncio.Task[None] | None = None
    _living: asyncio.Task[None] | None = None
    _ending: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self) -> None:
        """Begin with the queue."""
        if not self._begun:
            self.context.library.add_examples()
            self.context.runner.start()
            self._begun = True

    async def ready(self, open: Callable[[Room], None]) -> None:
        """Wait until the room answers. open: prepares it, in a thread."""
        if self._serving is None or (self._serving.done() and self._serving.exception() is not None):
            self._serving = asyncio.create_task(self._serve(open))
        await asyncio.shield(self._serving)

    async def _serve(self, open: Callable[[Room], None]) -> None:
        await asyncio.to_thread(open, self)
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._living = asyncio.create_task(self._live(begun))
        await begun

    async def _live(self, begun: asyncio.Future[None]) -> None:
        """The lifespan of the application; in a task of its own, for each has to be left where it was
        entered."""
        try:
            async with self.app.router.lifespan_context(self.app):
                begun.set_result(None)
                await self._ending.wait()
        except Exception as error:
            if begun.done():
                raise
            begun.set_exception(error)

    async def leave(self) -> None:
        """End the application's lifespan."""
        self._ending.set()
        if self._living is not None:
            await asyncio.gather(self._living, return_exceptions=True)

    def stop_streams(self) -> None:
        """Let go who waits for news; called by the event loop."""
        self.context.closing.set()
        if self.app is not None:
            self.app.state.gradio.stop_event.set()


class Rooms:
    """ASGI application that hands each request to the room of whoever is logged in."""

    def __init__(
        self,
        machine: Workspace,
        make: Callable[[Context], Any],
        *,
        names: Sequence[str] = (),
        base: str = "",
        options: BaseOptions | None = None,
        note: str = "",
    ) -> None:
        """names: of the accounts, in order; none: nobody logs in. base, options: see `Context`. make: see
        `Room`. note: written into the locks of the rooms.

        Raises:
            StudioError: a room can't be opened, or another process uses it.
        """
        self._given = base, options or BaseOptions()
        self._make, self._turns, self._runs = make, Turns(), False
        self._building = threading.Lock()
        self.machine = self._room(machine, alone=not names, warm=True)
        self._of: dict[str | None, Room] = {} if names else {None: self.machine}
        owner = owner_of(machine, names) if names else ""
        try:
            for name in names:
                self._of[name] = self.machine if name == owner else self._room(open_room(machine, name, note))
        except BaseException:
            self.close()
            raise

    def _room(self, workspace: Workspace, *, alone: bool = False, warm: bool = False) -> Room:
        base, options = self._given
        used = base or Bases(workspace).in_use()[1]
        runner = Runner(workspace, base=used, options=options, warm=warm, turns=self._turns)
        return Room(Context(workspace, runner, base, options, alone=alone), self._make)

    @property
    def others(self) -> list[Room]:
        """All but the machine's."""
        return [room for room in self._of.values() if room is not self.machine]

    def room(self, name: str) -> Room:
        """The room of an account."""
        return self._of[name]

    def begin(self) -> None:
        """Begin with the machine's queue, and with those of rooms that have something in it."""
        self._runs = True
        self.machine.begin()
        for room in self.others:
            counts = room.context.jobs.counts()
            if counts["queued"] or counts["running"]:
                room.begin()

    def build(self) -> None:
        """Build the pages of all rooms, before the first of them answers.

        What Gradio builds is noted in one place per process: what a listener of one room answers meanwhile
        would get into the page of another.
        """
        with self._building:
            for room in self._all():
                if room.app is None:
                    room.app = room.make(room.context)

    def _open(self, room: Room) -> None:
        self.build()
        if self._runs:
            room.begin()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request. Raises: Refusal: whose it is isn't known, or the room can't be opened."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        room = self._of.get(scope.get("pigment.user"))
        if room is None:
            raise Refusal(403, "refused: this account has no room here")
        try:
            await room.ready(self._open)
        except Exception as error:
            log.error("a room can't be opened", exc_info=error)
            why = str(error) if isinstance(error, StudioError) else "something is wrong where Pigment runs"
            raise Refusal(503, f"the page can't be opened now: {why}; try again") from None
        await room.app(scope, receive, send)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        try:
            await self.machine.ready(self._open)
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.gather(*(room.leave() for room in self._all()))
        await send({"type": "lifespan.shutdown.complete"})

    def _all(self) -> Iterable[Room]:
        return [self.machine, *self.others]

    def stop_streams(self) -> None:
        """See `Room.stop_streams`."""
        for room in self._all():
            room.stop_streams()

    def begin_closing(self) -> None:
        """Begin nothing any more in any queue, and ask what runs to stop."""
        for room in self._all():
            room.context.runner.begin_closing()

    def close(self) -> None:
        """End all queues and give the rooms back; the machine's workspace stays whoever's opened it."""
        self.begin_closing()
        for room in self._all():
            room.context.runner.close()
        for room in self.others:
            room.context.workspace.close()
