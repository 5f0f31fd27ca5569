"""Sending a file of the workspace: the file itself, never what a link in its place leads to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import HTTPException
from fastapi.responses import FileResponse


def sent(path: Path | None, why: str | None = None, **options: Any) -> FileResponse:
    """The answer that holds a file. why: said where there is none. options: of FileResponse.

    Pigment makes no links; one that lies where a file of ours should leads somewhere that wasn't asked for.

    Raises: HTTPException: there is none, or it is a link.
    """
    if path is None or path.is_symlink() or not path.is_file():
        raise HTTPException(404, why)
    return FileResponse(path, **options)
