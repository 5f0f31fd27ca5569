"""What of Gradio is open: the routes that the page and the API use; nothing that fetches an address.

Gradio brings many more: it edits its own source by wish, proxies, keeps runs in buckets, measures.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError
from studio.apart import Apart, living
from studio.kept_pages import KeptPages
from studio.misasked import Ended, forgive

OPEN = re.compile(
    r"/|/(config|theme\.css|manifest\.json|robots\.txt|favicon\.ico)/?"
    r"|/(assets|static|svelte)/.+"
    r"|/gradio_api/(info|openapi\.json|queue/join|queue/data|upload|upload_progress|reset|cancel|startup-events"
    r"|app_id|login_check|theme\.css|component_server)/?"
    r"|/gradio_api/heartbeat/.+"
    r"|/gradio_api/file=(?!https?:).+"
)
"""Paths, from their beginning to their end."""
CALL = "/gradio_api/call/"
LONGEST = 255  # bytes of a file's name


class Narrowed:
    """ASGI layer: Gradio answers on the paths of OPEN; whatever else it has isn't there.

    By their names only public endpoints can be called: private ones Gradio merely doesn't mention.
    """

    def __init__(self, app: Any, public: Collection[str]) -> None:
        self.app, self.public = app, public

    def open(self, path: str) -> bool:
        """Whether something answers there; what no file can be called, Gradio would break over."""
        if any(len(part.encode("utf-8", "replace")) > LONGEST for part in path.split("/")):
            return False
        if path.startswith(CALL):
            return path.removeprefix(CALL).removeprefix("v2/").partition("/")[0] in self.public
        return OPEN.fullmatch(path) is not None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/")) or "/"
            if not self.open(path):
                from starlette.responses import PlainTextResponse

                await PlainTextResponse("there is nothing here\n", 404)(scope, receive, send)
                return
        await self.app(scope, receive, send)


async def _fetch_nothing(url: str) -> Any:
    """Instead of Gradio's fetching of addresses that stand in the place of files."""
    raise ConfigError("files are sent, not fetched from an address; upload it")


def narrow(app: Any, uploads: Path) -> Any:
    """Narrow the Gradio app that was mounted last on `app`; returns it. uploads: its folder for them."""
    from gradio import processing_utils
    from starlette.routing import Mount

    processing_utils.async_ssrf_protected_get = _fetch_nothing
    mount: Any = next(route for route in reversed(app.routes) if isinstance(route, Mount))
    blocks = mount.app.get_blocks()
    # Gradio asks whether a file that is named was uploaded, but not where the page is mounted on another app:
    # there it would copy any file of this machine into its folder, and go on with the copy.
    blocks.has_launched = True
    functions = blocks.fns.values()
    public = {own.api_name for own in functions if own.api_visibility == "public"}
    forgive(mount.app)
    gradio, mount.app = mount.app, Narrowed(KeptPages(Apart(Ended(mount.app), uploads)), public)
    living(app, uploads)
    return gradio
