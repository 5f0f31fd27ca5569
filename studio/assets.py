"""Gradio's scripts, styles and fonts from memory: they make up most of what opening the page asks for.

Gradio answers each through its whole stack and compresses it anew; here a name that is one of its files is
answered at once, to be kept by the browser for good, since the names carry hashes.
"""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Any

FOLDERS = {"/assets/": "assets", "/static/fonts/": "static/fonts"}
LARGEST = 1 << 20  # bytes of a file that is kept in memory
_KIND = {".js": "text/javascript", ".woff2": "font/woff2", ".woff": "font/woff"}


class Assets:
    """ASGI layer that answers for files of Gradio's frontend and hands everything else on."""

    def __init__(self, app: Any, frontend: Path) -> None:
        """frontend: Gradio's `templates/frontend`."""
        self.app = app
        self._files = {
            prefix + path.relative_to(frontend / folder).as_posix(): path
            for prefix, folder in FOLDERS.items()
            for path in (frontend / folder).rglob("*")
            if path.is_file() and path.stat().st_size <= LARGEST
        }
        self._kept: dict[str, bytes] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "GET":
            path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
            if path in self._files:  # only these names: what a browser writes never becomes a path
                await self._answer(path, send)
                return
        await self.app(scope, receive, send)

    async def _answer(self, name: str, send: Any) -> None:
        path = self._files[name]
        if name not in self._kept:
            self._kept[name] = path.read_bytes()
        content = self._kept[name]
        kind = _KIND.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(content)).encode()),
            (b"cache-control", b"private, max-age=31536000, immutable"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})
