"""Requests that Gradio's own routes stumble over: answered as the mistake of who asked, in one line.

A component that isn't there, a page of another app, arguments that no verb has: Gradio looks them up and
breaks. Without this each was an answer of 500 and a traceback in the server's output.
"""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger("pigment")

MISTAKES = (LookupError, TypeError, ValueError, AttributeError)
"""What a request that isn't understood makes Gradio raise; what our own code raises never comes to there."""
_STARTED = "response already started"  # said by Starlette of an error in a stream that has told it itself


def forgive(gradio: Any) -> None:
    """Let Gradio's app, which nobody has asked yet, answer 400 where it would break."""
    from starlette.responses import JSONResponse

    async def answer(request: Any, error: Exception) -> Any:
        path, kind = str(request.url.path)[:200], type(error).__name__
        log.warning("not understood: %s %r (%s)", request.method, path, kind)
        return JSONResponse({"detail": f"this request isn't understood ({kind}); reload the page"}, 400)

    for mistake in MISTAKES:
        gradio.add_exception_handler(mistake, answer)


class Ended:
    """ASGI layer: a stream that has said what went wrong ends, instead of breaking off with a traceback."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        begun, over = False, False

        async def noted(message: Any) -> None:
            nonlocal begun, over
            begun |= message["type"] == "http.response.start"
            over |= message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except RuntimeError as error:
            if not begun or _STARTED not in str(error):
                raise
            if not over:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
