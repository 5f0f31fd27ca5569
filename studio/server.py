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

from fastapi import FastAPI

from pipelines.errors import Busy, ConfigError
from studio.bases import BaseOptions
from studio.context import Context
from studio.routes import ROUTES
from studio.runner import Runner
from studio.workspace import Workspace

log = logging.getLogger("pigment")

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[..., Awaitable[Any]], Callable[..., Awaitable[None]]], Awaitable[None]]

MAX_UPLOAD = "512mb"


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
    for add in ROUTES:
        add(app, context)
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
