"""What the server answers where the disk is full: 507 and a line, instead of an error without words."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

LINE = "the disk is full: this couldn't be kept; make room and try again"
ROOM = 1 << 20  # bytes that count as none


def is_full(error: BaseException, root: Path) -> bool:
    """Whether an error comes of a disk without room; SQLite says it in several ways. root: on that disk."""
    from trainers.room import disk_full

    if disk_full(error) is not None:
        return True
    return isinstance(error, sqlite3.OperationalError) and (
        "disk is full" in str(error) or shutil.disk_usage(root).free < ROOM
    )


def say_when_full(app: FastAPI, root: Path) -> None:
    """Let an app answer so; other errors go on as they were. root: a folder on the disk it writes to."""
    from starlette.responses import PlainTextResponse

    async def answer(_: Any, error: Exception) -> PlainTextResponse:
        if not is_full(error, root):
            raise error
        return PlainTextResponse(f"{LINE}\n", 507)

    for kind in (OSError, sqlite3.OperationalError):
        app.add_exception_handler(kind, answer)
