"""Access: what strangers, and people with an account, get of what isn't theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tests.faults import access_logins, access_sessions, access_shown, access_sources, access_world
from tests.faults.access_rooms import changes_run, rooms_run
from tests.faults.access_routes import routes_run
from tests.faults.suites import Check, Suite

if TYPE_CHECKING:
    from pytest import MonkeyPatch


# ── Safeguards taken away


def _anew(patch: MonkeyPatch) -> None:
    """What is taken away acts while the studio is made."""
    patch.setattr(access_world, "_WORLDS", {})


def no_login(patch: MonkeyPatch) -> None:
    """Who has no login comes in as the machine's person."""
    from studio.login import Login

    let_in = Login.let_in

    async def let_all_in(self: Login, scope: Any, receive: Any, send: Any, root: str) -> bool:
        own = any(name in (b"cookie", b"authorization") for name, _ in scope["headers"])
        if own or scope["path"] == "/login":
            return await let_in(self, scope, receive, send, root)
        scope["pigment.user"] = "ana"
        return True

    patch.setattr(Login, "let_in", let_all_in)


def one_room(patch: MonkeyPatch) -> None:
    """All accounts have one room, as they had."""
    from studio.rooms import Rooms

    call = Rooms.__call__

    async def shared(self: Rooms, scope: Any, receive: Any, send: Any) -> None:
        await call(
            self, {**scope, "pigment.user": "ana"} if "pigment.user" in scope else scope, receive, send
        )

    patch.setattr(Rooms, "__call__", shared)


def one_folder(patch: MonkeyPatch) -> None:
    """All rooms have one folder of uploads, as Gradio has it."""
    from studio import apart

    _anew(patch)
    patch.setattr(apart, "uploads_in", lambda folder: _Nothing())


class _Nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def links(patch: MonkeyPatch) -> None:
    """Links in the workspace are followed."""
    from fastapi import HTTPException
    from fastapi.responses import FileResponse

    from studio.routes import files

    def followed(path: Any, why: str | None = None, **options: Any) -> FileResponse:
        if not path.is_file():
            raise HTTPException(404)
        return FileResponse(path, **options)

    patch.setattr(files, "sent", followed)


def copies(patch: MonkeyPatch) -> None:
    """Gradio doesn't ask whether a file that is named was uploaded, as it doesn't where it is mounted."""
    from studio import narrowing

    _anew(patch)
    narrow = narrowing.narrow

    def trusting(app: Any, uploads: Any) -> Any:
        gradio = narrow(app, uploads)
        gradio.get_blocks().has_launched = False
        return gradio

    patch.setattr(narrowing, "narrow", trusting)


def stumbling(patch: MonkeyPatch) -> None:
    """What Gradio's routes stumble over is an answer of 500."""
    from studio import narrowing

    _anew(patch)
    patch.setattr(narrowing, "forgive", lambda gradio: None)


def all_paths(patch: MonkeyPatch) -> None:
    """Gradio may serve every file of the machine."""
    import gradio

    _anew(patch)
    mount = gradio.mount_gradio_app

    def allowing(*args: Any, **options: Any) -> Any:
        return mount(*args, allowed_paths=["/"], **options)

    patch.setattr(gradio, "mount_gradio_app", allowing)


def _figure(figures: Mapping[str, Mapping[str, float]]) -> str:
    found = figures.get("guessing", {})
    alone, all_ = (found.get(f"guesses an hour from {where}") for where in ("one address", "ever new places"))
    return (
        ""
        if alone is None or all_ is None
        else f"{alone:.0f} guesses an hour from one address, {all_:,.0f} from ever new ones"
    )


SUITE = Suite(
    title="what isn't theirs, for strangers and for people with an account",
    figure=_figure,
    checks={
        "routes": Check(
            title="every route and function × payloads × {nobody, A, B}",
            run=access_world.quietly(routes_run), unit="requests", full=150_000, short=450, planted=240,
            plants={
                "one room": one_room, "no login": no_login, "links": links, "copies": copies,
                "stumbling": stumbling, "all paths": all_paths,
            },
        ),
        "rooms": Check(
            title="each thing of A and B, asked for by others in every way",
            run=access_world.quietly(rooms_run), unit="requests", full=300, short=60,
            plants={"one room": one_room, "no login": no_login, "one folder": one_folder},
        ),
        "changes": Check(
            title="what changes A's and B's things, done by others",
            run=access_world.quietly(changes_run), unit="changes", full=48, short=24,
            plants={"one room": one_room, "no login": no_login},
        ),
        "sources": Check(
            title="host × origin × site on all that changes something, and on web sockets",
            run=access_world.quietly(access_sources.sources_run), unit="requests", full=50_000, short=576,
            plants=access_sources.PLANTS,
        ),
        "guessing": Check(
            title="passwords guessed for an hour, and whom that keeps out",
            run=access_logins.guessing_run, unit="hours of guesses", full=9, short=6,
            plants=access_logins.PLANTS, planted=7,
        ),
        "sessions": Check(
            title="another's session: planted, taken over, forged, forgotten",
            run=access_sessions.sessions_run, unit="tries", full=700, short=14,
            plants=access_sessions.PLANTS,
        ),
        "shown": Check(
            title="HTML in whatever people write, in a real browser",
            run=access_shown.shown_run, unit="texts", full=300, short=0, planted=44,
            plants=access_shown.PLANTS, needs=access_shown.needs,
        ),
    },
)  # fmt: skip
