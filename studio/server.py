"""The web server: the page, files by id, and a guard that lets nobody else's page talk to it."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse

from pipelines.errors import AdapterError, Busy, ConfigError, WorkspaceError
from pipelines.formats import FORMATS
from studio.bases import BaseOptions
from studio.context import Context
from studio.examples import example_sets
from studio.runner import Runner
from studio.workspace import Workspace

log = logging.getLogger("pigment")

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[..., Awaitable[Any]], Callable[..., Awaitable[None]]], Awaitable[None]]

MAX_UPLOAD = "512mb"
_ID = re.compile(r"[0-9a-z-]{1,40}")
_PREVIEW = re.compile(r"[A-Za-z0-9_-]{1,80}\.png")


class Guard:
    """ASGI guard: only requests that name this machine as their host, and come from this page, pass.

    A page elsewhere can't reach the studio through a browser, neither by DNS rebinding (its Host isn't ours)
    nor by a cross-site request (its Origin isn't our host).
    """

    def __init__(self, app: App, hosts: frozenset[str]) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket") and not self.allowed(scope):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            head = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": head})
            await send(
                {"type": "http.response.body", "body": b"refused: open the studio by its own address\n"}
            )
            return
        await self.app(scope, receive, send)

    def allowed(self, scope: Scope) -> bool:
        """Host is one of ours; Origin, where there is one, is the same."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
        origin = headers.get(b"origin")
        same = origin is None or origin.partition("://")[2] == host
        return name in self.hosts and same


def add_files(app: FastAPI, context: Context) -> None:
    """The routes under /files: things of the workspace by id, never by path."""
    workspace, jobs, library = context.workspace, context.jobs, context.library

    def checked(value: str, pattern: re.Pattern[str] = _ID) -> str:
        if not pattern.fullmatch(value):
            raise HTTPException(404)
        return value

    def send(path: Path, name: str | None = None, *, media: str | None = None) -> FileResponse:
        if not path.is_file():
            raise HTTPException(404)
        headers = {"Cache-Control": "private, max-age=31536000, immutable"} if name is None else {}
        return FileResponse(path, filename=name, media_type=media, headers=headers)

    @app.get("/files/image/{image_id}")
    def image(image_id: str) -> FileResponse:
        return send(workspace.folder("images", f"{checked(image_id)}.png"))

    @app.get("/files/preview/{job_id}/{name}")
    def preview(job_id: str, name: str) -> FileResponse:
        return send(workspace.folder("runs", checked(job_id), "previews", checked(name, _PREVIEW)))

    @app.get("/files/picture/{job_id}/{number}")
    def picture(job_id: str, number: int) -> FileResponse:
        found = sorted(workspace.folder("pictures", checked(job_id)).glob(f"{number:03d}.*"))
        return send(next((path for path in found if path.suffix != ".txt"), Path("missing")))

    @app.get("/files/example/{set_id}/{number}")
    def example(set_id: str, number: int) -> FileResponse:
        pictures = [path for one in example_sets() if one.id == set_id for path in one.pictures]
        if not 0 <= number < len(pictures):
            raise HTTPException(404)
        return send(pictures[number])

    @app.get("/files/adapter/{adapter_id}")
    def adapter(adapter_id: str) -> FileResponse:
        try:
            entry = library.get(checked(adapter_id))
        except AdapterError:
            raise HTTPException(404) from None
        return send(entry.path, entry.file_name, media="application/octet-stream")

    @app.get("/files/export/{adapter_id}/{format}")
    def export(adapter_id: str, format: str) -> FileResponse:
        try:
            entry = library.get(checked(adapter_id))
        except AdapterError:
            raise HTTPException(404) from None
        if checked(format) not in FORMATS:
            raise HTTPException(404)
        path = context.export_path(entry, format)
        return send(path, path.name, media="application/octet-stream")

    @app.get("/files/run/{job_id}/config.json")
    def config(job_id: str) -> FileResponse:
        try:
            job = jobs.get(checked(job_id))
        except WorkspaceError:
            raise HTTPException(404) from None
        return send(jobs.folder(job) / "config.json", "config.json")


def is_loopback(host: str) -> bool:
    """True for `localhost` and the addresses of this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: `host` is reachable by others, or `port` is no port.
        Busy: something listens there already.
    """
    if not is_loopback(host):
        raise ConfigError(f"host {host!r} can be reached by others; Pigment has no login yet, use 127.0.0.1")
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


def make_app(context: Context) -> FastAPI:
    """The web application: files by id and the page at `/`."""
    os.environ["GRADIO_TEMP_DIR"] = str(context.workspace.uploads)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr

    from studio.build import build, look

    app = FastAPI(title="Pigment", docs_url=None, redoc_url=None, openapi_url=None)
    add_files(app, context)
    return gr.mount_gradio_app(
        app,
        build(context),
        path="/",
        footer_links=[],
        max_file_size=MAX_UPLOAD,
        show_error=True,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        **look(),
    )


def serve(
    *, host: str, port: int, workspace: str | Path | None, base: str = "pocket",
    options: BaseOptions | None = None,
) -> int:  # fmt: skip
    """Serve the page until SIGINT or SIGTERM; child processes end with it. Returns the exit code.

    Raises:
        StudioError: port, workspace or base can't be used; nothing was started.
    """
    import uvicorn

    listener = bind(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    with listener:
        opened = Workspace.open(workspace, note=address)
        # uvicorn shuts down at a signal and then raises it again: without this, SIGTERM would end the process
        # before the child processes were ended.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        runner = Runner(opened, base=base, options=options)
        try:
            context = Context(opened, runner, base, options or BaseOptions())
            context.library.add_examples()
            app = make_app(context)
            runner.start()
            hosts = frozenset({host, shown, "localhost", "127.0.0.1", "[::1]"})
            config = uvicorn.Config(
                Guard(app, hosts), log_level="warning", timeout_graceful_shutdown=1, ws="auto", lifespan="on"
            )
            print(f"Pigment is at {address}   (workspace {opened.root}; Ctrl-C ends it)", flush=True)
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            pass
        finally:
            for name in (signal.SIGINT, signal.SIGTERM):
                signal.signal(name, signal.SIG_IGN)
            print(
                "\nPigment is ending; a running training keeps its last step and can be resumed", flush=True
            )
            runner.close()
            opened.close()
    return 0
