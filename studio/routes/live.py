"""POST live: the picture that follows a window's sliders; of one window's wishes the newest is drawn.

Answers: 200 with a PNG; 204 where a newer wish of the same window came; 202 where there is no picture, with
one line that says why, and `Retry-After` where it is worth asking again; 422 for what is no wish at all.
A preview that has to wait is no failure: browsers write every 4xx into their console, again and again while
something is being taught.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from pipelines.errors import Busy, ConfigError, StudioError
from studio import mixing
from studio.context import Context
from studio.warm import Answered

LARGEST = 1_000_000  # bytes of a wish
PATIENCE = 30.0  # seconds that a wish waits for pictures that are drawn before it
AGAIN = "4"  # seconds after which a wish that was refused for now is asked once more


class _Wish(BaseModel):
    """What a window asks for. client: its random id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    client: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    request: Any


def add(app: FastAPI, context: Context) -> None:
    """Put the route on."""

    @app.post("/live")
    async def live(request: Request) -> Response:
        try:
            wish = _understood(await _body(request))
        except StudioError as error:
            return _said(422, str(error))
        try:
            answered = await run_in_threadpool(_asked, context, wish)
            # A window that leaves doesn't take the wish back: the next one overtakes it.
            found = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(answered)), PATIENCE)
        except TimeoutError:
            return _said(202, "Other pictures are being drawn; the preview comes back after them", again=True)
        except Busy as error:
            return _said(202, str(error), again=True)
        except StudioError as error:
            return _said(202, str(error))
        if found.get("overtaken"):
            return Response(status_code=204)
        headers = {
            "Cache-Control": "no-store",
            "X-Seconds": f"{found['seconds']:.3f}",
            "X-Number": str(found["number"]),
        }
        return Response(base64.b64decode(found["picture"]), media_type="image/png", headers=headers)


async def _body(request: Request) -> bytes:
    """What was sent. Raises: ConfigError for too much."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > LARGEST:
            raise ConfigError(f"the wish has more than {LARGEST:,} bytes; send a smaller one")
    return bytes(found)


def _understood(body: bytes) -> _Wish:
    """What was sent as a wish. Raises: ConfigError."""
    try:
        return _Wish.model_validate(json.loads(body))
    except (ValidationError, ValueError, RecursionError):
        raise ConfigError('a wish isn\'t understood; send {"client": "…", "request": {…}} as JSON') from None


def _asked(context: Context, wish: _Wish) -> Answered:
    """Pass a wish on to the drawing process.

    Raises:
        ConfigError, AdapterError: it can't be drawn. Busy: something else has the device.
    """
    request = mixing.read_request(wish.request)
    request = mixing.checked(context, request.model_copy(update={"axes": (), "compare": False}))
    if taken := mixing.occupied(context):
        raise Busy(f"{taken[0].upper()}{taken[1:]}; the preview comes back after it")
    return context.runner.maker.submit(
        "live", client=wish.client, request=request.model_dump(mode="json"), base=context.base
    )


def _said(status: int, line: str, *, again: bool = False) -> Response:
    headers = {"Cache-Control": "no-store", **({"Retry-After": AGAIN} if again else {})}
    return Response(f"{line}\n", status, media_type="text/plain; charset=utf-8", headers=headers)
