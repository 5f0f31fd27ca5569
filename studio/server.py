"""The web server: the page, files by id, and a guard that lets nobody else's page talk to it."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
import re
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from pipelines.errors import Busy, ConfigError
from studio.accounts import Accounts
from studio.apart import keep_apart, uploads_in
from studio.assets import Assets
from studio.bases import BaseOptions
from studio.context import Context
from studio.full_disk import say_when_full
from studio.guard import Guard, Hosts, host_name, is_loopback
from studio.login import Login, head
from studio.misasked import say_plainly
from studio.rooms import Rooms
from studio.routes import ROUTES
from studio.starting import import_gradio
from studio.workspace import Workspace

log = logging.getLogger("pigment")

MAX_UPLOAD = "2gb"
"""Of one file that is dropped on the page; the largest adapters people share are about as long."""


@dataclass(frozen=True, kw_only=True)
class Doors:
    """Where the server listens, and whom it lets in.

    Attributes:
        port: 0 takes a free one.
        auth: `user:password`, or a file of such lines; empty: no accounts, which only this machine may have.
        root_path: the path below which a proxy shows the page, or its whole address; empty: the root.
        allow_hosts: names that a proxy calls the studio.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    auth: str = ""
    root_path: str = ""
    allow_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises: ConfigError: the root path is none."""
        if not re.fullmatch(r"(https?://[A-Za-z0-9.:\[\]_-]+)?(/[A-Za-z0-9._~-]+)*/?", self.root_path):
            raise ConfigError(
                f"root path {self.root_path[:80]!r} is none; say --root-path /pigment, or the page's whole "
                "address: --root-path https://studio.example.org/pigment"
            )

    @property
    def prefix(self) -> str:
        """The path of the root path: "/pigment"; empty for the root."""
        return re.sub(r"^https?://[^/]*", "", self.root_path).rstrip("/")

    def hosts(self) -> Hosts:
        """The names the studio answers to. Raises: ConfigError: one of them is no name."""
        also = self.allow_hosts
        if "://" in self.root_path:
            also = (*also, host_name(self.root_path.partition("://")[2].partition("/")[0]))
        return Hosts.of(self.host, also)

    def login(self, port: int) -> Login | None:
        """Who may use it; None for anybody on this machine. Raises: ConfigError: see `Accounts.read`."""
        return Login(Accounts.read(self.auth), f"pigment-{port}") if self.auth else None


def bind(host: str, port: int, *, guarded: bool = False) -> socket.socket:
    """A listening socket. guarded: whoever comes needs a password.

    Raises:
        ConfigError: `host` is reachable by others and needs no password, or `port` is no port.
        Busy: something listens there already.
    """
    if not guarded and not is_loopback(host):
        raise ConfigError(
            f"host {host!r} can be reached by others; give a password with --auth user:password "
            "(or a file with it), or use 127.0.0.1"
        )
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port} is no port; choose one from 1024 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if os.name != "nt":  # there the option would let two servers share the port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Busy(
                f"port {port} is in use; end what listens there, or choose another with --port"
            ) from None
        raise ConfigError(
            f"{host}:{port} can't be listened on: {error.strerror}; choose another --port"
        ) from None
    return listener


def make_app(context: Context, root_path: str = "", *, accounts: bool = False) -> FastAPI:
    """The web application: files by id and the page at `/`. root_path: see `Doors`. accounts: whether people
    log in, and so may want to log out."""
    uploads = context.workspace.uploads
    # What isn't done for a room has a folder that is nobody's, where there may be several.
    nobodys = context.workspace.machine.folder("cache", "nobodys")
    os.environ["GRADIO_TEMP_DIR"] = str(nobodys if accounts else uploads)
    gr = import_gradio()
    from studio.build import build, look
    from studio.narrowing import narrow

    keep_apart()
    app = FastAPI(title="Pigment", docs_url=None, redoc_url=None, openapi_url=None)
    say_plainly(app)
    for add in ROUTES:
        add(app, context)
    shown = look()
    shown["head"] = head(accounts) + shown["head"]
    with uploads_in(uploads):
        gr.mount_gradio_app(
            app,
            build(context),
            path="/",
            footer_links=[],
            max_file_size=MAX_UPLOAD,
            show_error=True,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            run_history=False,
            root_path=root_path or None,
            **shown,
        )
    app.state.gradio = narrow(app, uploads)
    for one in (app, app.state.gradio):
        say_when_full(one, context.workspace.root)
    return app


def frontend() -> Path:
    """Where Gradio's scripts, styles and fonts lie."""
    return Path(str(import_gradio().__file__)).parent / "templates" / "frontend"


def server(config: Any, context: Context, app: FastAPI, rooms: Rooms | None = None) -> Any:
    """uvicorn's server; when it ends it lets go those who wait, so that it needn't cut them off.

    rooms: what ends with it, beside this context and its page.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            context.closing.set()
            app.state.gradio.stop_event.set()  # its streams to the pages
            if rooms is not None:
                rooms.stop_streams()
            # Who waits for the drawing process, waits in a thread, which has to end as well.
            begin_closing = (rooms or context.runner).begin_closing
            ending = asyncio.get_running_loop().run_in_executor(None, begin_closing)
            await super().shutdown(sockets)
            await ending

    return Server(config)


def serve(
    doors: Doors, *, workspace: str | Path | None, base: str = "", options: BaseOptions | None = None
) -> int:
    """Serve the page until SIGINT or SIGTERM; child processes end with it. Returns the exit code.

    base: empty: the one that the workspace remembers.

    Raises:
        StudioError: port, workspace, base or password can't be used; nothing was started.
    """
    import uvicorn

    hosts, guarded = doors.hosts(), bool(doors.auth)
    listener = bind(doors.host, doors.port, guarded=guarded)
    with listener:
        port = listener.getsockname()[1]
        login = doors.login(port)
        shown = f"[{doors.host}]" if ":" in doors.host else doors.host
        address = f"http://{shown}:{port}{doors.prefix}"
        opened = Workspace.open(workspace, note=address)
        # uvicorn shuts down at a signal and then raises it again: without this, SIGTERM would end the process
        # before the child processes were ended.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        rooms: Rooms | None = None
        try:
            make = functools.partial(make_app, root_path=doors.root_path.rstrip("/"), accounts=guarded)
            names = login.accounts.names if login is not None else ()
            rooms = Rooms(opened, make, names=names, base=base, options=options, note=address)
            rooms.begin()  # the base loads while the page is built
            rooms.build()
            config = uvicorn.Config(
                Guard(Assets(rooms, frontend()), hosts, login, doors.prefix),
                log_level="warning", access_log=False, timeout_graceful_shutdown=1, ws="auto", lifespan="on",
            )  # fmt: skip
            print(f"Pigment is at {address}   (workspace {opened.root}; Ctrl-C ends it)", flush=True)
            if not is_loopback(doors.host):
                print("Passwords can be read on the way there: put a proxy with HTTPS in front", flush=True)
            server(config, rooms.machine.context, rooms.machine.app, rooms).run(sockets=[listener])
        except KeyboardInterrupt:
            pass
        finally:
            for name in (signal.SIGINT, signal.SIGTERM):
                signal.signal(name, signal.SIG_IGN)
            print(
                "\nPigment is ending; a running training keeps its last step and can be resumed", flush=True
            )
            if rooms is not None:
                rooms.close()
            opened.close()
    return 0
