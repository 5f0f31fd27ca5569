"""What Gradio has once per process, kept apart by rooms: the folder of uploads, how far each upload is, and
the names of what it does.

Gradio asks for its folder again at each use, from the environment; so one account could use the upload of
another by its path. Here the answer goes with whatever is done for a room: its requests, its lifespan, what
is begun in them.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

_HERE: ContextVar[str] = ContextVar("pigment_uploads", default="")


@contextmanager
def uploads_in(folder: Path) -> Iterator[None]:
    """What is done meanwhile, and begun meanwhile, has a folder for Gradio's uploads."""
    token = _HERE.set(str(folder))
    try:
        yield
    finally:
        _HERE.reset(token)


class Apart:
    """ASGI layer: requests of one room."""

    def __init__(self, app: Any, uploads: Path) -> None:
        self.app, self.uploads = app, uploads

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with uploads_in(self.uploads):
            await self.app(scope, receive, send)


def living(app: Any, uploads: Path) -> None:
    """Let an app's lifespan, in which Gradio begins to work off events, be of one room."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
        with uploads_in(uploads):
            context: AbstractAsyncContextManager[Any] = inner(app)
            async with context as state:
                yield state

    app.router.lifespan_context = lifespan


class _Statuses:
    """Stands for Gradio's record of how far uploads are: that of the room in which it is asked."""

    def __init__(self, kind: Any) -> None:
        self._of: defaultdict[str, Any] = defaultdict(kind)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of[_HERE.get()], name)


def keep_apart() -> None:
    """Teach Gradio, which is imported already, to ask; once is enough."""
    from gradio import queueing, routes, utils

    original = utils.get_upload_folder
    if getattr(original, "of_rooms", False):
        return

    def get_upload_folder() -> str:
        return _HERE.get() or original()

    get_upload_folder.of_rooms = True  # type: ignore[attr-defined]
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "gradio" and vars(module).get("get_upload_folder") is original:
            vars(module)["get_upload_folder"] = get_upload_folder
    vars(routes)["file_upload_statuses"] = _Statuses(type(routes.file_upload_statuses))

    def set_task_name(task: Any, session_hash: str, *rest: Any) -> None:
        utils.set_task_name(task, f"{_HERE.get()}:{session_hash}", *rest)

    async def cancel_tasks(task_ids: set[str]) -> list[str]:
        return await utils.cancel_tasks({f"{_HERE.get()}:{one}" for one in task_ids})

    # By these names any task of the process is cancelled, and programs choose the hashes of their sessions.
    vars(queueing)["set_task_name"] = set_task_name
    vars(routes)["cancel_tasks"] = cancel_tasks
