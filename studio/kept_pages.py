"""The page itself from memory: for each who asks Gradio makes it anew, from a deep copy of all it holds."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

PATHS = ("/", "/config")
ALIKE = (b"host", b"origin", b"x-forwarded-host", b"x-forwarded-proto", b"accept-encoding")
"""What of a request's headers an answer depends on: the addresses in it, who may read it, its packing."""
KEPT = 8  # answers
LARGEST = 4 << 20  # bytes of one

Key = tuple[Any, ...]


class KeptPages:
    """ASGI layer: the answer to a request on PATHS without a query is that for all who ask alike."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._kept: OrderedDict[Key, list[dict[str, Any]]] = OrderedDict()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        key = _key(scope)
        if key is None:
            await self.app(scope, receive, send)
            return
        if key in self._kept:
            self._kept.move_to_end(key)
            for message in self._kept[key]:
                await send({**message})
            return
        said: list[dict[str, Any]] = []

        async def noted(message: Any) -> None:
            said.append({**message})
            await send(message)

        await self.app(scope, receive, noted)
        if _for_all(said):
            self._kept[key] = said
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)


def _key(scope: Any) -> Key | None:
    """What an answer depends on; None: it isn't one of those that are kept."""
    if scope["type"] != "http" or scope["method"] != "GET" or scope.get("query_string"):
        return None
    root = scope.get("root_path", "").rstrip("/")
    path = scope["path"].removeprefix(root) or "/"
    if path not in PATHS:
        return None
    asked = tuple((name, value) for name, value in scope["headers"] if name.lower() in ALIKE)
    return path, root, scope.get("scheme"), asked


def _for_all(said: list[dict[str, Any]]) -> bool:
    """Whether an answer is whole, good, and nobody's own."""
    if not said or said[0].get("status") != 200 or said[-1].get("more_body"):
        return False
    if any(name.lower() == b"set-cookie" for name, _ in said[0].get("headers", ())):
        return False
    return sum(len(message.get("body", b"")) for message in said) <= LARGEST
