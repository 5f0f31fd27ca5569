"""/api: the studio's and its jobs' status, cheap enough for many programs that look once a second."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from pipelines.errors import WorkspaceError
from studio.answers import job_answer, status_answer
from studio.context import Context

FRESH = 0.5  # seconds that an answer serves all who ask
KEPT = 256  # answers


@dataclass
class Shared:
    """Answers that were made lately, as JSON; each is made by one at a time, however many ask."""

    _kept: OrderedDict[str, tuple[float, int, bytes]] = field(default_factory=OrderedDict)
    _making: dict[str, asyncio.Task[tuple[int, bytes]]] = field(default_factory=dict)

    async def answer(self, key: str, make: Callable[[], Any]) -> Response:
        """The kept answer, or a new one. A WorkspaceError becomes a 404 with its line."""
        kept = self._kept.get(key)
        if kept is None or time.monotonic() - kept[0] > FRESH:
            if key not in self._making:
                self._making[key] = asyncio.create_task(asyncio.to_thread(_made, make))
            try:
                status, body = await asyncio.shield(self._making[key])
            finally:
                self._making.pop(key, None)
            self._kept[key] = kept = (time.monotonic(), status, body)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        headers = {"Cache-Control": "no-store"}
        return Response(kept[2], kept[1], headers, "application/json")


def _made(make: Callable[[], Any]) -> tuple[int, bytes]:
    try:
        return 200, json.dumps(make()).encode()
    except WorkspaceError as error:
        return 404, json.dumps({"error": str(error)}).encode()


def add(app: FastAPI, context: Context) -> None:
    """Put the routes on; they are Starlette's own, which ask no more of a request than its path."""
    shared = Shared()

    async def status(request: Request) -> Response:
        return await shared.answer("", lambda: status_answer(context))

    async def job(request: Request) -> Response:
        job_id = str(request.path_params["job_id"])[:64]
        return await shared.answer(job_id, lambda: job_answer(context, context.jobs.get(job_id)))

    app.add_route("/api/status", status, methods=["GET"])
    app.add_route("/api/jobs/{job_id}", job, methods=["GET"])
