"""/parts: pieces of the page by name, answered when one differs from what the browser has."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from studio.context import Context
from studio.parts import PARTS, PATIENCE, Watch


class Ask(BaseModel):
    """A part that a browser shows, and the hash of what it has of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: str
    key: str = Field(default="", max_length=2000)
    seen: str = Field(default="", max_length=40)


def add(app: FastAPI, context: Context) -> None:
    """Put the route on."""
    watch = Watch(context)

    @app.post("/parts")
    async def parts(
        asks: Annotated[list[Ask], Field(max_length=16)],
        wait: Annotated[float, Query(allow_inf_nan=False)] = PATIENCE,
    ) -> JSONResponse:
        if any(ask.part not in PARTS for ask in asks):
            raise HTTPException(404)
        wanted = [(ask.part, ask.key, ask.seen) for ask in asks]
        answers = await watch.changed(wanted, min(max(wait, 0.0), PATIENCE))
        return JSONResponse(answers, headers={"Cache-Control": "no-store"})
