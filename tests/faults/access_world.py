"""The whole studio with two accounts in this process, asked as uvicorn would; nothing is drawn or taught."""

from __future__ import annotations

import asyncio
import atexit
import functools
import tempfile
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pytest import MonkeyPatch

from tests.faults import access_things
from tests.faults.access_client import Answer, Ask, asked, logged_in, upload
from tests.faults.access_things import Things
from tests.faults.suites import Tally, Task

T = TypeVar("T")
PASSWORDS = {"ana": "correct horse", "ben": "battery staple"}
"""The machine's own person first, whose room is the workspace itself."""
NAMES = {"A": "ana", "B": "ben"}
FOLDER = "pigment-access-"


@dataclass
class World:
    """A studio that listens.

    Attributes:
        app: what uvicorn would be given. rooms: A's and B's own app in it.
        secret: a file outside of the workspace. system: the word in it.
        cookies: of A and B, who have logged in; a Cookie header's value each.
        links: addresses that lead to `secret` by links in A's workspace.
        holder, inside: its folder, and its `studio.rooms.Rooms`.
        over, living: ends its life, and the task of that.
    """

    root: Path
    app: Any
    rooms: dict[str, Any]
    secret: Path
    system: str
    things: dict[str, Things]
    links: dict[str, str]
    holder: Any
    inside: Any
    cookies: dict[str, str] = field(default_factory=dict)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    living: Any = None

    async def ask(self, ask: Ask, who: str = "") -> Answer:
        """Ask as A, B or nobody."""
        return await asked(self.app, ask.but(("cookie", self.cookies[who])) if who else ask)


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The loop that all of a process's studios run in."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="access", daemon=True).start()
    return loop


def run(job: Coroutine[Any, Any, T]) -> T:
    """Do something in the studios' loop, wait for it."""
    return asyncio.run_coroutine_threadsafe(job, _loop()).result()


def quietly(check: Callable[[Task, Tally], None]) -> Callable[[Task, Tally], None]:
    """A check during which nothing that isn't under test starts processes: drawing, decoding, the queue."""

    @functools.wraps(check)
    def checked(task: Task, tally: Tally) -> None:
        with MonkeyPatch.context() as patch:
            patch.setenv(
                "GRADIO_TEMP_DIR", str(task.folder)
            )  # and what the studio sets instead is taken back
            patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
            _quiet(patch)
            try:
                check(task, tally)
            finally:
                _end(*_SHARED.values())

    return checked


def _quiet(patch: MonkeyPatch) -> None:
    from pipelines.errors import Busy
    from studio import decoder, warm
    from studio.decoding import decode
    from studio.runner import Runner

    def busy(*_: object, **__: object) -> Any:
        raise Busy("something else has the device; try again after it")

    def decoded(self: object, path: Path, preview: Path | None) -> dict[str, Any]:
        try:
            return dict(decode(path, preview))
        except Exception as error:
            return {"error": str(error)}

    patch.setattr(warm.MakerProcess, "_running", busy)
    patch.setattr(decoder.Decoder, "ask", decoded)
    patch.setattr(Runner, "start", lambda self: None)


def assemble(root: Path) -> tuple[Any, Any]:
    """The app that uvicorn would be given, and the rooms in it."""
    from studio.accounts import Accounts
    from studio.assets import Assets
    from studio.guard import Guard, Hosts
    from studio.login import Login
    from studio.rooms import Rooms
    from studio.server import frontend, make_app
    from studio.workspace import Workspace

    make = functools.partial(make_app, accounts=True)
    rooms = Rooms(Workspace.open(root), make, names=tuple(PASSWORDS))
    guard = Guard(Assets(rooms, frontend()), Hosts.of("127.0.0.1"), Login(Accounts.of(PASSWORDS)))
    return guard, rooms


async def _live(made: World) -> None:
    """Begin the app's life, as a server does; it ends with `made.over`."""
    begun: asyncio.Queue[str] = asyncio.Queue()
    told = [{"type": "lifespan.startup"}]

    async def receive() -> dict[str, Any]:
        if told:
            return told.pop()
        await made.over.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: dict[str, Any]) -> None:
        begun.put_nowait(message["type"])

    scope = {"type": "lifespan", "state": {}, "asgi": {"version": "3.0"}}
    made.living = asyncio.ensure_future(made.app(scope, receive, send))
    assert await begun.get() == "lifespan.startup.complete"


async def _leave(made: World) -> None:
    made.over.set()
    if made.living is not None:
        await made.living
    made.inside.close()
    made.inside.machine.context.workspace.close()
    made.holder.cleanup()


_WORLDS: dict[
    str, World
] = {}  # the one that checks share; plants that act while it is made put their own here


_SHARED = _WORLDS
_MADE: list[World] = []  # all that live


def world() -> World:
    """The studio that a process's checks share."""
    if "shared" not in _WORLDS:
        _WORLDS["shared"] = made_anew()
    return _WORLDS["shared"]


def _end(*keep: World) -> None:
    """End all studios but some."""
    for made in [one for one in _MADE if not any(one is other for other in keep)]:
        _MADE[:] = [one for one in _MADE if one is not made]
        run(_leave(made))


atexit.register(_end)


def made_anew() -> World:
    """A studio of two accounts, with A's and B's things in it."""
    holder = tempfile.TemporaryDirectory(prefix=FOLDER)
    folder = Path(holder.name).resolve()
    root = folder / "workspace"
    app, rooms = assemble(root)
    secret, system = access_things.system(folder)
    of = {who: rooms.room(name) for who, name in NAMES.items()}
    things = {who: access_things.fill(of[who].context.workspace.root, who) for who in NAMES}
    mine = things["A"]
    found = access_things.links(mine.root, secret, mine.ids["run"], mine.ids["adapter"])
    made = World(root, app, {}, secret, system, things, found, holder, rooms)
    _MADE.append(made)
    run(_enter(made))
    # Where a test has given both one room, the other's page was never made.
    made.rooms.update({who: room.app or of["A"].app for who, room in of.items()})
    return made


async def _enter(made: World) -> None:
    """Log both in, and drop two files on each one's page."""
    await _live(made)
    for who, name in NAMES.items():
        made.cookies[who] = await logged_in(made.app, name, PASSWORDS[name])
        for shade in (1, 2):
            content = access_things.png(made.things[who].canary, (shade, 2, 3))
            answer = await made.ask(upload("/gradio_api/upload", "dropped.png", content), who)
            assert answer.status == 200, answer
            made.things[who].uploads.append(str(answer.json()[0]))
        made.things[who].addresses["upload"] = f"/gradio_api/file={made.things[who].uploads[0]}"
