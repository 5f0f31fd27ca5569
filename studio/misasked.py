"""Requests that routes stumble over: answered as the mistake of who asked, in one line.

A component that isn't there, a page of another app, arguments that no verb has: Gradio looks them up and
breaks. And FastAPI says what was wrong with a body by repeating it, which breaks where it holds what JSON
can't. Without this each was an answer of 500 and a traceback in the server's output.
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


def say_plainly(app: Any) -> None:
    """Let an app say in one line what is wrong with a request, without repeating what was sent."""
    from fastapi.exceptions import RequestValidationError
    from starlette.responses import JSONResponse

    async def answer(request: Any, error: RequestValidationError) -> Any:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"][1:])[:80]
        line = f"{place or first['loc'][0]}: {first['msg'][:200]}".encode("utf-8", "replace").decode()
        return JSONResponse({"detail": line}, 422)

    app.add_exception_handler(RequestValidationError, answer)


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
            if _STARTED not in str(error):
                raise
            if not begun:  # what compresses answers has held its beginning back
                from starlette.responses import PlainTextResponse

                await PlainTextResponse("there is nothing here\n", 404)(scope, receive, send)
            elif not over:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
